"""Folders that are made for a piece of work, and taken back where it is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def taken_back(*folders: Path) -> Iterator[None]:
    """Remove these folders if the work inside fails: those that were not there before it, and the folders that were made only to hold them."""
    new = [folder for folder in folders if not folder.exists()]
    above = {parent for folder in new for parent in folder.parents if not parent.exists()}
    try:
        yield
    except BaseException:
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        for parent in sorted(above, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # another process has written there
                parent.rmdir()
        raise
