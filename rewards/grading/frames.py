"""The lines that a grader sends, checked: a reward shares the grader's process, and may write anything into its channel."""

from __future__ import annotations

import json
import math
from typing import NamedTuple, TypeGuard, get_args

from configs.contracts.records import Outcome
from rewards.grading.messages import Answer

MOST_LINE_BYTES = 64 << 20
"""A longer line is no answer; without a limit, one reward could fill the worker's memory."""

OUTCOMES = frozenset(get_args(Outcome))


class Forged(NamedTuple):
    """A line that no grader sends, in place of an answer."""

    said: str

    def __str__(self) -> str:
        return f"something wrote into its channel what is no answer of a grader ({self.said}); a reward must leave that descriptor alone"


def read_line(line: bytes, key: str) -> Answer | Forged:
    """Read one line of a grader, which must have the key of what it was asked last."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if isinstance(message, dict) and message.get("key") == key and (_is_graded(message) or _is_loaded(message) or _is_other(message)):
        return message  # type: ignore[return-value]
    return Forged(repr(line[:100])[1:])


def _is_graded(message: dict[str, object]) -> bool:
    values, outcomes, extras, metrics = (message.get(key) for key in ("values", "outcomes", "extras", "metrics"))
    return (
        message.keys() <= {"key", "step", "values", "outcomes", "error", "metrics", "extras"}
        and type(message.get("step")) is int
        and isinstance(values, list)
        and all(value is None or (_is_number(value) and math.isfinite(value)) for value in values)
        and isinstance(outcomes, list)
        and len(outcomes) == len(values)
        and all(isinstance(outcome, str) and outcome in OUTCOMES for outcome in outcomes)
        and isinstance(message.get("error", ""), str)
        and (metrics is None or _are_lists(metrics))
        and (extras is None or _are_lists(extras, len(values)))
    )


def _are_lists(columns: object, length: int | None = None) -> bool:
    """Tell whether all columns are lists: of `length` values of any plain kind, or without a length, of numbers."""
    return isinstance(columns, dict) and all(
        isinstance(column, list)
        and (
            all(map(_is_number, column))
            if length is None
            else len(column) == length and not any(isinstance(x, list | dict) for x in column)
        )
        for column in columns.values()
    )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_loaded(message: dict[str, object]) -> bool:
    kinds = message.get("loaded")
    return (
        message.keys() == {"key", "loaded", "needs", "reads"}
        and isinstance(kinds, list)
        and all(isinstance(kind, list) and [type(each) for each in kind] == [bool, bool] for kind in kinds)
        and all(_are_names(message[key], len(kinds)) for key in ("needs", "reads"))
    )


def _are_names(lists: object, length: int) -> bool:
    return (
        isinstance(lists, list)
        and len(lists) == length
        and all(isinstance(columns, list) and all(isinstance(column, str) for column in columns) for columns in lists)
    )


def _is_other(message: dict[str, object]) -> bool:
    if message.keys() == {"key", "failed"}:
        return isinstance(message["failed"], str)
    return message.keys() == {"key", "left_children"} and isinstance(message["left_children"], bool)
