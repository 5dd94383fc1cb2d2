"""The job that a rented machine does: compile a program, or run it under limits. rewards/sandbox/rented.py sends the text of this file.

It needs Python 3.8 and its standard library only, and imports nothing of rollcast: the machine may have no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from typing import BinaryIO, TypedDict

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

MOST_PROCESSES = 512
"""Limit for the machine's user, whose other processes count too."""


class Job(TypedDict):
    """A command to run, and its limits."""

    home: str
    """Name of the program's folder."""
    prepares: bool
    """True if this job makes that folder; otherwise it runs in a copy of it."""
    command: list[str]
    files: dict[str, str]
    """Files that are added to the folder: name -> content."""
    stdin: str
    unshares_network: bool
    """True if the command must be cut off from the machine's network."""
    wall_s: float
    memory_bytes: int
    file_bytes: int
    output_bytes: int


class Outcome(TypedDict):
    """The fields of `Result` in rewards/sandbox/jail_process.py."""

    stdout: str
    stderr: str
    exit_code: int
    ending: str
    wall_s: float


class Failure(TypedDict):
    """The reason why the job could not be done."""

    error: str


def main(job: Job, mark: str) -> None:
    """Do a job, and print its outcome after the mark, as JSON."""
    answer: Outcome | Failure
    try:
        answer = run(job)
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(mark + json.dumps(answer), flush=True)


def run(job: Job) -> Outcome:
    """Run a job's command. The first job makes the program's folder, and every later job runs in a fresh copy of it.

    Limits mean the same as in rewards/sandbox/jail_process.py.
    """
    home = os.path.join(tempfile.gettempdir(), job["home"])
    if job["prepares"]:
        os.makedirs(home)
        return _run_in(home, job)
    with tempfile.TemporaryDirectory() as above:
        folder = os.path.join(above, "run")
        shutil.copytree(home, folder)
        return _run_in(folder, job)


def _run_in(folder: str, job: Job) -> Outcome:
    for name, content in job["files"].items():
        with open(os.path.join(folder, name), "w", encoding="utf-8", errors="replace") as file:
            file.write(content)
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(job["stdin"].encode(errors="replace"))
        stdin.seek(0)
        code, ending, wall_s = _execute(folder, job, stdin, stdout, stderr)
        size = max(os.fstat(file.fileno()).st_size for file in (stdout, stderr))
        return {
            "stdout": _text(stdout, job["output_bytes"]),
            "stderr": _text(stderr, job["output_bytes"]),
            "exit_code": code,
            "ending": "output" if size > job["output_bytes"] else ending,
            "wall_s": wall_s,
        }


def _execute(folder: str, job: Job, stdin: BinaryIO, stdout: BinaryIO, stderr: BinaryIO) -> tuple[int, str, float]:
    started_s = time.monotonic()
    process = subprocess.Popen(
        job["command"],
        cwd=folder,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={"PATH": os.environ.get("PATH", os.defpath), "HOME": folder, "LANG": "C.UTF-8"},
        start_new_session=True,
        preexec_fn=lambda: _confine(job),
    )
    try:
        code = process.wait(job["wall_s"])
        ending = "exited" if code >= 0 else "timeout" if -code == signal.SIGXCPU else "signal"
    except subprocess.TimeoutExpired:
        code, ending = -signal.SIGKILL, "timeout"
    wall_s = time.monotonic() - started_s
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return (code if code >= 0 else 128 - code), ending, wall_s


def _confine(job: Job) -> None:
    if job["unshares_network"]:
        flags = CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET
        if ctypes.CDLL(None).unshare(flags) != 0:
            raise OSError("this machine cannot cut a program off from the network")
    file_bytes = max(job["file_bytes"], job["output_bytes"] + 1)
    limits = {
        resource.RLIMIT_AS: job["memory_bytes"],
        resource.RLIMIT_CPU: int(job["wall_s"]) + 2,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NPROC: MOST_PROCESSES,
        resource.RLIMIT_CORE: 0,
    }
    for kind, wanted in limits.items():
        hard = resource.getrlimit(kind)[1]
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (most, most))


def _text(file: BinaryIO, most_bytes: int) -> str:
    file.seek(0)
    return file.read(most_bytes).decode(errors="replace")
