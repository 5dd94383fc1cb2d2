"""Write files that are whole whenever the process or the machine stops."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(file: Path, text: str) -> Path:
    """Write a file whole or not at all: a temporary file, fsynced and renamed. Its folder must exist: a run directory that was removed is not made anew.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    unfinished = file.with_name(file.name + ".tmp")
    try:
        with unfinished.open("w", encoding="utf-8") as content:
            content.write(text)
            content.flush()
            os.fsync(content.fileno())
        os.replace(unfinished, file)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    fsync_folder(file.parent)
    return file


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
