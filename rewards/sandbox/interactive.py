"""A submission and a problem's manager that talk through named pipes, each in a jail of its own.

    jail of the manager  ── m_to_u0 ──►  jail of copy 0 of the submission
                         ◄── u0_to_m ──

The pipes are in a folder that both jails see read-only: no program can make a file there, but all may write to the pipes. Opening one
end of a pipe normally waits until the other end is opened. This process holds both ends of every pipe, so that no program waits,
whatever the order in which it opens them.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rewards.sandbox.jail import Limits, Result
from rewards.sandbox.local import LocalProgram

FOLDER = "/pipes"
"""Folder of the pipes, inside the jails."""

OPENING_S = 2.0
"""Time that a manager may take to open its pipes. So long this process keeps what a submission wrote before it ended: a pipe that nobody
holds loses its content."""

MANAGER_MEMORY_BYTES = 1 << 30

WITH_PIPES_AS_STREAMS = 'read=$1; write=$2; shift 2; exec "$@" <"$read" >"$write"'


def converse(manager: LocalProgram, program: LocalProgram, given: str, *, processes: int, fifo_arguments: bool, limits: Limits) -> Result:
    """Let a manager talk with copies of a program until the manager ends, and return the manager's result.

    The manager's arguments are two pipes for each copy: the one that it reads, and the one that it writes. A copy has its pipes as standard
    input and output. If there are several copies, each has its number as argument.

    Args:
        given: the manager's standard input.
        processes: number of copies of the program.
        fifo_arguments: True if a copy gets the names of its pipes as arguments instead, before its number.
        limits: the limits of each copy. The manager has the same time.
    """
    with _pipes(processes) as (folder, holds):
        started_s, done = time.monotonic(), threading.Event()

        def run_copy(index: int) -> None:
            pipes = [f"{FOLDER}/m_to_u{index}", f"{FOLDER}/u{index}_to_m"]
            number = [str(index)] if processes > 1 else []
            try:
                _run_copy(program, pipes, number, fifo_arguments, limits, folder)
                done.wait(started_s + OPENING_S - time.monotonic())
            finally:
                holds[index].close()  # so that the manager reads the end of the stream

        with ThreadPoolExecutor(processes) as pool:
            copies = [pool.submit(run_copy, index) for index in range(processes)]
            try:
                arguments = [f"{FOLDER}/{name}" for index in range(processes) for name in (f"u{index}_to_m", f"m_to_u{index}")]
                manager_limits = replace(limits, memory_bytes=max(limits.memory_bytes, MANAGER_MEMORY_BYTES))
                result = manager.run(given, limits=manager_limits, arguments=arguments, bind={FOLDER: folder})
            finally:
                done.set()
                for hold in holds:
                    hold.close()
            for copy in copies:
                copy.result()
        return result


def _run_copy(
    program: LocalProgram, pipes: Sequence[str], number: Sequence[str], fifo_arguments: bool, limits: Limits, folder: Path
) -> Result:
    if fifo_arguments:
        return program.run(limits=limits, arguments=[*pipes, *number], bind={FOLDER: folder})
    streams = ("/bin/sh", "-c", WITH_PIPES_AS_STREAMS, "sh", *pipes, *program.command)
    return replace(program, command=streams).run(limits=limits, arguments=number, bind={FOLDER: folder})


class _Hold:
    """Both ends of the two pipes of a copy, held open until `close`, which may be called twice."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._fds = [os.open(path, os.O_RDWR | os.O_CLOEXEC) for path in paths]
        self._lock = threading.Lock()

    def close(self) -> None:
        with self._lock:
            while self._fds:
                os.close(self._fds.pop())


@contextmanager
def _pipes(processes: int) -> Iterator[tuple[Path, list[_Hold]]]:
    with tempfile.TemporaryDirectory(prefix="rollcast-") as name:
        folder = Path(name)
        holds = []
        try:
            for index in range(processes):
                paths = [folder / f"u{index}_to_m", folder / f"m_to_u{index}"]
                for path in paths:
                    os.mkfifo(path)
                    path.chmod(0o666)  # the jails have other users
                holds.append(_Hold(paths))
            yield folder, holds
        finally:
            for hold in holds:
                hold.close()
