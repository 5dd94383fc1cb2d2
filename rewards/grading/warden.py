"""The processes behind rewards/grading/graders.py: a warden, and the graders that it forks.

    reward worker ──control──► warden ──fork──► grader ──fork──► whatever a user's function starts
          ▲                                       │
          └───────────── channel, output ─────────┘

    killer        killed                   when
    warden        a grader and its group   the worker asks (a deadline is over)
    warden        what a grader left       a grader has ended
    warden        everything below itself  the worker has died, even by SIGKILL: the control socket is closed then
    kernel        the graders              the warden has died (PR_SET_PDEATHSIG)

A grader calls rewards on its main thread, and answers over its channel. The warden has loaded what the built-ins need (math-verify,
jieba), so that forking a new grader takes milliseconds.

The warden is a *subreaper*: when a grader dies, its children become the warden's children instead of init's, even a daemon in a session of
its own. So the warden finds them, and kills them.

Standard library only: this must start fast, and a grader must not have torch, vllm or ray in memory.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from rewards.convention.group_input import GroupInput
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.registry import NameAndParams, Reward, load
from rewards.grading.calling import GradeReport, grade_completion, grade_group, named_columns, needed_columns
from rewards.grading.loading import why_not_loaded
from rewards.grading.messages import Ended, Graded, Kill, Loaded, NotLoaded, Spawn, Task, TaskEnded

MOST_MESSAGE_BYTES = 65_536
"""Limit for a message on the control socket, which carries one message in each datagram."""

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Warden:
    """Forks graders, reports their ends, and leaves no process behind.

    It receives `Spawn` and `Kill`, and sends `Ended` (rewards/grading/messages.py).
    """

    def __init__(self, control: socket.socket, rewards: Sequence[NameAndParams], memory_limit_bytes: int) -> None:
        self._control = control
        self._rewards = rewards
        self._memory_limit_bytes = memory_limit_bytes
        self._graders: dict[int, int] = {}  # pid -> number
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_w, False)
        signal.set_wakeup_fd(self._wake_w)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)

    def run(self) -> None:
        """Serve until the reward worker is gone."""
        try:
            while True:
                ready, _, _ = select.select([self._control, self._wake_r], [], [])
                if self._wake_r in ready:
                    os.read(self._wake_r, 4096)
                    self._reap()
                if self._control in ready and not self._obey():
                    break
        except OSError:
            pass  # the worker's end of the control socket is gone
        finally:
            self._graders.clear()
            self._kill_strays()

    def _obey(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self._control, MOST_MESSAGE_BYTES, 2)
        if not message:
            return False
        command: Spawn | Kill = json.loads(message)
        if "spawn" in command:
            self._fork(command, *fds)
            return True
        for pid, number in list(self._graders.items()):
            if number == command["kill"]:
                _kill_group(pid)
        return True

    def _fork(self, command: Spawn, channel: int, output: int) -> None:
        warden = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_grader(warden, channel, output, command["key"])
        self._graders[pid] = command["spawn"]
        os.close(channel)
        os.close(output)

    def _become_grader(self, warden: int, channel: int, output: int, key: str) -> NoReturn:
        """Run the grader, in the forked process. Never return: the warden's stack must not run a second time."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._wake_r)
            os.close(self._wake_w)
            self._control.close()
            _confine(warden, output, self._memory_limit_bytes)
            os.set_inheritable(channel, False)  # programs that a reward starts do not get it
            serve(socket.socket(fileno=channel), self._rewards, key)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            if ended.si_pid in self._graders:
                _kill_group(ended.si_pid)  # before it is reaped: until then no other process can get its id
            _, status = os.waitpid(ended.si_pid, 0)
            number = self._graders.pop(ended.si_pid, None)
            if number is not None:
                self._kill_strays()
                message: Ended = {"number": number, "exit_code": os.waitstatus_to_exitcode(status)}
                self._control.send(json.dumps(message).encode())

    def _kill_strays(self) -> None:
        """Kill every child that is not a grader. The children of a killed one become the warden's, hence the loop."""
        while strays := [pid for pid in _children() if pid not in self._graders]:
            for pid in strays:
                os.kill(pid, signal.SIGKILL)
            for pid in strays:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def _children() -> Iterator[int]:
    me = os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                if (
                    int(stat.read().rpartition(b")")[2].split()[1]) == me
                ):  # after the name, which may contain anything, come state and parent
                    yield int(name)


