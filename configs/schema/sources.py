"""The keys of section `data` that every training has: where rows come from, which are held out, and in which order they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, field_validator, model_validator

from configs.schema.section import NonNegativeInt, PositiveInt, Section

DataFiles: TypeAlias = str | tuple[str, ...] | dict[str, str | tuple[str, ...]]
"""A file or pattern, several, or those of each split: `a.jsonl`, `[a.jsonl, b/*.jsonl.gz]`, `{train: a.jsonl, test: b.jsonl}`."""

BUILDERS = ("json", "csv", "parquet", "arrow")
"""Names that `load_dataset` takes in the place of a path, beside `data_files`."""

REASONING_GYM = "reasoning_gym:"
"""Prefix of the tasks of the package reasoning-gym, whose rows are made when a run starts."""


class TaskSection(Section):
    """The rows of `reasoning_gym:TASK`."""

    size: PositiveInt = 1000
    """Number of rows."""
    seed: NonNegativeInt | None = None
    """Seed of the rows. Default: the run's seed."""
    levels: tuple[NonNegativeInt, ...] = ()
    """Levels of the task's curriculum, from 0: equally many rows of each, with the level in the column `difficulty`. Default: `settings` alone
    decide, and `difficulty` is 0."""
    settings: dict[str, Any] = {}
    """The task's own settings, such as {min_terms: 2, max_terms: 3} of chain_sum. They win over those of a level."""


class MixturePart(Section):
    """One data set of a mixture."""

    path: str
    """A file, a folder or a hub id, as `data.path`."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """As `data.split`."""
    data_files: DataFiles | None = None
    """As `data.data_files`, in the folder or the hub's data set `path`."""
    columns: tuple[str, ...] | dict[str, str] | None = None
    """Columns to keep: a list, or {theirs: ours} to rename them. All parts must end with the same names. Default: all columns."""
    task: TaskSection | None = None
    """As `data.task`."""
    weight: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the rows to keep: a seeded subset of floor(rows x weight). Default: all rows, in order."""

    @field_validator("columns")
    @classmethod
    def _names_differ(cls, columns: tuple[str, ...] | dict[str, str] | None) -> tuple[str, ...] | dict[str, str] | None:
        return _checked_names(columns) if isinstance(columns, dict) else columns

    @model_validator(mode="after")
    def _task_has_its_path(self) -> MixturePart:
        if self.task and not self.path.startswith(REASONING_GYM):
            raise ValueError(f"task with path {self.path}: {_ONLY_TASKS}")
        return self

    @property
    def source(self) -> str:
        """The path, for display; of listed files their names."""
        listed = self.data_files
        if listed is None:
            return self.path
        names = listed.get(self.split, ()) if isinstance(listed, dict) else listed
        text = names if isinstance(names, str) else ", ".join(names)
        return text if self.path in (".", *BUILDERS) else f"{self.path} ({text})"

    @property
    def kept_columns(self) -> dict[str, str] | None:
        """Their name -> our name of the columns to keep; None for all columns."""
        if self.columns is None or isinstance(self.columns, dict):
            return self.columns
        return {column: column for column in self.columns}


class MixtureSection(Section):
    """Several data sets joined and then shuffled, with Open-R1's arithmetic."""

    datasets: tuple[MixturePart, ...]
    seed: int = 0
    """Seed of the subset of each part, of the shuffle and, with `test_split_size` here, of the split."""
    test_split_size: float | int | None = None
    """See `data.test_split_size`."""

    @field_validator("datasets")
    @classmethod
    def _parts_fit(cls, parts: tuple[MixturePart, ...]) -> tuple[MixturePart, ...]:
        if not parts:
            raise ValueError("no data set is listed; list at least one as {path: ..., weight: ...}")
        chosen = [part for part in parts if part.kept_columns is not None]
        names = [set((part.kept_columns or {}).values()) for part in chosen]
        for part, columns in zip(chosen[1:], names[1:], strict=True):
            if columns != names[0]:
                raise ValueError(
                    f"the columns of the data sets must be the same, but {_only(chosen[0].path, names[0] - columns)}"
                    f"{_only(part.path, columns - names[0])}make them equal, or write {{theirs: ours}} if only the names differ"
                )
        return parts

    @field_validator("test_split_size")
    @classmethod
    def _a_share_or_a_count(cls, size: float | int | None) -> float | int | None:
        return _checked_size(size)


def _only(path: str, columns: set[str]) -> str:
    return f"{path} alone has {', '.join(sorted(columns))}; " if columns else ""


def _checked_names(columns: dict[str, str]) -> dict[str, str]:
    names = list(columns.values())
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise ValueError(f"gives the name {doubled!r} to {' and '.join(old for old, new in columns.items() if new == doubled)}; keep one")
    return columns


def _checked_size(size: float | int | None) -> float | int | None:
    if size is not None and not (0 < size < 1 if isinstance(size, float) else size >= 1):
        raise ValueError(f"{size} is neither a share between 0 and 1 nor a number of rows; write 0.1 for a tenth, or 500 for 500 rows")
    return size


