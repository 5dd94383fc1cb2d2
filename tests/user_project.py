"""A user's project whose folders have the names of rollcast's own packages."""

from __future__ import annotations

import os
from pathlib import Path

from rollcast import NAMES
from tests import REPOSITORY

FRONT_DOOR = str(REPOSITORY / "rollcast.py")

JUDGE = """
from neighbour import one

def judge(completions, **columns):
    return [one() + len(str(completion)) % 7 for completion in completions]
"""


def make_project(folder: Path) -> Path:
    """Packages of all five names, which fail when they are imported, and a reward that imports its neighbour."""
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"raise RuntimeError('this is the {name} of the user')\n")
    (folder / "judge.py").write_text(JUDGE)
    (folder / "neighbour.py").write_text("def one():\n    return 1.0\n")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The environment of a command in the project: its packages come before rollcast's on the path of every process."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return inherited | {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])}
