"""A problem of reasoning-gym as it travels from the data to the reward: JSON text in the column `reasoning_gym`.

Some verifiers tell tuples from lists, which JSON does not. So tuples are written as `{"tuple": [...]}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

ENTRY_COLUMN = "reasoning_gym"


class ReasoningEntry(NamedTuple):
    """A problem: the task that made it, the settings of that task, and what its verifier needs."""

    task: str
    settings: Mapping[str, Any]
    entry: Mapping[str, Any]
    """question, answer and metadata."""


def entry_text(task: str, settings: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    """Write a problem as JSON text. Values that JSON has not become text."""
    return json.dumps({"task": task, "settings": _written(settings), "entry": _written(entry)}, ensure_ascii=False, default=str)


def read_entry(text: str) -> ReasoningEntry:
    """Read what `entry_text` wrote.

    Raises:
        ValueError: it is something else.
    """
    try:
        found = json.loads(text)
        read = ReasoningEntry(found["task"], _read(found["settings"]), _read(found["entry"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no problem of reasoning-gym: {error}") from error
    if not isinstance(read.task, str) or not isinstance(read.entry, dict) or "question" not in read.entry:
        raise ValueError("no problem of reasoning-gym")
    return read


def _written(value: object) -> object:
    if isinstance(value, tuple):
        return {"tuple": [_written(part) for part in value]}
    if isinstance(value, list):
        return [_written(part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _written(part) for key, part in value.items()}
    item = getattr(value, "item", None)
    return item() if callable(item) else value  # a number of numpy, which graders should not load


def _read(value: object) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tuple"}:
            return tuple(_read(part) for part in value["tuple"])
        return {key: _read(part) for key, part in value.items()}
    return [_read(part) for part in value] if isinstance(value, list) else value