class SourceSection(Section):
    """The source of rows, the subset that is trained on, the held-out ones, and the order."""

    path: str | None = None
    """A JSON, JSONL, CSV, Parquet or Arrow file, a folder of them or of `save_to_disk`, a hub id, `builtin:addition`, or `reasoning_gym:TASK`."""
    task: TaskSection | None = None
    """The rows of `reasoning_gym:TASK`: how many, how hard."""
    mixture: MixtureSection | None = None
    """Several data sets, instead of `path`."""
    data_files: DataFiles | None = None
    """Files to read, as `load_dataset` takes them: a file or pattern, a list of them, or {split: files}. They are in `path`, which may be a folder or
    a hub id, and without `path` (or with json, csv, parquet or arrow as `path`) in the current folder."""
    name: str | None = None
    """Configuration of a hub data set."""
    split: str = "train"
    """Split to train on, or a slice of it by rows or percent: `train[:1000]`, `train[10%:20%]`. A single file is the split `train`."""
    columns: dict[str, str] = {}
    """New names of columns: {theirs: ours}; a dotted name leads into a column: {reward_model.ground_truth: solution}. A column that already has
    the new name is hidden. Applies to `eval_path` if it has the
    columns."""
    train_samples: int = -1
    """Number of rows to use, a seeded subset; -1 means all. With `test_split_size` it includes the held-out rows, otherwise they come on
    top."""
    shuffle: bool = True
    """Shuffle with the run's seed, in a new order every epoch."""
    streaming: bool = False
    """Read rows when they are needed, not all at the start, for data sets that are too large to download or to index."""
    shuffle_buffer_size: PositiveInt = 1000
    """Number of rows in a buffer: with `streaming`, rows are shuffled within buffers."""
    eval_path: str | None = None
    """Data set to hold out: a path, for prompts also a name such as math_500. Default: rows are held out from the training data."""
    eval_split: str = "test"
    """Split of `eval_path` on a hub; a single file is read as it is. Slices are those of `split`."""
    eval_samples: NonNegativeInt = 100
    """Largest number of held-out rows that are evaluated; 0 switches evaluation off."""
    test_split_size: float | int | None = None
    """Rows held out from the training data: a seeded share (0.1) or number (500). Default: `eval_samples` rows, if there is no
    `eval_path`."""

    @property
    def source(self) -> str:
        """The name of the source, for display: `path`, or the paths of the mixture."""
        if self.mixture is not None:
            return " + ".join(part.path for part in self.mixture.datasets)
        return self.part.source

    @property
    def part(self) -> MixturePart:
        """The one data set of a run without a mixture."""
        return MixturePart(path=self.path or ".", name=self.name, split=self.split, data_files=self.data_files, task=self.task)

    @property
    def named_columns(self) -> tuple[str, ...]:
        """The columns that settings name. Such a name may lead into a column: `extra_info.question`."""
        return ()

    @property
    def held_out_size(self) -> float | int | None:
        """`test_split_size`, given here or in the mixture."""
        return self.mixture.test_split_size if self.mixture and self.mixture.test_split_size is not None else self.test_split_size

    @property
    def needs_all_rows(self) -> Mapping[str, bool]:
        """Key -> true if it is given and needs all rows before the first is drawn, as a stream cannot give them."""
        return {
            "mixture": self.mixture is not None,
            "train_samples": self.train_samples != -1,
            "test_split_size": self.test_split_size is not None,
        }

    @field_validator("test_split_size")
    @classmethod
    def _a_share_or_a_count(cls, size: float | int | None) -> float | int | None:
        return _checked_size(size)

    @field_validator("columns")
    @classmethod
    def _names_differ(cls, columns: dict[str, str]) -> dict[str, str]:
        return _checked_names(columns)

    @model_validator(mode="after")
    def _keys_go_together(self) -> SourceSection:
        if (self.path is None and self.data_files is None) == (self.mixture is None):
            both = "path and mixture are both given; keep one" if self.mixture else "neither path nor mixture is given; give one of them"
            raise ValueError(f"{both}: {_PATH_OR_MIXTURE}")
        for broken, fault in self._rules():
            if broken:
                raise ValueError(fault)
        return self

    def _rules(self) -> list[tuple[object, str]]:
        """(true if the rule is broken, its fault)."""
        return [*self._mixture_rules(), *self._task_rules(), *self._held_out_rules(), *self._streaming_rules()]

    def _mixture_rules(self) -> list[tuple[object, str]]:
        beside = [key for key in ("name", "columns", "data_files", "task") if getattr(self, key)] + (
            ["split"] if self.split != "train" else []
        )
        return [(self.mixture and beside, f"{' and '.join(beside)} with mixture: each data set of a mixture has its own; move it there")]

    def _task_rules(self) -> list[tuple[object, str]]:
        made = str(self.path).startswith(REASONING_GYM)
        return [(self.task and self.mixture is None and not made, f"task with path {self.path}: {_ONLY_TASKS}")]

    def _held_out_rules(self) -> list[tuple[object, str]]:
        twice = self.mixture and self.mixture.test_split_size is not None and self.test_split_size is not None
        return [
            (twice, "test_split_size is given here and in mixture; keep one"),
            (
                self.held_out_size is not None and self.eval_path is not None,
                f"test_split_size {self.held_out_size} with eval_path {self.eval_path}: held-out rows come from one of them; remove "
                "the other",
            ),
        ]

    def _streaming_rules(self) -> list[tuple[object, str]]:
        asked = " and ".join(key for key, given in self.needs_all_rows.items() if given)
        remedy = "remove it, or set streaming: false"
        if self.test_split_size is not None:
            remedy = "hold out the first rows with eval_samples, or set streaming: false"
        return [
            (self.streaming and asked, f"{asked} with streaming: it needs all rows before the first is drawn; {remedy}"),
            (
                self.streaming and "[" in self.split,
                f"split {self.split} with streaming: the rows of a stream are not counted, so that it has no slices; name the split alone, or "
                "set streaming: false",
            ),
        ]


_ONLY_TASKS = f"it makes the rows of {REASONING_GYM}TASK only; remove it, or name a task, such as {REASONING_GYM}chain_sum"
_PATH_OR_MIXTURE = "data come from one data set (path, or data_files), or from several (mixture: {datasets: [{path: ...}, ...]})"
