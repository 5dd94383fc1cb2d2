"""Call a reward for a group, and turn whatever it does into values and outcomes. This runs in a grader.

The calling convention is TRL's: `fn(prompts=, completions=, completion_ids=, <columns>=, trainer_state=, log_extra=, log_metric=)` gives
one number or None for each completion. A function without `**kwargs` gets only the arguments that it names.
Standard library only: a grader imports neither numpy nor pyarrow.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import traceback
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, SupportsFloat, TypeAlias, TypeVar

from configs.contracts.errors import RewardError
from rewards.convention.group_input import GroupInput
from rewards.convention.parameters import GATHERING, called_signature
from rewards.convention.per_completion import ARGUMENTS, PerCompletionReward

if TYPE_CHECKING:
    from configs.contracts.records import Outcome
    from rewards.functions.registry import Reward

T = TypeVar("T")

Loggable: TypeAlias = bool | int | float | str | None
"""A value that `log_extra` may write to the table of completions. Other values become text."""

EVERY_COLUMN = "**"
"""Stands for every column among the names of those that a reward reads."""

MOST_ERROR_CHARACTERS = 4000
MOST_EXTRA_CHARACTERS = 10_000


@dataclass(frozen=True, slots=True)
class TrainerState:
    """The state of the trainer that TRL passes to rewards."""

    global_step: int
    """Optimizer steps done."""


@dataclass(slots=True)
class GradeReport:
    """The values and outcomes that a reward gave to some completions of a group, in order."""

    values: list[float | None]
    outcomes: list[Outcome]
    error: str = ""
    """The first failure: a traceback, or a sentence. "" if there was none."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, list[Loggable]] = field(default_factory=dict)

    @classmethod
    def failed(cls, outcome: Outcome, count: int, error: str) -> GradeReport:
        return cls([None] * count, [outcome] * count, error)


def grade_completion(reward: PerCompletionReward, group: GroupInput, index: int) -> GradeReport:
    """Grade one completion with a per-completion reward."""
    try:
        grade = reward.grade(group, index)
    except BaseException:
        return GradeReport.failed("crashed", 1, last_traceback())
    return GradeReport([grade.value], [grade.outcome])


class _Log:
    """The values that one call passes to `log_extra` and `log_metric`."""

    def __init__(self, group_size: int) -> None:
        self._group_size = group_size
        self.metrics: dict[str, list[float]] = {}
        self.extras: dict[str, list[Loggable]] = {}

    def extra(self, column: str, values: Sequence[object]) -> None:
        if len(values) != self._group_size:
            raise ValueError(f"log_extra({column!r}) got {len(values)} values for {self._group_size} completions; give one for each")
        self.extras[str(column)] = [_loggable(value) for value in values]

    def metric(self, name: str, value: float) -> None:
        self.metrics.setdefault(str(name), []).append(float(value))


def grade_group(reward: Reward, group: GroupInput, runner: asyncio.Runner) -> GradeReport:
    """Grade a whole group with a user's function. `runner` has the event loop for asynchronous functions."""
    size = len(group.texts_G)
    log = _Log(size)
    try:
        values = reward(**_arguments(reward, group, log))
        if inspect.isawaitable(values):
            values = runner.run(_finished(values))
    except BaseException:
        return GradeReport.failed("crashed", size, last_traceback())
    report = _checked(values, size)
    report.metrics, report.extras = log.metrics, log.extras
    return report


