"""Runs one jail from its start to the death of its last process. rewards/sandbox/jail.py decides what the jail looks like.

                          │ own namespaces: processes, network, IPC, host name, files
    grader ──► monitor ───┼─► process 1 ──► program ──► whatever it starts
               (bwrap)    │   (a shell)     (the model's code)

    killer        killed                  when
    this module   process 1, by SIGKILL   the program breaks a limit, or the run is over
    kernel        the rest of the jail    process 1 has ended: its process namespace ends with it
    kernel        the monitor             the grader dies    } bubblewrap's --die-with-parent
    kernel        process 1               the monitor dies   }

So to kill process 1 is to kill everything, also what the program has moved into a session of its own. The monitor learns of the end of
process 1 only after all others are dead: when the monitor has ended, nothing of the run is left. For this, process 1 must be our shell
(--as-pid-1). The monitor does not wait for the end of bubblewrap's own process 1.

Process 1 first waits at a *gate*, a pipe, until this process has set its limits. All that it starts inherits them.
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
"""Time to make a jail. It takes milliseconds, unless the machine is overloaded."""

OPEN_FILES = 64
"""Limit for one process. Each may hold buffers in the kernel, which are not in the resident memory of any process."""

SOCKET_BUFFER_FILE = "/proc/sys/net/core/wmem_default"
"""Holds the bytes that one socket may keep in the kernel, besides one message. The jail cannot change it."""

SCRATCH_FILES = 20_000
"""Limit for one run. An empty file takes about a kilobyte of the kernel's memory, which the size limit of /scratch does not count."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one run.

    Args:
        wall_s: wall seconds since the start of the program. Beyond it the ending is "timeout".
        cpu_s: CPU seconds of one process, rounded up. Beyond it the ending is "timeout" too. Default: `wall_s` rounded up + 1.
        memory_bytes: two limits. First, the address space of one process: an allocation beyond it fails, and most programs then exit
            with MemoryError or bad_alloc (ending "exited", code not 0). Second, the memory of all processes together, measured
            every 50 ms: beyond it the ending is "memory". Files in /scratch are not counted.
        processes: processes and threads at one time, the program included. Starting another one fails.
        file_bytes: size of one file. A write beyond it raises SIGXFSZ, or fails where the program ignores that signal.
        output_bytes: size of stdout, and of stderr. Beyond it the ending is "output".
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
        stdout: the first `output_bytes` of it, decoded as UTF-8; bytes that are not UTF-8 are replaced.
        stderr: the same for stderr.
        exit_code: the program's exit code, or 128 + n after signal n.
        ending: "exited" if the program ended by itself, with any code; "signal" if a signal ended it, or if its code is 128 + a signal;
            otherwise the limit that it broke.
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
        bwrap: bubblewrap and its options, without those that this module adds.
        command: process 1 of the jail, followed by the program that it runs.
        descriptors: open descriptors whose numbers occur in `bwrap` and `command`.
        stdin: descriptor of a file, not of a pipe: nobody has to write to it while the program runs.

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
        """Set the limits of process 1, and let it start the program. If bubblewrap made no process 1, `result` raises the reason."""
        status = self._read_status()
        with suppress(ProcessLookupError, BrokenPipeError):  # bubblewrap failed in the meantime
            if status:
                self._first = json.loads(status)["child-pid"]
                self._first_fd = os.pidfd_open(self._first)
                _limit(self._first, limits)
            self._started_s = time.monotonic()
            os.write(self._gate, b"1")

    def _read_status(self) -> bytes:
        """The first line of bubblewrap's status, which it writes in pieces; b"" if it failed before."""
        line = bytearray()
        deadline_s = time.monotonic() + SETUP_TIMEOUT_S
        while not line.endswith(b"\n"):
            ready = _readable(self._status, deadline_s - time.monotonic())
            if not ready:
                raise SandboxError(f"bubblewrap made no jail within {SETUP_TIMEOUT_S:g} s; look whether this machine is out of memory")
            data = os.read(self._status, 4096)
            if not data:
                return b""
            line += data
        return bytes(line)

    def watch(self, limits: Limits) -> Ending | None:
        """Collect output until the program ends (None) or breaks a limit (which one)."""
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
        # this process itself may have been held up: a program that has ended meanwhile did not time out
        return None if _readable(self._monitor_fd, 0.0) else "timeout"

    def _read(self, fd: int) -> bytes:
        data = os.read(fd, 1 << 16)
        self._output[fd] += data
        return data

    def _takes_too_much(self, memory_bytes: int) -> bool:
        members = _below(self._first)
        if not members:
            return False  # the jail is being made, or is ending
        # resident memory is quick to read, but counts a shared page once for each process: only where it is too much, ask exactly
        left_bytes = memory_bytes - _socket_bytes(self._first)
        if sum(map(_resident_bytes, members)) > left_bytes and sum(map(_proportional_bytes, members)) > left_bytes:
            return True
        with suppress(OSError):
            scratch = os.statvfs(os.path.join(f"/proc/{self._first}", "root", "scratch"))
            return scratch.f_files - scratch.f_ffree > SCRATCH_FILES
        return False

    def end(self) -> None:
        """Kill what is alive, and wait until nothing is. Read the rest of what the program wrote."""
        self._ended_s = time.monotonic()
        if self._first_fd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
        else:
            # no process 1 is known: bubblewrap is still making it, and perhaps has not tied it to the monitor's life; so children first
            for pid in (*_below(self._monitor.pid), self._monitor.pid):
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
    """Set the limits of process 1, except that of the size of files, which it sets itself: bubblewrap may still be writing our files."""
    cpu_s = math.ceil(limits.wall_s) + 1 if limits.cpu_s is None else math.ceil(limits.cpu_s)
    processes = limits.processes + (os.geteuid() != 0)  # process 1 counts too, unless it is root's
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
    """The processes below `pid`, read from the kernel's lists of children. A search through all of /proc may be slow."""
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
    """The most bytes that the sockets in a process's network namespace can hold in the kernel: a buffer and one message each."""
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
    """Resident memory in which a page shared by n processes counts 1/n for each of them. Slower to read than `_resident_bytes`."""
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
