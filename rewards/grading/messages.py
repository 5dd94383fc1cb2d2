"""The messages between a reward worker, the warden and the graders. Each is one JSON object.

    reward worker ── Spawn, Kill ──► warden
    reward worker ◄───── Ended ───── warden

    reward worker ◄────────── Loaded | NotLoaded ────────── grader     once
    reward worker ───────────────── Task ─────────────────► grader     then for each group
    reward worker ◄─ Graded, one for each step; TaskEnded ─ grader

Every answer repeats the key of what it answers, which the worker draws anew for each: a line without it is no answer. A reward shares the
grader's process. It gets the key only if it searches the interpreter's frames or memory for it; then it can write any answer to its own group,
as it can by returning it, but also to the rewards beside it and to what follows in this grader. Only a process for each reward would end that.

Standard library only: graders read this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypeAlias, TypedDict, final

if TYPE_CHECKING:
    from configs.contracts.records import Outcome
    from rewards.grading.calling import Loggable


@final
class Spawn(TypedDict):
    """Fork a grader of this number. Two descriptors go with it: its channel and its output."""

    spawn: int
    key: str
    """For `Loaded` or `NotLoaded`."""


@final
class Kill(TypedDict):
    """Kill the grader of this number, and its process group."""

    kill: int


@final
class Ended(TypedDict):
    """A grader has ended, and everything that it started is dead."""

    number: int
    exit_code: int
    """Negative for a signal."""


@final
class Task(TypedDict):
    """Do these steps of a group."""

    key: str
    """For `Graded` and `TaskEnded`."""
    group: dict[str, Any]
    """The fields of its `GroupInput`."""
    steps: Sequence[tuple[int, int | None]]
    """(reward, completion) by number; the completion is null where the reward gets the whole group."""


@final
class Loaded(TypedDict):
    """The grader has loaded the rewards."""

    key: str
    loaded: list[tuple[bool, bool]]
    """For each reward: whether it judges one completion at a time, and whether it reads token ids."""
    needs: list[list[str]]
    """For each reward: the columns without which a user's function cannot be called."""
    reads: list[list[str]]
    """For each reward: the columns that a user's function names, and `**` if it takes every column."""


@final
class NotLoaded(TypedDict):
    """A reward cannot be loaded, for the reason given. The grader ends."""

    key: str
    failed: str


@final
class Graded(TypedDict):
    """The `GradeReport` of one step. Fields that are empty are left out."""

    key: str
    step: int
    """Number of the step in its task, from 0."""
    values: list[float | None]
    outcomes: list[Outcome]
    error: NotRequired[str]
    metrics: NotRequired[dict[str, list[float]]]
    extras: NotRequired[dict[str, list[Loggable]]]


@final
class TaskEnded(TypedDict):
    """The grader has done all steps of a task."""

    key: str
    left_children: bool
    """True if a reward left a process running."""


Answer: TypeAlias = Loaded | NotLoaded | Graded | TaskEnded
"""What a grader sends."""
