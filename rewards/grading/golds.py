"""Check before a run starts that the rewards can read the gold answers of the data."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.contracts.column_paths import RowColumns
from configs.contracts.errors import DataError
from configs.contracts.tasks import gather_or_cancel
from configs.schema.rewards import RewardSpec, RewardsSection
from rewards.functions.group_input import Columns, GroupInput
from rewards.functions.per_completion import PerCompletionReward
from rewards.functions.registry import load
from rewards.grading.graders import Graders

UNREADABLE = frozenset({"unparsable_gold", "timeout", "crashed"})
"""Outcomes of a completion without an answer if the gold cannot be read, or not in time."""

SHOWN = 3
"""Number of unreadable golds that are shown."""


@dataclass(frozen=True)
class GoldCheck:
    """A count of the golds that a reward can read, and a list of those that it cannot."""

    reward: str
    columns: tuple[str, ...]
    """The columns in which it looks for the gold."""
    checked: int
    unreadable: tuple[int, ...]
    """Positions of the rows whose gold cannot be read, counted from 0."""
    shown: tuple[str, ...]
    """The first of these golds, shortened."""


def check_golds(section: RewardsSection, rows: Sequence[Columns], advance: Callable[[], None] = lambda: None) -> list[GoldCheck]:
    """Let every built-in reward that has a gold read the golds of these rows, in graders that can be killed.

    Args:
        section: the rewards of a run.
        rows: the rows, without their prompts.
        advance: called after each row, for a progress bar.

    Raises:
        RewardError: a reward cannot be loaded, or the rows lack its column.
    """
    rows = [RowColumns(row) for row in rows]
    comparing = {spec.label: (spec, reward) for spec in section.functions if (reward := _comparing(spec, rows)) is not None}
    if not comparing or not rows:
        return []
    outcomes = asyncio.run(_outcomes(section, list(comparing.values()), rows, advance))
    return [
        _check(name, reward, rows, [of_row[number] for of_row in outcomes]) for number, (name, (_, reward)) in enumerate(comparing.items())
    ]


def require_readable_golds(checks: Sequence[GoldCheck]) -> None:
    """Raise DataError, with three golds, if a reward can read none of them: no group could be trained on."""
    for check in checks:
        if len(check.unreadable) < check.checked:
            continue
        golds = "\n  ".join(check.shown)
        raise DataError(
            f"reward {check.reward} can read none of the first {check.checked} gold answers (column {', '.join(check.columns)}), so it "
            f"would score nothing; the first are\n  {golds}\nname the right column by gold_column in the reward's params or by data.columns, or "
            "choose another answer_style (answer_tag accepts words)"
        )


def _comparing(spec: RewardSpec, rows: Sequence[Columns]) -> PerCompletionReward | None:
    """Load the reward if it is built in and has a gold in these rows."""
    reward = None if ":" in spec.name else load(spec.name, **spec.params)
    return reward if isinstance(reward, PerCompletionReward) and rows and reward.gold_columns(rows[0]) else None


async def _outcomes(
    section: RewardsSection,
    comparing: Sequence[tuple[RewardSpec, PerCompletionReward]],
    rows: Sequence[Columns],
    advance: Callable[[], None],
) -> list[list[str]]:
    """Grade a completion without an answer, for every row. Return the outcomes by row and reward."""
    count = min(os.cpu_count() or 1, len(rows))
    graders = await Graders.start(
        [(spec.name, spec.params) for spec, _ in comparing],
        count=count,
        timeout_s=section.timeout_s,
        memory_limit_bytes=section.memory_limit_bytes,
        cwd=Path.cwd(),
    )
    probes = [reward.gold_probe for _, reward in comparing]
    found: list[list[str]] = [[] for _ in rows]
    waiting = iter(enumerate(rows))

    async def work() -> None:
        for position, row in waiting:
            reports = await graders.grade(GroupInput("", probes, [[] for _ in probes], dict(row), step=0))
            found[position] = [report.outcomes[number] for number, report in enumerate(reports)]
            advance()

    try:
        await gather_or_cancel(work() for _ in range(count))
    finally:
        await graders.close()
    return found


def _check(name: str, reward: PerCompletionReward, rows: Sequence[Columns], outcomes: Sequence[str]) -> GoldCheck:
    unreadable = tuple(position for position, outcome in enumerate(outcomes) if outcome in UNREADABLE)
    columns = reward.gold_columns(rows[0])
    shown = tuple(_shown({column: rows[position].get(column) for column in columns}) for position in unreadable[:SHOWN])
    return GoldCheck(name, columns, len(rows), unreadable, shown)


def _shown(golds: Columns) -> str:
    text = json.dumps(next(iter(golds.values())) if len(golds) == 1 else golds, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
