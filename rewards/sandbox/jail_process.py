"""Runs one jail from its start to the death of its last process. rewards/sandbox/jail.py decides what the jail looks like.

    this process ──► bwrap, the monitor ──► a shell, process 1 of the jail ──► the program ──► whatever it starts

Process 1 waits at a gate until this process has set the limits on it, which all others inherit. When it ends, the kernel
kills everything in its process namespace, and only then the monitor sees the end: once the monitor is gone, all are. That is why
process 1 is not bubblewrap's own, which the monitor does not wait for.
"""

from __future__ import annotations

import json
import math
import os
import resource
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from configs.contracts.errors import SandboxError

Ending = Literal["exited", "timeout", "memory", "output", "signal"]

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/scratch", "TMPDIR": "/scratch", "LANG": "C.UTF-8"}

WATCH_INTERVAL_S = 0.05
SETUP_TIMEOUT_S = 30.0
"""Milliseconds, unless the machine is close to standing still."""

OPEN_FILES = 64
"""Each may hold buffers in the kernel that are nobody's resident memory."""

SOCKET_BUFFER_FILE = "/proc/sys/net/core/wmem_default"
"""Bytes that one socket may keep in the kernel, but for one message more: the jail may not change it."""

SCRATCH_FILES = 20_000
"""An empty file takes about a kilobyte of the kernel's memory, which the size of a tmpfs does not count."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run.

    Args:
        wall_s: wall seconds, from the start of the program; more is ending "timeout".
        cpu_s: CPU seconds of one process, rounded up; more is ending "timeout" too. Default: `wall_s` rounded up + 1.
        memory_bytes: address space of one process (its allocation then fails, which programs show as MemoryError or bad_alloc:
            ending "exited", code not 0), and memory of all processes together, looked at every 50 ms (ending "memory"). The
            files in /scratch come on top.
        processes: processes and threads at a time, the program itself included; starting another one fails.
        file_bytes: size of one file; writing more is signal SIGXFSZ, or an error where that is ignored.
        output_bytes: size of stdout and of stderr; more is ending "output".
    """

    wall_s: float = 5.0
    cpu_s: float | None = None
    memory_bytes: int = 512 << 20
    processes: int = 32
    file_bytes: int = 16 << 20
    output_bytes: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run.

    Args:
        stdout: decoded as UTF-8 with replacement characters; at most `output_bytes` of it.
        stderr: as stdout.
        exit_code: 128 + n after signal n.
        ending: "exited" by itself, whatever its code; "signal" where a signal ended it, or where its code says so.
        wall_s: wall seconds that the program ran.
    """

    stdout: str
    stderr: str
    exit_code: int
    ending: Ending
    wall_s: float

    @property
    def ok(self) -> bool:
        """Tell whether it exited with code 0."""
        return self.ending == "exited" and self.exit_code == 0


def execute(bwrap: Sequence[str], command: Sequence[str], descriptors: Sequence[int], stdin: int, limits: Limits) -> Result:
    """Run a command in a jail.

    Args:
        bwrap: the program and its options, without those that this module adds.
        command: process 1 of the jail, and the program that it runs.
        descriptors: what the two refer to.
        stdin: a descriptor of a file, so that nobody need feed it.

    Raises:
        SandboxError: the jail could not be made.
    """
    jail = _Jail(bwrap, command, descriptors, stdin)
    try:
        jail.open_gate(limits)
        ending = jail.watch(limits)
    finally:
        jail.end()
    return jail.result(ending, limits)


class _Jail:
    """The processes of one run."""

    def __init__(self, bwrap: Sequence[str], command: Sequence[str], descriptors: Sequence[int], stdin: int) -> None:
        self._status, status_w = os.pipe()
        gate_r, self._gate = os.pipe()
        options = ["--json-status-fd", str(status_w), "--block-fd", str(gate_r), "--as-pid-1", "--", *command]
        inherited = (status_w, gate_r, *descriptors)
        try:
            self._monitor = subprocess.Popen(
                [*bwrap, *options], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, pass_fds=inherited
            )
        except BaseException:
            os.close(self._status)
            os.close(self._gate)
            raise
        finally:
            os.close(status_w)
            os.close(gate_r)
        assert self._monitor.stdout is not None and self._monitor.stderr is not None
        self._stdout, self._stderr = self._monitor.stdout.fileno(), self._monitor.stderr.fileno()
        self._output = {self._stdout: bytearray(), self._stderr: bytearray()}
        for fd in (*self._output, self._status):
            os.set_blocking(fd, False)
        self._monitor_fd = os.pidfd_open(self._monitor.pid)
        self._first = self._first_fd = -1
        self._started_s = self._ended_s = 0.0
        self._finished = False

    def open_gate(self, limits: Limits) -> None:
        """Limit process 1, and let it start the program. Where there is no process 1, `result` says why."""
        status = self._read_status()
        with suppress(ProcessLookupError, BrokenPipeError):  # bubblewrap failed
            if status:
                self._first = json.loads(status)["child-pid"]
                self._first_fd = os.pidfd_open(self._first)
                _limit(self._first, limits)
            self._started_s = time.monotonic()
            os.write(self._gate, b"1")

    def _read_status(self) -> bytes:
        """The first line of bubblewrap's status, which it writes in pieces; b"" where it failed before."""
        line = bytearray()
        deadline_s = time.monotonic() + SETUP_TIMEOUT_S
        while not line.endswith(b"\n"):
            ready = _readable(self._status, deadline_s - time.monotonic())
            if not ready:
                raise SandboxError(f"bubblewrap did not start within {SETUP_TIMEOUT_S:g} s; is this machine out of memory?")
            data = os.read(self._status, 4096)
            if not data:
                return b""
            line += data
        return bytes(line)

    def watch(self, limits: Limits) -> Ending | None:
        """Collect output until the program ends, or say which limit it broke."""
        deadline_s = self._started_s + limits.wall_s
        look_s = self._started_s + WATCH_INTERVAL_S
        with selectors.PollSelector() as selector:
            for fd in (*self._output, self._monitor_fd):
                selector.register(fd, selectors.EVENT_READ)
            while (now_s := time.monotonic()) < deadline_s:
                if now_s >= look_s:
                    if self._takes_too_much(limits.memory_bytes):
                        return "memory"
                    look_s = time.monotonic() + WATCH_INTERVAL_S
                ready = {key.fd for key, _ in selector.select(max(0.0, min(deadline_s, look_s) - now_s))}
                if self._monitor_fd in ready:
                    return None
                for fd in ready:
                    if not self._read(fd):
                        selector.unregister(fd)
                    if len(self._output[fd]) > limits.output_bytes:
                        return "output"
        return None if _readable(self._monitor_fd, 0.0) else "timeout"  # this process may have been held up itself

    def _read(self, fd: int) -> bytes:
        data = os.read(fd, 1 << 16)
        self._output[fd] += data
        return data

    def _takes_too_much(self, memory_bytes: int) -> bool:
        members = _below(self._first)
        if not members:
            return False  # it is being made, or it ends
        left_bytes = memory_bytes - _socket_bytes(self._first)
        if sum(map(_resident_bytes, members)) > left_bytes and sum(map(_proportional_bytes, members)) > left_bytes:
            return True
        with suppress(OSError):
            scratch = os.statvfs(f"/proc/{self._first}/root/scratch")
            return scratch.f_files - scratch.f_ffree > SCRATCH_FILES
        return False

    def end(self) -> None:
        """Kill what lives, and wait until all of it is gone. What the program had written is read to the end."""
        self._ended_s = time.monotonic()
        if self._first_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
        else:
            for pid in (*_below(self._monitor.pid), self._monitor.pid):  # this order: process 1 may not yet die with the monitor
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._monitor.wait()
        if self._first_fd >= 0:
            os.close(self._first_fd)
        for fd in self._output:
            with suppress(BlockingIOError):
                while self._read(fd):
                    pass
        self._finished = b'"exit-code"' in _read_all(self._status)
        for fd in (self._status, self._gate, self._monitor_fd):
            os.close(fd)
        for stream in (self._monitor.stdout, self._monitor.stderr):
            assert stream is not None
            stream.close()

    def result(self, ending: Ending | None, limits: Limits) -> Result:
        """Make the result of the run, after its end."""
        code = self._monitor.returncode if ending is None else 128 + signal.SIGKILL
        if ending is None:
            if not self._finished:
                said = self._output[self._stderr].decode(errors="replace").strip()
                raise SandboxError(f"bubblewrap could not make a jail for a model's code: {said or f'it ended with code {code}'}")
            ending = self._natural_ending(code, limits)
        texts = [bytes(self._output[fd][: limits.output_bytes]).decode(errors="replace") for fd in (self._stdout, self._stderr)]
        return Result(texts[0], texts[1], code, ending, self._ended_s - self._started_s)

    def _natural_ending(self, code: int, limits: Limits) -> Ending:
        if any(len(output) > limits.output_bytes for output in self._output.values()):
            return "output"
        if code == 128 + signal.SIGXCPU:
            return "timeout"
        return "signal" if 128 < code <= 128 + signal.SIGRTMAX else "exited"


