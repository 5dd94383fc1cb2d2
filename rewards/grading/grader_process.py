"""One grader process as the pool holds it: its channel, its answers, and its output."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import NamedTuple

from rewards.grading.messages import Answer

CAPTURED_BYTES = 65_536
"""So much of the output of one grader and group is passed on; the rest is dropped."""

TAIL_BYTES = 2000
"""So much output is quoted in the error of a grader that died."""


class Exited(NamedTuple):
    """The end of a grader process, in the place of an answer."""

    code: int

    def __str__(self) -> str:
        if self.code < 0:
            return f"was ended by {signal.Signals(-self.code).name}"
        return f"exited with code {self.code}"


class GraderProcess(asyncio.Protocol):
    """One grader process: its channel, its output, and what came back."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.transport: asyncio.Transport | None = None
        self.answers: asyncio.Queue[Answer | Exited] = asyncio.Queue()
        self.exited = asyncio.get_running_loop().create_future()
        self._line = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._line += data
        *lines, rest = self._line.split(b"\n")
        for line in lines:
            self.answers.put_nowait(json.loads(line))
        self._line = bytearray(rest)

    def exit(self, code: int) -> None:
        self.answers.put_nowait(Exited(code))
        if not self.exited.done():
            self.exited.set_result(code)

    async def answer(self, timeout_s: float) -> Answer | Exited | None:
        """The next answer; None when there was none in time."""
        if not self.answers.empty():
            return self.answers.get_nowait()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.answers.get()
        except TimeoutError:
            await asyncio.sleep(0)  # this process may have been held up itself: take what has come meanwhile
            return None if self.answers.empty() else self.answers.get_nowait()


class GraderOutput:
    """The output of a grader: passed on to this process's stdout up to a cap, its end kept for error messages."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._passed = 0
        self.tail = b""
        os.set_blocking(fd, False)
        asyncio.get_running_loop().add_reader(fd, self._read)

    def drain(self) -> None:
        """Take what is still in the pipe: a process's end may be known before its last words were read."""
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
