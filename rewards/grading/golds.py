"""Check before a run starts that the rewards read the gold answers of the data as they are meant.

Of every row three completions are graded: one without an answer, which tells whether the gold can be read; the gold itself, in the form in
which the reward looks for an answer, which must be right; and the gold of another row in that form, which must be wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.contracts.column_paths import RowColumns
from configs.contracts.errors import DataError
from configs.contracts.tasks import gather_or_cancel
from configs.schema.rewards import RewardSpec, RewardsSection
from rewards.answers.golds import Reading
from rewards.answers.numbers import equal_numbers
from rewards.convention.group_input import Columns, GroupInput
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.registry import load
from rewards.grading.calling import GradeReport
from rewards.grading.graders import Graders

UNREADABLE = frozenset({"unparsable_gold", "timeout", "crashed"})
"""Outcomes of a completion without an answer if the gold cannot be read, or not in time."""

SHOWN = 3
"""Number of golds of each sort that are shown."""

MOST_CHARACTERS = 120


@dataclass(frozen=True)
class GoldFault:
    """A gold that is graded otherwise than its owner means it."""

    row: int
    """Position of the row, counted from 0."""
    gold: str
    """The gold, shortened."""
    read: str
    """Its kind, and what was read, shortened."""
    wrong: str
    """A clause that says what is wrong."""

    def __str__(self) -> str:
        return f"row {self.row}: {self.gold} (read as {self.read}): {self.wrong}"


@dataclass(frozen=True)
class GoldCheck:
    """Readings and grades of the golds of some rows."""

    reward: str
    columns: tuple[str, ...]
    """The columns in which it looks for the gold."""
    checked: int
    unreadable: tuple[int, ...]
    """Positions of the rows whose gold cannot be read, counted from 0."""
    shown: tuple[str, ...]
    """The first of these golds, shortened."""
    kinds: Mapping[str, int]
    """Kind of gold -> rows that have one; empty for a reward that compares with no answer (`code`)."""
    not_mathematics: int
    """Golds among the unreadable ones that can be compared as text or options, in another answer style."""
    faults: tuple[GoldFault, ...]
    """Golds whose own answer is not right, or for which another row's answer is."""


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
    comparing = [(spec, reward) for spec in section.functions if (reward := _comparing(spec, rows)) is not None]
    if not comparing or not rows:
        return []
    return asyncio.run(_checks(section, comparing, rows, advance))


def require_readable_golds(checks: Sequence[GoldCheck]) -> None:
    """Raise DataError, with three golds, if a reward can read none of them, or if none is right against itself: no group could be trained on."""
    for check in checks:
        columns = ", ".join(check.columns)
        if len(check.unreadable) >= check.checked:
            golds = "\n  ".join(check.shown)
            raise DataError(
                f"reward {check.reward} can read none of the first {check.checked} gold answers (column {columns}), so it would score nothing; the "
                f"first are\n  {golds}\nname the right column by gold_column in the reward's params or by data.columns, or {remedy(check)}"
            )
        wrong = [fault for fault in check.faults if fault.wrong.startswith(OWN)]
        if len(wrong) >= check.checked - len(check.unreadable):
            shown = "\n  ".join(map(str, wrong[:SHOWN]))
            raise DataError(
                f"reward {check.reward} calls none of the first {check.checked} gold answers (column {columns}) right against itself, so it would "
                f"score every completion 0; the first are\n  {shown}\nset gold_kind in the reward's params, such as gold_kind: text"
            )


def gold_sentences(check: GoldCheck) -> list[str]:
    """Sentences on a check: the kinds of golds; those that cannot be read, and those that are graded wrong, with some of them."""
    where = f"{check.reward} reads the gold answer in {', '.join(check.columns)}"
    kinds = f" ({', '.join(f'{count:,} {kind}' for kind, count in check.kinds.items())})" if check.kinds else ""
    if not check.unreadable:
        told = [f"{where}: all of the first {check.checked:,} can be read{kinds}"]
    else:
        told = [
            f"{where}: {len(check.unreadable):,} of the first {check.checked:,} cannot be read{kinds}, and their groups would not be trained on:"
            + "".join(f"\n  {gold}" for gold in check.shown)
        ]
        if check.not_mathematics:
            told.append(f"  {check.not_mathematics:,} of them are text or options, and no mathematics: {remedy(check)}")
    if check.faults:
        told.append(
            f"{check.reward} grades {len(check.faults):,} gold answers otherwise than they are meant; gold_kind in its params overrules their kind:"
        )
        told += [f"  {fault}" for fault in check.faults[:SHOWN]]
    return told


def remedy(check: GoldCheck) -> str:
    """The setting that makes golds comparable that cannot be read."""
    if check.not_mathematics:
        return "set answer_style: auto in its params, which compares text as text and options by their letters"
    return "choose another answer_style (answer_tag and auto accept words)"


OWN = "its own answer"
"""Beginning of what is wrong with a gold that is not right against itself."""


