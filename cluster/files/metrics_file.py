"""`metrics.jsonl`: lines are appended while a run lives, and each is one JSON object with its step.

A crash or a full disk can leave part of a line at the end. Readers skip such a line; a run that goes on removes it first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cluster.files.whole_files import write_whole

Row = dict[str, float]


def read_rows(file: Path) -> list[Row]:
    """Read all whole lines; none if there is no file."""
    return [row for line in _lines(file) if (row := _row(line)) is not None]


def repair(file: Path, say: Callable[[str], None]) -> None:
    """Remove what is no whole line, and say so in one line."""
    lines = _lines(file)
    kept = [line for line in lines if not line or _row(line) is not None]
    if len(kept) < len(lines):
        say(f"{file}: removed {len(lines) - len(kept)} unreadable line, as a crash or a full disk leaves at the end of a file")
        write_whole(file, _joined(kept))
    elif lines and not file.read_bytes().endswith(b"\n"):
        write_whole(file, _joined(kept))  # the next line would go on in the last one


def truncate(file: Path, last_step: int) -> None:
    """Remove the lines after `last_step`: a resumed run writes those steps again."""
    lines = _lines(file)
    kept = [line for line in lines if (row := _row(line)) is not None and row["step"] <= last_step]
    if len(kept) < len(lines):
        write_whole(file, _joined(kept))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8", errors="replace").split("\n") if file.exists() else []


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines if line)


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None
