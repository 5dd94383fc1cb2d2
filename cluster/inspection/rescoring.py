"""`rollcast score`: score the completions of a file again, on this machine and without Ray, to write or debug a reward."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, cast

from rich.console import Console
from rich.table import Table

from actors.rows.rows import Rows, load_rows
from cluster.output.completions import COMPLETION_COLUMNS, DATA_PREFIX, OUTCOME_PREFIX, REWARD_PREFIX, table_of
from cluster.output.counting import counting
from cluster.output.printable import printable
from cluster.stopping import run_until_stopped
from configs.contracts.errors import ConfigError, DataError
from configs.contracts.records import FAILED_OUTCOMES, Grades
from configs.contracts.tasks import gather_or_cancel
from configs.key_types import KeyType
from configs.loading import config_of, read_settings
from configs.overrides import value_of
from configs.schema.rewards import RewardsSection
from configs.schema.run import RunConfig
from rewards import validate
from rewards.convention.group_input import GroupInput
from rewards.grading.calling import EVERY_COLUMN, GradeReport
from rewards.grading.graders import Graders
from rewards.grading.scoring import grades_of, weighted_rewards
from rewards.grading.trial import OwnColumns, columns_read


@dataclass(frozen=True)
class CompletionFile:
    """Completions that were sampled before, one in each row."""

    path: Path
    rows: Rows
    completion_column: str

    @classmethod
    def open(cls, path: Path, completion_column: str) -> CompletionFile:
        """Open a Parquet, JSONL, JSON or CSV file, or a folder of them.

        Raises:
            DataError: the file cannot be read.
        """
        return cls(path, load_rows(str(path)), completion_column)

    def require_completions(self) -> None:
        """Raise `DataError` unless the file has the column of the completions."""
        if self.completion_column not in self.rows.columns:
            raise DataError(
                f"{self.path} has no column {self.completion_column!r}; it has {', '.join(self.rows.columns)}: name the column of the "
                "completions with --completion-column"
            )

    @property
    def of_a_run(self) -> bool:
        """True if a run or an evaluation wrote the file."""
        return set(self.rows.columns).issuperset(COMPLETION_COLUMNS)

    @property
    def data_columns(self) -> dict[str, str]:
        """Column of the data set -> column of the file, without the columns that a run adds."""
        of_the_run = {*COMPLETION_COLUMNS, self.completion_column}
        return {
            name.removeprefix(DATA_PREFIX): name
            for name in self.rows.columns
            if name not in of_the_run and not name.startswith((REWARD_PREFIX, OUTCOME_PREFIX))
        }

    def groups(self, read: Collection[str]) -> list[list[int]]:
        """Row numbers of each group, in the file's order.

        A group are rows with the same `step` and `prompt_id`. In a file without these, it is rows with the same `prompt` and the same values in
        the columns that rewards read: one question can stand there with two golds.

        Args:
            read: columns of the data set that the rewards read; `EVERY_COLUMN` stands for all.
        """
        columns = set(self.rows.columns)
        key: tuple[str, ...] = ("step", "prompt_id")
        if not columns.issuperset(key):
            if "prompt" not in columns:
                return [[index] for index in range(len(self.rows))]
            key = ("prompt", *(column for name, column in self.data_columns.items() if EVERY_COLUMN in read or name in read))
        everything = range(len(self.rows))
        groups: dict[str, list[int]] = {}
        for index, *values in zip(everything, *(self.rows.values(column, everything) for column in key), strict=True):
            groups.setdefault(json.dumps(values), []).append(index)
        return list(groups.values())

    def group_input(self, indices: Sequence[int]) -> GroupInput:
        """The group in these rows, as rewards get it."""
        members = [self.rows.row(index) for index in indices]
        first = members[0]
        texts_G = [_text(member[self.completion_column], self.rows.location(index)) for member, index in zip(members, indices, strict=True)]
        return GroupInput(
            prompt=first.get("messages") or first.get("prompt") or "",
            texts_G=texts_G,
            token_ids_G=cast(list[list[int]], [member.get("completion_ids") or [] for member in members]),
            columns={name: first[column] for name, column in self.data_columns.items()},
            step=int(cast(int, first.get("step") or 0)),
        )


def _text(completion: object, location: str) -> str:
    """The text of a completion, which is given as text or as chat messages."""
    if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
        completion = completion[-1].get("content")
    if not isinstance(completion, str):
        raise DataError(f"{location}: the completion is a {type(completion).__name__}, but must be text or chat messages")
    return completion


@dataclass
class Rescored:
    """Values and outcomes of every reward for every row of a file."""

    values: dict[str, list[float | None]]
    """By label of the reward."""
    outcomes: dict[str, list[str]]
    rewards: list[float | None]
    """Weighted sums."""
    errors: dict[str, str] = field(default_factory=dict)
    """First error of each reward that failed or gave an invalid value."""
    seconds: float = 0.0

    @classmethod
    def empty(cls, labels: Sequence[str], size: int) -> Rescored:
        """Before anything is scored: no value and no outcome in any of `size` rows."""
        return cls({label: [None] * size for label in labels}, {label: [""] * size for label in labels}, [None] * size)

    @property
    def failed(self) -> bool:
        """True if a reward timed out, crashed or gave an invalid value anywhere."""
        return any(not FAILED_OUTCOMES.isdisjoint(outcomes) for outcomes in self.outcomes.values())


def settings_beside(path: Path) -> Path | None:
    """Find the config.yaml of the run or the evaluation that wrote the completions: in their folder, or in one of the next two above it."""
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    return next((file for each in (folder, *folder.parents[:2]) if (file := each / "config.yaml").is_file()), None)


def run_of(file: CompletionFile, console: Console) -> RunConfig | None:
    """Read the settings of the run that wrote the completions, if one did, and say so in one line."""
    settings = settings_beside(file.path) if file.of_a_run else None
    if settings is None:
        return None
    try:
        run = config_of(read_settings(settings), str(settings))
    except ConfigError as error:
        said = f"WARNING: the rewards get default parameters, not those of the run, as {settings} cannot be used: {error.message.splitlines()[0]}"
        run = None
    else:
        said = f"weights, parameters and limits of rewards are those of {settings}; --param and --config overrule them"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    return run


def section_from(names: Sequence[str], params: Sequence[str], run: RunConfig | None, timeout_s: float | None) -> RewardsSection:
    """The rewards that a command line asks for.

    Args:
        names: rewards in order; without any, the run's.
        params: `reward.parameter=value`, the value in YAML.
        run: gives weights, parameters and limits to the rewards named.
        timeout_s: hard limit on one completion under one reward; None keeps the run's limit, or the default.

    Raises:
        ConfigError: a reward or a parameter is unknown, or a parameter is for a reward that is not named.
    """
    configured = run.rewards if run else RewardsSection()
    known = {spec.name: spec.model_dump() for spec in configured.functions} if run else {}
    functions = {name: known.get(name, {"name": name, "params": {}}) for name in names or known}
    if not functions:
        raise ConfigError("no reward is named: give some, as in `rollcast score accuracy format`, or the --config of a run")
    for setting in params:
        target, equals, value = setting.partition("=")
        name, _, parameter = target.rpartition(".")
        if not equals or name not in functions:
            raise ConfigError(f"--param {setting!r} is not reward.parameter=value for one of the rewards {', '.join(functions)}")
        functions[name] = {**functions[name], "params": {**functions[name]["params"], parameter: value_of(value, KeyType.of(Any), target)}}
    changed = {"functions": tuple(functions.values())} | ({"timeout_s": timeout_s} if timeout_s else {})
    section = RewardsSection.model_validate(configured.model_dump() | changed)
    if run:
        section = section.resolved(run.actors.max_completion_length)
    validate(section)
    return section


def score_file(section: RewardsSection, file: CompletionFile, graders: int | None, output: Path | None, console: Console) -> Rescored:
    """Score every completion of a file, and print a table of values and outcomes.

    Args:
        section: the rewards, from `section_from`.
        graders: number of grader processes; None starts one for each core.
        output: Parquet file for the rows with their new values and outcomes.

    Raises:
        ConfigError: the file lacks a column that a reward needs.
        DataError: the file has no completions, or one is neither text nor chat messages.
        RewardError: a reward cannot be loaded.
    """
    file.require_completions()
    validate(section, file.data_columns)
    found = run_until_stopped(_score(section, file, graders or os.cpu_count() or 1, console), "no scores were written")
    console.print(_table(section, found, file.rows))
    for error in found.errors.values():
        console.print(printable(error), style="red", markup=False, highlight=False)
    if output:
        _write(file.rows, found, output)
        console.print(f"written: {output}", markup=False, highlight=False)
    return found


async def _score(section: RewardsSection, file: CompletionFile, count: int, console: Console) -> Rescored:
    """Score all groups with `count` grader processes."""
    found = Rescored.empty([spec.label for spec in section.functions], len(file.rows))
    graders = await Graders.start(
        [(spec.name, spec.params) for spec in section.functions],
        count=count,
        timeout_s=section.timeout_s,
        memory_limit_bytes=section.memory_limit_bytes,
        cwd=Path.cwd(),
    )
    waiting = iter(file.groups(_columns_read(section, graders, file)))
    started_s = time.monotonic()
    try:
        with counting("completions", len(file.rows), console) as advance:

            async def work() -> None:
                for indices in waiting:
                    reports = await graders.grade(file.group_input(indices))
                    _record(section, found, indices, reports)
                    advance(len(indices))

            await gather_or_cancel(work() for _ in range(count))
    finally:
        await graders.close()
    found.seconds = time.monotonic() - started_s
    return found


def _columns_read(section: RewardsSection, graders: Graders, file: CompletionFile) -> frozenset[str]:
    own = map(OwnColumns, graders.needed_columns, graders.read_columns)
    needs = {spec.name: columns for spec, columns in zip(section.functions, own, strict=True)}
    return columns_read(section, needs, dict.fromkeys(file.data_columns))


def _record(section: RewardsSection, found: Rescored, indices: Sequence[int], reports: Sequence[GradeReport]) -> None:
    """Write the reports on one group into `found`, at its row numbers."""
    columns: dict[str, Grades] = {}
    for spec, report in zip(section.functions, reports, strict=True):
        column = columns[spec.label] = grades_of(section, report)
        for index, value, outcome in zip(indices, column.values_G, column.outcomes_G, strict=True):
            found.values[spec.label][index], found.outcomes[spec.label][index] = value, outcome
        if report.error:
            found.errors.setdefault(spec.label, f"reward {spec.name}: {report.error}")
    for index, reward in zip(indices, weighted_rewards(section, columns), strict=True):
        found.rewards[index] = reward


def _table(section: RewardsSection, found: Rescored, rows: Rows) -> Table:
    """One row for each reward, and one for the weighted sum."""
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
    """Mean and standard deviation of the values that are not None, as text."""
    applying = [value for value in values if value is not None]
    return (f"{fmean(applying):.4f}", f"{pstdev(applying):.4f}") if applying else ("-", "-")


def _changed(rows: Rows, column: str, values: Sequence[float | None]) -> str:
    """The number of values that differ from those in the file; - if the file has none."""
    if column not in rows.columns:
        return "-"
    return str(sum(before != after for before, after in zip(rows.values(column, range(len(rows))), values, strict=True)))


def _write(rows: Rows, found: Rescored, output: Path) -> None:
    """Write all columns of the file to Parquet, with the new values and outcomes."""
    import pyarrow.parquet as pq

    records = [rows.row(index) for index in range(len(rows))]
    for index, record in enumerate(records):
        for name in found.values:
            record[f"{REWARD_PREFIX}{name}"], record[f"{OUTCOME_PREFIX}{name}"] = found.values[name][index], found.outcomes[name][index]
        record["reward"] = found.rewards[index]
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(records), output)