async def _checks(
    section: RewardsSection,
    comparing: Sequence[tuple[RewardSpec, PerCompletionReward]],
    rows: Sequence[Columns],
    advance: Callable[[], None],
) -> list[GoldCheck]:
    """Grade every row twice: a completion without an answer, and then, if the gold could be read in time, answers that say golds."""
    count = min(os.cpu_count() or 1, len(rows))
    judges = [reward.judge(spec.name, spec.params) for spec, reward in comparing]
    graders = await Graders.start(
        judges, count=count, timeout_s=section.timeout_s, memory_limit_bytes=section.memory_limit_bytes, cwd=Path.cwd()
    )
    try:
        probes = [[reward.gold_probe for _, reward in comparing]] * len(rows)
        without = await _graded(graders, rows, probes, count, advance)
        read = [
            _Read.of(spec.label, reward, rows, [reports[number].outcomes[number] for reports in without])
            for number, (spec, reward) in enumerate(comparing)
        ]
        texts = [[text for each in read for text in each.answers(row)] for row in range(len(rows))]
        said = await _graded(graders, rows, texts, count, lambda: None)
    finally:
        await graders.close()
    return [each.check([reports[number].values[2 * number : 2 * number + 2] for reports in said]) for number, each in enumerate(read)]


async def _graded(
    graders: Graders, rows: Sequence[Columns], texts: Sequence[list[str]], count: int, advance: Callable[[], None]
) -> list[list[GradeReport]]:
    """Grade the texts of every row with every judge, `count` rows at a time. Return the reports by row and judge."""
    found: list[list[GradeReport]] = [[] for _ in rows]
    waiting = iter(enumerate(rows))

    async def work() -> None:
        for position, row in waiting:
            found[position] = await graders.grade(GroupInput("", texts[position], [[] for _ in texts[position]], dict(row), step=0))
            advance()

    await gather_or_cancel(work() for _ in range(count))
    return found


@dataclass(frozen=True)
class _Read:
    """Readings that one reward has of the golds of all rows."""

    label: str
    reward: PerCompletionReward
    rows: Sequence[Columns]
    outcomes: Sequence[str]
    """Of a completion without an answer."""
    readings: tuple[Reading | None, ...]
    """None where reading the gold takes too long, and for a reward that compares with no answer."""
    own: tuple[str, ...]
    """The golds as answers."""
    other: tuple[int, ...]
    """For each row the next one whose gold is another text; the row itself if there is none."""

    @classmethod
    def of(cls, label: str, reward: PerCompletionReward, rows: Sequence[Columns], outcomes: Sequence[str]) -> _Read:
        in_time = [outcome not in ("timeout", "crashed") for outcome in outcomes]
        readings = tuple(reward.gold_reading(row) if safe else None for row, safe in zip(rows, in_time, strict=True))
        readable = [outcome not in UNREADABLE for outcome in outcomes]
        own = tuple(reward.gold_as_answer(row) if safe else "" for row, safe in zip(rows, readable, strict=True))
        return cls(label, reward, rows, outcomes, readings, own, _next_different(own))

    def answers(self, row: int) -> tuple[str, str]:
        return self.own[row], self.own[self.other[row]]

    def check(self, values: Sequence[Sequence[float | None]]) -> GoldCheck:
        """Judge the values of `answers` of every row."""
        unreadable = tuple(row for row, outcome in enumerate(self.outcomes) if outcome in UNREADABLE)
        kinds = Counter(reading.kind for reading in self.readings if reading is not None)
        left_out = [reading for row in unreadable if (reading := self.readings[row]) is not None]
        return GoldCheck(
            reward=self.label,
            columns=self.reward.gold_columns(self.rows[0]),
            checked=len(self.rows),
            unreadable=unreadable,
            shown=tuple(self._shown(row) for row in unreadable[:SHOWN]),
            kinds=dict(kinds.most_common()),
            not_mathematics=sum(reading.kind in ("text", "option") for reading in left_out),
            faults=tuple(fault for row, of_row in enumerate(values) if self.own[row] for fault in self._faults(row, *of_row)),
        )

    def _faults(self, row: int, own: float | None, other: float | None) -> list[GoldFault]:
        faults: list[str] = []
        if own != 1.0:
            faults.append(f"{OWN} {_short(self.own[row])} gets {own}")
        another = self.other[row]
        if another != row and other == 1.0 and not _same_number(self.readings[row], self.readings[another]):
            faults.append(f"the answer of row {another}, {_short(self.own[another])}, gets 1.0 too")
        reading = self.readings[row]
        read = f"{reading.kind} {_short(str(reading))}" if reading is not None else "what it is"
        return [GoldFault(row, self._shown(row), read, wrong) for wrong in faults]

    def _shown(self, row: int) -> str:
        golds = {column: self.rows[row].get(column) for column in self.reward.gold_columns(self.rows[0])}
        return _short(json.dumps(next(iter(golds.values())) if len(golds) == 1 else golds, ensure_ascii=False))


def _next_different(texts: Sequence[str]) -> tuple[int, ...]:
    """For each text the position of the next other one that is not empty, going round; its own position if there is none."""
    count = len(texts)
    return tuple(
        next((k % count for k in range(row + 1, row + count) if texts[k % count] not in ("", texts[row])), row) for row in range(count)
    )


def _same_number(a: Reading | None, b: Reading | None) -> bool:
    return a is not None and b is not None and a.number is not None and b.number is not None and equal_numbers(a.number, b.number)


def _comparing(spec: RewardSpec, rows: Sequence[Columns]) -> PerCompletionReward | None:
    """Load the reward if it is built in and has a gold in these rows."""
    reward = None if ":" in spec.name else load(spec.name, **spec.params)
    return reward if isinstance(reward, PerCompletionReward) and rows and reward.gold_columns(rows[0]) else None


def _short(text: str) -> str:
    text = text.replace("\n", " ")
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
