"""`rollcast score`: judge the completions of a file again, on this machine, without Ray. For whoever writes or debugs a reward."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from actors.rows.rows import Rows, load_rows
from cluster.output.completions import COMPLETION_COLUMNS, DATA_PREFIX, OUTCOME_PREFIX, REWARD_PREFIX, table_of
from cluster.output.counting import counting
from configs.contracts.errors import ConfigError, DataError, RewardError
from configs.contracts.records import FAILED_OUTCOMES, RewardColumn
from configs.schema.rewards import RewardsSection
from rewards import validate
from rewards.functions.group_input import GroupInput
from rewards.functions.registry import resolve
from rewards.grading.calling import Verdict
from rewards.grading.graders import Graders
from rewards.grading.scoring import column_of, weighted_sums


@dataclass
class Rescored:
    """What the rewards said of every row of a file."""

    values: dict[str, list[float | None]]
    outcomes: dict[str, list[str]]
    rewards: list[float | None]
    errors: dict[str, str] = field(default_factory=dict)
    """First error of each reward that failed or was invalid somewhere."""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        return any(not FAILED_OUTCOMES.isdisjoint(outcomes) for outcomes in self.outcomes.values())


def section_from(names: Sequence[str], params: Sequence[str], configured: RewardsSection | None, timeout_s: float | None) -> RewardsSection:
    """The rewards that a command line asks for.

    Args:
        names: rewards in order; none stands for those of `configured`.
        params: `reward.parameter=value`, the value in YAML.
        configured: rewards of a run, whose weights, parameters and limits hold for what is named.
        timeout_s: hard limit on one completion under one reward; None keeps what is configured.

    Raises:
        ConfigError: a parameter is not of that form, or for a reward that is not asked for.
    """
    base = configured or RewardsSection()
    known = {spec.name: spec.model_dump() for spec in configured.functions} if configured else {}
    functions = {name: known.get(name, {"name": name, "params": {}}) for name in names or known}
    if not functions:
        raise ConfigError("no reward is named; give some, such as `rollcast score accuracy format`, or the --config of a run")
    for setting in params:
        target, equals, value = setting.partition("=")
        name, _, parameter = target.rpartition(".")
        if not equals or name not in functions:
            raise ConfigError(f"--param {setting!r} is not reward.parameter=value for one of the rewards {', '.join(functions)}")
        functions[name] = {**functions[name], "params": {**functions[name]["params"], parameter: yaml.safe_load(value)}}
    changed = {"functions": tuple(functions.values())} | ({"timeout_s": timeout_s} if timeout_s else {})
    return RewardsSection.model_validate(base.model_dump() | changed)


def score_file(
    section: RewardsSection,
    completions: Path,
    *,
    completion_column: str,
    max_completion_length: int | None,
    graders: int | None,
    output: Path | None,
    console: Console,
) -> Rescored:
    """Score every completion of a file and show a table of values and outcomes.

    Args:
        section: the rewards.
        completions: Parquet, JSONL, JSON or CSV file, or a folder of them; rows with the same `step` and `prompt_id`, or else the
            same `prompt`, are one group.
        completion_column: column of the completions' text.
        max_completion_length: tokens that a completion may have, for rewards that depend on it.
        graders: grader processes; None is one for each core.
        output: Parquet file for the rows with their new values and outcomes.

    Raises:
        ConfigError: a reward cannot work.
        DataError: the file cannot be read or lacks a column.
    """
    if max_completion_length:
        section = resolve(section, max_completion_length)
    validate(section)
    rows = load_rows(str(completions))
    if completion_column not in rows.columns:
        raise DataError(
            f"{completions} has no column {completion_column!r}; it has {', '.join(rows.columns)}; name the one with the completions "
            f"by --completion-column"
        )
    validate(section, _data_columns(rows.columns, completion_column))
    groups = _groups(rows)
    found = asyncio.run(_score(section, rows, groups, completion_column, graders or os.cpu_count() or 1, console))
    console.print(_table(section, found, rows))
    for error in found.errors.values():
        console.print(error, style="red", markup=False, highlight=False)
    if output:
        _write(rows, found, output)
        console.print(f"written: {output}", markup=False, highlight=False)
    return found


def _data_columns(columns: Iterable[str], completion_column: str) -> dict[str, str]:
    """Column of the data set -> column of the file."""
    of_the_run = {*COMPLETION_COLUMNS, completion_column}
    return {
        name.removeprefix(DATA_PREFIX): name
        for name in columns
        if name not in of_the_run and not name.startswith((REWARD_PREFIX, OUTCOME_PREFIX))
    }


def _groups(rows: Rows) -> list[list[int]]:
    """Row numbers of each group, in the order of the file."""
    key = ("step", "prompt_id") if {"step", "prompt_id"} <= set(rows.columns) else ("prompt",) if "prompt" in rows.columns else ()
    if not key:
        return [[index] for index in range(len(rows))]
    everything = range(len(rows))
    groups: dict[str, list[int]] = {}
    for index, *values in zip(everything, *(rows.values(column, everything) for column in key), strict=True):
        groups.setdefault(json.dumps(values), []).append(index)
    return list(groups.values())


async def _score(
    section: RewardsSection, rows: Rows, groups: Sequence[Sequence[int]], completion_column: str, count: int, console: Console
) -> Rescored:
    names = [spec.label for spec in section.functions]
    size = len(rows)
    found = Rescored({name: [None] * size for name in names}, {name: [""] * size for name in names}, [None] * size)
    lost = asyncio.get_running_loop().create_future()
    graders = await Graders.start(
        [(spec.name, spec.params) for spec in section.functions],
        count=count,
        timeout_s=section.timeout_s,
        memory_limit_bytes=section.memory_limit_bytes,
        cwd=Path.cwd(),
        on_lost=lambda: lost.set_exception(RewardError("the process that starts the graders was ended from outside; run again")),
    )
    waiting = iter(groups)
    started_s = time.monotonic()
    try:
        with counting("completions", size, console) as advance:

            async def work() -> None:
                for indices in waiting:
                    verdicts = await graders.grade(_input(rows, indices, completion_column))
                    _record(section, found, indices, verdicts)
                    advance(len(indices))

            working = asyncio.gather(*(work() for _ in range(count)))
            await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
            await (lost if lost.done() else working)
    finally:
        await graders.close()
    found.seconds = time.monotonic() - started_s
    return found


def _input(rows: Rows, indices: Sequence[int], completion_column: str) -> GroupInput:
    members = [rows.row(index) for index in indices]
    first = members[0]
    return GroupInput(
        prompt=first.get("messages") or first.get("prompt") or "",
        texts_G=[_text(member[completion_column], rows.place(index)) for member, index in zip(members, indices, strict=True)],
        token_ids_G=[member.get("completion_ids") or [] for member in members],
        columns={name: first[column] for name, column in _data_columns(rows.columns, completion_column).items()},
        step=int(first.get("step") or 0),
    )


def _text(completion: Any, place: str) -> str:
    """The text of a completion, given as text or as chat messages."""
    if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
        completion = completion[-1].get("content")
    if not isinstance(completion, str):
        raise DataError(f"{place}: the completion is a {type(completion).__name__}; it must be text or chat messages")
    return completion


def _record(section: RewardsSection, found: Rescored, indices: Sequence[int], verdicts: Sequence[Verdict]) -> None:
    columns: dict[str, RewardColumn] = {}
    for spec, verdict in zip(section.functions, verdicts, strict=True):
        column = columns[spec.label] = column_of(section, verdict)
        for index, value, outcome in zip(indices, column.values_G, column.outcomes_G, strict=True):
            found.values[spec.label][index], found.outcomes[spec.label][index] = value, outcome
        if verdict.error:
            found.errors.setdefault(spec.label, f"reward {spec.name}: {verdict.error}")
    for index, reward in zip(indices, weighted_sums(section, columns), strict=True):
        found.rewards[index] = reward


def _table(section: RewardsSection, found: Rescored, rows: Rows) -> Table:
    seen = sorted(
        {outcome for outcomes in found.outcomes.values() for outcome in outcomes}, key=lambda outcome: (outcome != "scored", outcome)
    )
    recorded = any(f"{REWARD_PREFIX}{spec.label}" in rows.columns for spec in section.functions)
    table = Table(caption=f"{len(rows)} completions in {found.seconds:.1f} s")
    table.add_column("reward")
    for heading in ("weight", "mean", "std", *seen, *(["changed"] if recorded else [])):
        table.add_column(heading, justify="right")
    for spec in section.functions:
        counts = Counter(found.outcomes[spec.label])
        changes = [_changed(rows, f"{REWARD_PREFIX}{spec.label}", found.values[spec.label])] if recorded else []
        table.add_row(
            spec.label, f"{spec.weight:g}", *_moments(found.values[spec.label]), *(str(counts[outcome]) for outcome in seen), *changes
        )
    changes = [_changed(rows, "reward", found.rewards)] if recorded else []
    table.add_row("weighted sum", "", *_moments(found.rewards), *("" for _ in seen), *changes, style="bold")
    return table


def _moments(values: Sequence[float | None]) -> tuple[str, str]:
    applying = [value for value in values if value is not None]
    return (f"{fmean(applying):.4f}", f"{pstdev(applying):.4f}") if applying else ("-", "-")


def _changed(rows: Rows, column: str, values: Sequence[float | None]) -> str:
    """How many values differ from those that the file records."""
    if column not in rows.columns:
        return "-"
    return str(sum(before != after for before, after in zip(rows.values(column, range(len(rows))), values, strict=True)))


def _write(rows: Rows, found: Rescored, output: Path) -> None:
    import pyarrow.parquet as pq

    records = [rows.row(index) for index in range(len(rows))]
    for index, record in enumerate(records):
        for name in found.values:
            record[f"{REWARD_PREFIX}{name}"], record[f"{OUTCOME_PREFIX}{name}"] = found.values[name][index], found.outcomes[name][index]
        record["reward"] = found.rewards[index]
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(records), output)
