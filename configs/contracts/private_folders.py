"""Folders of a run under a place that every user of the host may write, such as /tmp and /dev/shm: whose they are, and who still uses them.

    <parent>/<name>/      of this user, mode 0700, and a real folder: looked at before anything in it is opened
        <lock>            locked shared by every process that uses the folder: one that nobody locks is abandoned

Locks are the kernel's (flock): they end with their process, however that ends. No link is followed, and nothing waits for another user's
file: what is not ours is left alone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.contracts.errors import RollcastError

LOCK_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def hold(folder: Path, lock: str) -> int:
    """Make the folder where it is missing, and keep it from removal until the returned descriptor is closed.

    Raises:
        RollcastError: another user has the folder, or may write into it.
    """
    while True:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _opened(folder) as inside:
                held = _open_lock(lock, os.O_CREAT, inside)
        except FileNotFoundError:  # the last one to use the folder removed it just now
            continue
        except OSError as error:
            raise RollcastError(
                f"{folder} is not a folder that only this user can write ({error.strerror}): remove it, or find out whose it is"
            ) from error
        fcntl.flock(held, fcntl.LOCK_SH)
        if os.fstat(held).st_nlink:
            return held
        os.close(held)


def require_private(folder: Path) -> None:
    """Refuse a folder that another user has, or may write into.

    Raises:
        RollcastError: it is not private.
    """
    try:
        with _opened(folder):
            pass
    except OSError as error:
        raise RollcastError(f"{folder} can be changed by other users ({error.strerror}): make it this user's alone (chmod 700)") from error


@contextmanager
def locked(path: Path, kind: int) -> Iterator[int]:
    """Hold a lock file, which is made where it is missing, in a private folder. `kind`: as of `fcntl.flock`."""
    with _opened(path.parent) as inside:
        lock = _open_lock(path.name, os.O_CREAT, inside)
    try:
        fcntl.flock(lock, kind)
        yield lock
    finally:
        os.close(lock)


def remove_abandoned(parent: Path, prefix: str, lock: str) -> list[Path]:
    """Remove this user's folders under `parent` whose names begin with `prefix`, and whose lock nobody holds; returns them."""
    return [folder for folder in parent.glob(f"{prefix}*") if _remove_if_abandoned(folder, lock)]


def _remove_if_abandoned(folder: Path, lock: str) -> bool:
    try:
        with _opened(folder) as inside:
            held = _open_lock(lock, 0, inside)
    except OSError:  # another user's, of another kind, or removed just now
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # somebody uses it
        return False
    finally:
        os.close(held)
    return True


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A descriptor of the folder; OSError unless it is a real folder of this user alone."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _require_own(os.fstat(opened), str(folder))
        yield opened
    finally:
        os.close(opened)


def _open_lock(name: str, flags: int, inside: int) -> int:
    opened = os.open(name, LOCK_FLAGS | flags, 0o600, dir_fd=inside)
    try:
        found = os.fstat(opened)
        _require_own(found, name)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", name)
    except BaseException:
        os.close(opened)
        raise
    return opened


def _require_own(found: os.stat_result, name: str) -> None:
    if found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, f"its owner is user {found.st_uid}", name)
    if found.st_mode & 0o077:
        raise OSError(errno.EPERM, f"its mode is {stat.S_IMODE(found.st_mode):04o}", name)