def _kill_group(pid: int) -> None:
    """Kill a grader and its process group. The grader is killed by its id too: just after the fork it has no group yet."""
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


def _confine(warden: int, output: int, memory_limit_bytes: int) -> None:
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # so that `_has_children` sees daemons too
    if os.getppid() != warden:
        os._exit(1)  # the warden died before PR_SET_PDEATHSIG took effect
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(nothing)
    os.close(output)
    # new objects: the old ones may take the pipe for a file with positions
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    random.seed()


def serve(channel: socket.socket, specs: Sequence[NameAndParams], key: str) -> None:
    """Run a grader: load the rewards, then do tasks until the channel ends. Every message is one line of JSON.

    The grader sends `Loaded` or `NotLoaded`, with `key`, and then for each `Task` one `Graded` for each step, and `TaskEnded`.
    """
    me = os.getpid()
    rewards: list[Reward] = []
    needs: list[list[str]] = []
    reads: list[list[str]] = []
    for name, params in specs:
        try:
            reward, needed, read = _loaded(name, params)
        except BaseException as error:
            _send(channel, NotLoaded(key=key, failed=why_not_loaded(name, error)))
            return
        _require_open(channel, name)
        rewards.append(reward)
        needs.append(needed)
        reads.append(read)
    # a user's function may read all that the calling convention offers, token ids included
    kinds = [(True, reward.needs_token_ids) if isinstance(reward, PerCompletionReward) else (False, True) for reward in rewards]
    _send(channel, Loaded(key=key, loaded=kinds, needs=needs, reads=reads))
    runner = asyncio.Runner()
    for line in channel.makefile("rb"):
        task: Task = json.loads(line)
        group = GroupInput(**task["group"])
        for step, (number, completion) in enumerate(task["steps"]):
            reward = rewards[number]
            if isinstance(reward, PerCompletionReward) and completion is not None:
                report = grade_completion(reward, group, completion)
            else:
                report = grade_group(reward, group, runner)
            if os.getpid() != me:
                os._exit(0)  # a user's function has forked, and the child returned here
            _flush_output()
            _send(channel, _as_message(task["key"], step, report))
        _send(channel, TaskEnded(key=task["key"], left_children=_has_children()))


def _loaded(name: str, params: Mapping[str, object]) -> tuple[Reward, list[str], list[str]]:
    """Load a reward that works on this machine, the columns without which it cannot be called, and those that it may read."""
    reward = load(name, **params)
    if isinstance(reward, PerCompletionReward):
        reward.check_host()
        return reward, [], []
    return reward, needed_columns(name, reward), named_columns(reward)


def _require_open(channel: socket.socket, name: str) -> None:
    """End this grader, with a sentence as its last output, if a reward has closed its channel."""
    try:
        os.fstat(channel.fileno())
    except OSError:
        print(f"reward {name} closed descriptors that it had not opened, when it was imported; let it close its own only", file=sys.stderr)
        os._exit(1)


def _flush_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()


def _as_message(key: str, step: int, report: GradeReport) -> Graded:
    message = Graded(key=key, step=step, values=report.values, outcomes=report.outcomes)
    if report.error:
        message["error"] = report.error
    if report.metrics:
        message["metrics"] = report.metrics
    if report.extras:
        message["extras"] = report.extras
    return message


def _send(channel: socket.socket, message: Mapping[str, object]) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def _has_children() -> bool:
    """Tell whether any child of this process is alive, and reap those that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def main() -> None:
    """`python -m rewards.grading.warden <control fd> <JSON: rewards and memory_limit_bytes>`."""
    control = socket.socket(fileno=int(sys.argv[1]))
    settings = json.loads(sys.argv[2])
    sys.argv = ["grader"]  # a user's module that reads its arguments gets none, not these
    for name, params in settings["rewards"]:
        reward = None if ":" in name else load(name, **params)  # a user's module is imported in graders only
        if isinstance(reward, PerCompletionReward):
            reward.preload()
    Warden(control, settings["rewards"], settings["memory_limit_bytes"]).run()
    os._exit(0)  # skip the interpreter's clean-up: freeing SymPy's caches takes most of a second


if __name__ == "__main__":
    main()
