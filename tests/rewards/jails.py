"""Two ways to run a program in the jail, for its tests: as the user of the tests, and as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from rewards.sandbox.jail import PYTHON, Limits, Result, Sandbox
from tests import REPOSITORY

SYSTEM_PYTHON = "/usr/bin/python3"
NOBODY = 65534
MARK = f"mark-{uuid4().hex}"
"""An argument of every program here, and so of all that it forks, by which they are found among the processes of the machine."""

SLACK_S = 5.0
"""Ending a run takes milliseconds; the rest is for a machine that runs other tests on the same cores."""

COUNT_PROCESSES = """
import os, time
n = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
except OSError:
    print(n)
"""


class Here:
    """Runs programs in the jail from this process."""

    name = "here"
    uid = os.geteuid()

    def run(self, command: Sequence[str], limits: Mapping[str, Any] | None = None, **arguments: Any) -> Result:
        words = [part for word in command for part in (PYTHON if word == "PYTHON" else [word])]
        return Sandbox().run([*words, MARK], limits=Limits(**limits or {}), **arguments)

    def python(self, code: str, **arguments: Any) -> Result:
        return self.run(["PYTHON", "main.py"], files={"main.py": code}, **arguments)

    def popen(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """A process of this jail's user that can import `rewards.sandbox.jail`."""
        return popen(sys.executable, REPOSITORY, *arguments, path=os.environ["PATH"], **options)


class AsNobody(Here):
    """Runs them from a process of an ordinary user, which the tests as root start; `folder` has copies that it can read."""

    name = "nobody"
    uid = NOBODY

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, command: Sequence[str], limits: Mapping[str, Any] | None = None, **arguments: Any) -> Result:
        request = {"command": [*command, MARK], "limits": limits or {}} | arguments
        with self.popen(self._folder / "sandbox_as_user.py", stderr=subprocess.PIPE) as helper:
            printed, error = helper.communicate(json.dumps(request, default=str), timeout=60)
        assert helper.returncode == 0, error
        return Result(**json.loads(printed))

    def popen(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        path = f"{self._folder}/bin:/usr/bin:/bin"
        return popen(SYSTEM_PYTHON, self._folder, *arguments, path=path, user=NOBODY, group=NOBODY, extra_groups=[], **options)


def popen(python: str, modules: Path, *arguments: str | Path, path: str, **options: Any) -> subprocess.Popen[str]:
    environ = os.environ | {"PATH": path, "PYTHONPATH": str(modules)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([python, "-B", *arguments], env=environ, text=True, cwd="/", **pipes | options)


def marked(mark: str = MARK) -> list[int]:
    """Processes, dead ones that nobody waited for too, with the mark in their command. (A zombie has no command: see `children`.)"""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{name}/cmdline").read_bytes():
                found.append(int(name))
        except OSError:
            continue
    return found
