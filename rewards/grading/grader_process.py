"""One grader process, seen from the reward worker: its channel, its answers and its output."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from typing import NamedTuple

from rewards.grading.frames import MOST_LINE_BYTES, Forged, read_line
from rewards.grading.messages import Answer, Task

CAPTURED_BYTES = 65_536
"""Output of a grader that is passed on, for each group. The rest is dropped."""

TAIL_BYTES = 2000
"""End of the output that the error of a dead grader quotes."""


class Exited(NamedTuple):
    """The end of a grader process, which comes instead of an answer."""

    code: int

    def __str__(self) -> str:
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"exited with code {self.code}"


class GraderProcess(asyncio.Protocol):
    """One grader process: the channel to it, and the answers that came back."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = _new_key()
        """The key of what it was asked last."""
        self.transport: asyncio.Transport | None = None
        self.answers: asyncio.Queue[Answer | Exited | Forged] = asyncio.Queue()
        self.exited = asyncio.get_running_loop().create_future()
        self._line = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._line += data
        *lines, rest = self._line.split(b"\n")
        for line in lines:
            self.answers.put_nowait(read_line(bytes(line), self.key))
        self._line = bytearray(rest)
        if len(rest) > MOST_LINE_BYTES:
            self.answers.put_nowait(Forged(f"a line of more than {MOST_LINE_BYTES >> 20} MiB"))
            if self.transport:
                self.transport.close()

    def ask(self, task: Task) -> None:
        """Send a task, under a key that no reward has seen."""
        assert self.transport is not None
        self.key = task["key"] = _new_key()
        self.transport.write(json.dumps(task).encode() + b"\n")

    def exit(self, code: int) -> None:
        self.answers.put_nowait(Exited(code))
        if not self.exited.done():
            self.exited.set_result(code)

    async def answer(self, timeout_s: float) -> Answer | Exited | Forged | None:
        """Wait for the next answer. Return None if there is none in time."""
        if not self.answers.empty():
            return self.answers.get_nowait()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.answers.get()
        except TimeoutError:
            await asyncio.sleep(0)  # this process itself may have been held up: read what has arrived
            return None if self.answers.empty() else self.answers.get_nowait()


def _new_key() -> str:
    return secrets.token_hex(16)


class GraderOutput:
    """The output of a grader. It is passed on to stdout up to a limit, and its end is kept for error messages."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._passed = 0
        self.tail = b""
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def drain(self) -> None:
        """Read what is still in the pipe: the end of a process may be known before its last output was read."""
        while self._read():
            pass

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 1 << 20) if self._fd >= 0 else b""
        except BlockingIOError:
            return False
        if not data:
            self.close()
            return False
        self.tail = (self.tail + data[-TAIL_BYTES:])[-TAIL_BYTES:]
        shown = data[: max(0, CAPTURED_BYTES - self._passed)]
        if shown:
            sys.stdout.write(shown.decode(errors="replace"))
            sys.stdout.flush()
        if self._passed < CAPTURED_BYTES <= self._passed + len(data):
            print("\n[rollcast: a reward prints too much; the rest of its output for this group is dropped]", flush=True)
        self._passed += len(data)
        return True

    def new_group(self) -> None:
        self._passed, self.tail = 0, b""

    def close(self) -> None:
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
