"""The jails of jails.py as fixtures."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rewards.jails import REPOSITORY, SYSTEM_PYTHON, AsNobody, Here, marked


@pytest.fixture(scope="session")
def for_nobody() -> Iterator[Path]:
    """A folder that any user can read, with bubblewrap and what the jail consists of."""
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))
    for package in ("configs", "rewards"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parent / "sandbox_as_user.py", folder)
    (folder / "bin").mkdir()
    bwrap = shutil.which("bwrap") or shutil.which(Path(sys.executable).parent / "bwrap")
    assert bwrap, "no bwrap: make the environment (make env), or apt-get install bubblewrap"
    shutil.copy(bwrap, folder / "bin" / "bwrap")
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["here", "nobody"])
def jail(request: pytest.FixtureRequest) -> Here:
    if request.param == "here":
        return Here()
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    version = subprocess.run([SYSTEM_PYTHON, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, check=False).stdout
    if tuple(map(int, version.split())) < (3, 10):
        pytest.skip(f"{SYSTEM_PYTHON} is missing or older than 3.10, and another user cannot read the Python of these tests")
    return AsNobody(request.getfixturevalue("for_nobody"))


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """No process of a run is alive after its test, and no descriptor is open."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert marked() == []
    assert len(os.listdir("/proc/self/fd")) == before