def _limit(pid: int, limits: Limits) -> None:
    """All limits but the size of files, which process 1 sets itself: bubblewrap may still be writing ours."""
    cpu_s = math.ceil(limits.wall_s) + 1 if limits.cpu_s is None else math.ceil(limits.cpu_s)
    processes = limits.processes + (os.geteuid() != 0)  # process 1 counts, where it is not root's
    wanted = {
        resource.RLIMIT_AS: (limits.memory_bytes, limits.memory_bytes),
        resource.RLIMIT_CPU: (cpu_s, cpu_s + 1),
        resource.RLIMIT_NPROC: (processes, processes),
        resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    for kind, (soft, hard) in wanted.items():
        _, most = resource.prlimit(pid, kind)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.prlimit(pid, kind, (soft, hard))


def _below(pid: int) -> list[int]:
    """The processes below `pid`, from the kernel's own lists of children: /proc as a whole may be long."""
    found = list(_children(pid))
    for member in found:
        found.extend(_children(member))
    return found


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as children:
                yield from map(int, children.read().split())


def _socket_bytes(pid: int) -> int:
    """The most that the sockets in the network namespace of a process hold in the kernel: a buffer and one message each."""
    with (
        suppress(OSError, ValueError, IndexError),
        open(f"/proc/{pid}/net/sockstat", "rb") as sockets,
        open(SOCKET_BUFFER_FILE, "rb") as size,
    ):
        return int(sockets.readline().split()[2]) * 2 * int(size.read())
    return 0


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/statm", "rb") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()
    return 0


def _proportional_bytes(pid: int) -> int:
    """Resident memory, in which a page that n processes share counts 1/n for each. Slower than `_resident_bytes`."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:
        for line in rollup:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) << 10
    return _resident_bytes(pid)


def _readable(fd: int, timeout_s: float | None = None) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))


def _read_all(fd: int) -> bytes:
    data = bytearray()
    with suppress(BlockingIOError):
        while chunk := os.read(fd, 4096):
            data += chunk
    return bytes(data)
