"""Say why a user's reward cannot be loaded, in one sentence. Standard library only: graders read this file."""

from __future__ import annotations

import traceback
from pathlib import Path

from configs.contracts.errors import RollcastError

OURS = Path(__file__).parents[1]
"""The folder of rollcast's own code that loads rewards."""


def why_not_loaded(name: str, error: BaseException) -> str:
    """Say where in the user's code the import failed, and how.

    Args:
        name: the reward's name in the settings.
        error: what loading it raised. An error of rollcast's own is a sentence already.
    """
    if isinstance(error, RollcastError):
        return error.message if error.message.startswith("reward ") else f"reward {name}: {error.message}"
    place, said = "", str(error)
    if isinstance(error, SyntaxError) and error.filename:  # no frame: the file never ran
        place, said = f"{error.filename}, line {error.lineno}: ", error.msg
    else:
        frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<")]
        users = [each for each in frames if not Path(each.filename).is_relative_to(OURS)]
        of_file = [each for each in users if each.filename == str(Path(name.rpartition(":")[0]).resolve())]
        if users:
            place = f"{(of_file or users)[-1].filename}, line {(of_file or users)[-1].lineno}: "
    return f"reward {name} cannot be loaded: {place}{type(error).__name__}{said and ': '}{said}; {_remedy(error)}"


def _remedy(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError):
        return "install it, or set PYTHONPATH"
    if isinstance(error, MemoryError):
        return "raise rewards.memory_limit_bytes, or load less there"
    return "correct it there"
