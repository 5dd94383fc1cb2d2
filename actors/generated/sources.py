"""Data sets that are made when a run starts: `builtin:addition`, and the tasks of `reasoning_gym:TASK`."""

from __future__ import annotations

from pathlib import Path

from actors.generated.addition import write_addition
from actors.generated.reasoning_tasks import require_task, write_task
from configs.contracts.errors import DataError
from configs.schema.model import BUILTIN
from configs.schema.sources import REASONING_GYM, TaskSection

GENERATED = (BUILTIN, REASONING_GYM)
"""Beginning of their paths."""


def is_generated(path: str) -> bool:
    return path.startswith(GENERATED)


def require_generated(path: str, task: TaskSection | None) -> None:
    """Check that a data set can be made, without making it.

    Raises:
        DataError: there is no such data set, or reasoning-gym refuses the settings or is not installed.
    """
    if path.startswith(REASONING_GYM):
        require_task(path, task or TaskSection())
    elif path != f"{BUILTIN}addition":
        raise DataError(
            f"data set {path} does not exist; the only builtin data set is {BUILTIN}addition, and others are {REASONING_GYM}TASK"
        )


def write_generated(path: str, task: TaskSection | None, folder: Path, seed: int) -> Path:
    """Write the rows to a file in `folder`, and return its path. Errors are those of `require_generated`."""
    if path.startswith(REASONING_GYM):
        return write_task(path, task or TaskSection(), folder, seed)
    require_generated(path, task)
    return write_addition(folder, seed)
