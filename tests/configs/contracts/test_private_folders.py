"""Folders under a place that other users may write: what they put there is neither opened, nor followed, nor removed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from configs.contracts.errors import RollcastError
from configs.contracts.private_folders import hold, remove_abandoned, require_private
from tests import REPOSITORY

LOCK = "lifetime.lock"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A place like /tmp, whose path every user can walk."""
    with tempfile.TemporaryDirectory(prefix="rc-", dir="/tmp") as name:
        os.chmod(name, 0o1777)
        yield Path(name)


def folder(shared: Path, name: str = "rollcast-x", mode: int = 0o700) -> Path:
    made = shared / name
    made.mkdir()
    made.chmod(mode)
    return made


def swept(shared: Path) -> list[str]:
    """The names that the next start removes; in another process, so that one that waits for a FIFO is a failure."""
    code = "from configs.contracts.private_folders import *; import sys\n"
    code += "print(*[each.name for each in remove_abandoned(Path(sys.argv[1]), 'rollcast-', sys.argv[2])])"
    done = subprocess.run(
        [sys.executable, "-c", code, shared, LOCK], cwd=REPOSITORY, timeout=30, check=True, capture_output=True, text=True
    )
    return done.stdout.split()


def test_an_abandoned_folder_is_removed_and_one_in_use_is_not(shared: Path) -> None:
    held = hold(shared / "rollcast-used", LOCK)
    os.close(hold(shared / "rollcast-left", LOCK))
    assert swept(shared) == ["rollcast-left"]
    os.close(held)
    assert remove_abandoned(shared, "rollcast-", LOCK) == [shared / "rollcast-used"]


def test_a_fifo_does_not_hold_the_sweep_up(shared: Path) -> None:
    os.mkfifo(folder(shared) / LOCK, 0o600)
    os.mkfifo(shared / "rollcast-fifo", 0o600)
    assert swept(shared) == []


def test_no_link_is_followed_and_no_file_is_made(shared: Path) -> None:
    victim = shared / "victim"
    (folder(shared) / LOCK).symlink_to(victim)
    (shared / "rollcast-link").symlink_to(folder(shared, "elsewhere"))
    (shared / "elsewhere" / LOCK).touch(0o600)
    assert swept(shared) == []
    for name in ("rollcast-x", "rollcast-link"):
        with pytest.raises(RollcastError, match="is not a folder that only this user can write"):
            hold(shared / name, LOCK)
    assert not victim.exists() and (shared / "elsewhere" / LOCK).exists()
    assert not list(folder(shared, "rollcast-empty").iterdir()), "a folder without a lock is somebody else's"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o701])
def test_a_folder_that_others_can_write_or_walk_is_refused(shared: Path, mode: int) -> None:
    made = folder(shared, mode=mode)
    (made / LOCK).touch(0o600)
    assert swept(shared) == []
    for check in (require_private, lambda path: hold(path, LOCK)):
        with pytest.raises(RollcastError, match=f"its mode is 0{mode:o}"):
            check(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
@pytest.mark.parametrize("whose", [lambda made: made, lambda made: made / LOCK], ids=["folder", "lock"])
def test_a_folder_or_lock_of_another_user_is_refused(shared: Path, whose: Callable[[Path], Path]) -> None:
    made = folder(shared)
    (made / LOCK).touch(0o600)
    os.chown(whose(made), 65534, 65534)
    assert swept(shared) == []
    with pytest.raises(RollcastError, match="its owner is user 65534"):
        hold(made, LOCK)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_can_neither_read_nor_replace_what_is_in_it(shared: Path) -> None:
    held = hold(shared / "rollcast-x", LOCK)
    (shared / "rollcast-x" / "token").write_text("secret")
    attempts = ["ls rollcast-x", "cat rollcast-x/token", "rm -f rollcast-x/token", "mv rollcast-x mine", "rmdir rollcast-x"]
    for attempt in attempts:
        assert subprocess.run(attempt.split(), cwd=shared, user=65534, group=65534, capture_output=True, check=False).returncode, attempt
    assert (shared / "rollcast-x" / "token").read_text() == "secret"
    os.close(held)