async def _finished(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _arguments(reward: Reward, group: GroupInput, log: _Log) -> Mapping[str, object]:
    size = len(group.texts_G)
    arguments: dict[str, object] = {name: [value] * size for name, value in group.columns.items()}
    arguments |= {
        "prompts": [group.prompt] * size,
        "completions": group.completions_G,
        "completion_ids": group.token_ids_G,
        "trainer_state": TrainerState(group.step),
        "log_extra": log.extra,
        "log_metric": log.metric,
    }
    return _taken(reward, arguments)


def _taken(reward: Reward, arguments: Mapping[str, object]) -> Mapping[str, object]:
    """Those of the arguments that the function names; all of them if it has `**kwargs`.

    The `**kwargs` of a decorator (`functools.wraps`) usually go on to the function that it wraps: it gets what it and that function name.
    """
    named: set[str] = set()
    layer: Reward | None = reward
    while layer is not None:
        parameters = called_signature(layer).parameters
        named.update(parameters)
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            return {name: value for name, value in arguments.items() if name in named}
        layer = _wrapped(layer)
    return arguments


def _wrapped(reward: Reward) -> Reward | None:
    """The function that a decorator wraps; None if this is no decorator's."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    wrapped: Reward | None = getattr(reward, "__wrapped__", None) or getattr(type(reward).__call__, "__wrapped__", None)
    return wrapped


def needed_columns(name: str, reward: Reward) -> list[str]:
    """The arguments, besides those of every call, without which a user's function cannot be called: the data must have them as columns.

    Args:
        name: the reward's name in the settings, for errors.

    Raises:
        RewardError: no keywords can call it, or it takes nothing that a call gives.
    """
    try:
        signature = called_signature(reward)
        needed = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.default is parameter.empty and parameter.kind not in GATHERING and parameter.name not in ARGUMENTS
        ]
        taken = _taken(reward, dict.fromkeys([*ARGUMENTS, *needed]))
        signature.bind(**taken)
    except (TypeError, ValueError) as error:
        raise RewardError(
            f"reward {name} cannot be called by keywords, as rewards are: {error}; give it arguments that have names, such as "
            "completions, and no / among them"
        ) from None
    if not taken:
        raise RewardError(
            f"reward {name} takes nothing that a call gives (its arguments: {', '.join(signature.parameters) or 'none'}); give it the argument "
            "completions, or name the function that it returns"
        )
    return needed


def named_columns(reward: Reward) -> list[str]:
    """The columns that a user's function may read: those that it names, and `EVERY_COLUMN` if it takes whatever there is."""
    every = dict.fromkeys([*ARGUMENTS, EVERY_COLUMN])
    named = _named(reward)
    return [name for name in (*named, *([EVERY_COLUMN] if EVERY_COLUMN in _taken(reward, every) else [])) if name not in ARGUMENTS]


def _named(reward: Reward) -> list[str]:
    names: dict[str, None] = {}
    layer: Reward | None = reward
    while layer is not None:
        names.update((name, None) for name, found in called_signature(layer).parameters.items() if found.kind not in GATHERING)
        layer = _wrapped(layer)
    return list(names)


def _checked(values: object, size: int) -> GradeReport:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        kind = type(values).__name__
        return GradeReport.failed("invalid", size, f"it returned a {kind}; return a list with one number or None for each completion")
    try:
        listed = list(values)
    except BaseException:
        return GradeReport.failed("crashed", size, last_traceback())
    if len(listed) != size:
        return GradeReport.failed("invalid", size, f"it returned {len(listed)} values for {size} completions; return one for each")
    report = GradeReport([], [])
    for index, value in enumerate(listed):
        number, outcome = _number(value)
        report.values.append(number)
        report.outcomes.append(outcome)
        if outcome == "invalid" and not report.error:
            report.error = f"value {index} is {_short(value)}; return a finite number, or None where the reward does not apply"
    return report


def _number(value: object) -> tuple[float | None, Outcome]:
    if value is None:
        return None, "skipped"
    try:
        if isinstance(value, (str, bytes)) or not isinstance(value, SupportsFloat):
            return None, "invalid"
        number = float(value)
    except BaseException:
        return None, "invalid"
    return (number, "scored") if math.isfinite(number) else (None, "invalid")


def _loggable(value: object) -> Loggable:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)[:MOST_EXTRA_CHARACTERS]


def _short(value: object) -> str:
    try:
        return repr(value)[:200]
    except BaseException:
        return f"a {type(value).__name__}"


def last_traceback() -> str:
    """The traceback of the exception being handled. Only the end of a long one."""
    return traceback.format_exc()[-MOST_ERROR_CHARACTERS:]
