"""Reward functions that misbehave; each does so where a completion says "attack", and scores 1.0 each otherwise."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


def _attack(act: Callable[[int], Any]) -> Callable[..., Any]:
    def reward(completions: list[str], **kwargs: Any) -> Any:
        if "attack" in completions:
            return act(len(completions))
        return [1.0] * len(completions)

    return reward


def _spin(size: int) -> None:
    while True:
        pass


def _spin_with_the_gil(size: int) -> None:
    ctypes.PyDLL(None).sleep(3600)  # a PyDLL keeps the GIL


def _ignore_signals_and_sleep(size: int) -> None:
    import signal

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(3600)


def _exit(size: int) -> None:
    print("last words")
    os._exit(3)


def _daemon(size: int) -> list[float]:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
        time.sleep(3600)
    return [1.0] * size


def _orphan(size: int) -> list[float]:
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(3600)
        os._exit(0)
    os.waitpid(child, 0)
    return [1.0] * size


def _daemon_and_hang(size: int) -> None:
    _daemon(size)
    _spin(size)


def _return_twice(size: int) -> list[float]:
    os.fork()
    return [1.0] * size


def _print_much(size: int) -> list[float]:
    for _ in range(100):
        print("x" * 1_000_000)
    return [1.0] * size


def _raise(size: int) -> None:
    raise KeyError("no such thing")


def into_the_channel(line: bytes) -> None:
    import socket
    import stat

    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                socket.socket(fileno=os.dup(descriptor)).sendall(line + b"\n")


def _into_the_channel(line: bytes, *, knows_the_key: bool = False) -> Callable[[int], list[float]]:
    def act(size: int) -> list[float]:
        into_the_channel(b'{"key": "%s", %s' % (_key_in_the_frames(), line[1:]) if knows_the_key else line)
        return [1.0] * size

    return act


def _key_in_the_frames() -> bytes:
    """The key of the task, found as no reward finds it by accident."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and "task" not in frame.f_locals:
        frame = frame.f_back
    assert frame is not None
    return frame.f_locals["task"]["key"].encode()


def _spawn(size: int) -> list[float]:
    """1.0 where a program that is started without Python's care finds no socket among its descriptors."""
    looks = (
        "import os, stat\n"
        "for n in range(3, 64):\n"
        "    try:\n"
        "        if stat.S_ISSOCK(os.fstat(n).st_mode): exit(1)\n"
        "    except OSError: pass\n"
    )
    return [float(os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", looks]) == 0)] * size


def _sys_exit(size: int) -> None:
    raise SystemExit(0)


hang = _attack(_spin)
gil_hang = _attack(_spin_with_the_gil)
deaf = _attack(_ignore_signals_and_sleep)
exit_now = _attack(_exit)
sys_exit = _attack(_sys_exit)
segfault = _attack(lambda size: ctypes.string_at(0))
daemon = _attack(_daemon)
orphan = _attack(_orphan)
daemon_and_hang = _attack(_daemon_and_hang)
return_twice = _attack(_return_twice)
allocate = _attack(lambda size: len(bytearray(6 << 30)))
print_much = _attack(_print_much)
raise_error = _attack(_raise)
nan = _attack(lambda size: [float("nan")] + [1.0] * (size - 1))
wrong_length = _attack(lambda size: [1.0] * (size + 1))
unpicklable = _attack(lambda size: [lambda: None] * size)
text = _attack(lambda size: ["1.0"] * size)


def slow(completions: list[str], **kwargs: Any) -> list[float]:
    time.sleep(1.5)
    return [1.0] * len(completions)


def very_slow(completions: list[str], **kwargs: Any) -> list[float]:
    time.sleep(8)
    return [1.0] * len(completions)


forged_keys = _attack(_into_the_channel(b'{"outcomes": ["scored"]}'))
forged_types = _attack(_into_the_channel(b'{"step": 0, "values": ["1", NaN], "outcomes": ["scored", "scored"]}'))
forged_length = _attack(_into_the_channel(b'{"step": 2, "values": [1.0], "outcomes": ["scored"]}', knows_the_key=True))
forged_end = _attack(_into_the_channel(b'{"left_children": false}', knows_the_key=True))
forged_text = _attack(_into_the_channel(b"hello"))
forged_nesting = _attack(_into_the_channel(b"[" * 100_000))
forged_step = _attack(_into_the_channel(b'{"step": 7, "values": [1.0, 1.0], "outcomes": ["scored", "scored"]}', knows_the_key=True))
forged_answer = _attack(_into_the_channel(b'{"step": 2, "values": [9.0, 9.0], "outcomes": ["scored", "scored"]}'))
forged_key = _attack(_into_the_channel(b'{"key": "00", "step": 2, "values": [9.0, 9.0], "outcomes": ["scored", "scored"]}'))
spawn = _attack(_spawn)
