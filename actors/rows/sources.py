"""The data section of a run -> rows of one data set or of a mixture, with columns renamed as configured."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from actors.generated.sources import is_generated, require_generated, write_generated
from actors.rows.files import is_compressed
from actors.rows.named_sets import NAMED_SETS, is_named, load_named_or_path, require_named_or_path
from actors.rows.permutation import permutation
from actors.rows.rows import Rows, load_part, local_files, split_name
from actors.rows.views import ColumnRows, MixedRows, has_column, hidden_columns, prepared, renamed, require_column
from configs.contracts.errors import DataError
from configs.schema.sources import REASONING_GYM, MixturePart, MixtureSection, SourceSection

EVAL_SPLIT, SPLIT_OF_PART = "data.eval_split", "data.mixture.datasets.split"

_SHUFFLE_STREAM = 2**64 - 1
"""Random stream that shuffles a mixture as a whole; streams 0, 1, ... draw the subsets of its parts."""

SMALL_BYTES = 16 << 20
"""Files up to this size are read in well under a second."""

_INFLATION = 8
"""Bytes of text in a byte of a compressed file, at most about."""

ROUNDING = 1e-9
"""Tolerance of `kept_rows`: 0.29 x 100 is 28.999999999999996 in binary floating point, and 29 is meant."""


@dataclass(frozen=True)
class PartCount:
    """Number of rows of one data set, and of those that a mixture takes."""

    path: str
    rows: int
    kept: int

    def __str__(self) -> str:
        taken = "all taken" if self.kept == self.rows else f"{self.kept:,} taken by its weight"
        return f"{self.path}: {self.rows:,} rows, {taken}"


Opened: TypeAlias = tuple[Rows, tuple[PartCount, ...]]
"""The rows to train on, and the parts of a mixture."""


def open_rows(data: SourceSection, folder: Path, seed: int) -> Opened:
    """Open the rows to train on; also returns the parts of a mixture.

    Args:
        folder: for the rows of a `builtin:` data set.
        seed: the run's seed, which decides on the rows of a `builtin:` data set.

    Raises:
        DataError: data are missing, malformed, or lack a column.
    """
    if data.mixture is not None:
        rows, parts = mix(data.mixture, folder, seed)
    else:
        rows, parts = load_part(local_part(data, folder, seed)), ()
    return prepared(rows, data), parts


def local_part(data: SourceSection, folder: Path, seed: int) -> MixturePart:
    """The data set of a run without a mixture; a `builtin:` one is first written to a file in `folder`.

    Raises:
        DataError: there is no such split, or no `builtin:` data set of this name.
    """
    part = data.part
    require_split_of_file(part, "data.split")
    return local_copy(part, folder, seed)


def notices(data: SourceSection, rows: Rows) -> tuple[str, ...]:
    """Sentences on what was left out or changed when the rows of `open_rows` were read."""
    own = rows
    while isinstance(own, ColumnRows) and data.mixture is None:
        own = own.rows
    return (*rows.notices, *hidden_columns(own, data.columns))


def open_if_small(data: SourceSection, seed: int) -> Opened | None:
    """Open the rows to train on as `open_rows` does, if that takes no time; None for a stream, a hub's data, and text files over `SMALL_BYTES`.

    Raises:
        DataError: as `open_rows`.
    """
    parts = data.mixture.datasets if data.mixture is not None else (data.part,)
    if data.streaming or not all(_is_small(part) for part in parts):
        return None
    with TemporaryDirectory(prefix="rollcast-rows-") as folder:
        return open_rows(data, Path(folder), seed)


def _is_small(part: MixturePart) -> bool:
    if is_generated(part.path):
        return True
    return _are_small(local_files(part))


def _are_small(files: Sequence[Path] | None) -> bool:
    sizes = [file.stat().st_size * (_INFLATION if is_compressed(file) else 1) for file in files or ()]
    return files is not None and sum(sizes) <= SMALL_BYTES


def local_copy(part: MixturePart, folder: Path, seed: int) -> MixturePart:
    """The data set itself; of one that is made, the file in `folder` to which it is written first.

    Raises:
        DataError: as `require_generated`.
    """
    if not is_generated(part.path):
        return part
    return part.model_copy(update={"path": str(write_generated(part.path, part.task, folder, seed))})


def require_source(part: MixturePart, key: str) -> None:
    """Look for a data set without reading it; one on the hub is not asked for.

    Args:
        key: the config key that names the split, for errors.

    Raises:
        DataError: there is none at this path, or it has no such split.
    """
    if is_generated(part.path):
        require_generated(part.path, part.task)
    elif part.path not in NAMED_SETS:
        local_files(part)
    require_split_of_file(part, key)


def require_split_of_file(part: MixturePart, key: str) -> None:
    """Refuse a split that a single file cannot have: one that is neither `train` nor in the file's name.

    Args:
        key: the config key that names the split. `data.eval_split` is `test` unless it is given, and then it says nothing.

    Raises:
        DataError: the file is no such split.
    """
    path, split = part.path, part.split
    file, name = Path(path).expanduser(), split_name(split)
    if part.data_files is not None or (not file.is_file() and not is_generated(path)):
        return
    if name not in ("train", "test" if key == EVAL_SPLIT else "train", *re.findall(r"[^\W\d_]+", file.stem)):
        raise DataError(
            f"{key} {split!r} is not in {path}, which is a single file and as such the split train; remove {key}, or give the file of that split"
        )


def open_held_out(data: SourceSection, folder: Path, seed: int) -> Rows:
    """Open `data.eval_path`, with the columns of `data.columns` that it has renamed. Arguments and errors are those of `open_rows`."""
    part = held_out_part(data)
    require_split_of_file(part, EVAL_SPLIT)
    seed += part.path.startswith(REASONING_GYM)  # not the rows of the same task with the run's seed
    rows = load_part(local_copy(part, folder, seed))
    return prepared(rows, data, {old: new for old, new in data.columns.items() if has_column(rows, old)})


def held_out_part(data: SourceSection) -> MixturePart:
    """The data set `data.eval_path`. The same task has `data.task`, but other rows: equal prompts would be taken from the training data."""
    path, same = str(data.eval_path), data.eval_path == data.path
    task = data.task if same else None
    if task is not None and task.seed is not None:
        task = task.model_copy(update={"seed": task.seed + 1})
    return MixturePart(path=path, name=data.name if same else None, split=data.eval_split, task=task)


def open_held_out_prompts(data: SourceSection, prompt_column: str, folder: Path, seed: int) -> Rows:
    """Open `data.eval_path`, which may be a named set, with its prompts in `prompt_column`, as `open_held_out` does."""
    path = str(data.eval_path)
    if is_named(path):
        rows, column = load_named_or_path(path)
        return renamed(rows, {column: prompt_column}, "data.prompt_column")
    rows = open_held_out(data, folder, seed)
    require_column(rows, prompt_column, "data.prompt_column")
    return rows


def open_held_out_if_small(data: SourceSection, prompt_column: str | None, seed: int) -> Rows | None:
    """Open `data.eval_path` as `open_held_out_prompts` does, if that takes no time; None for a hub's data and for text files over `SMALL_BYTES`.

    Args:
        prompt_column: None to open demonstrations, as `open_held_out` does.

    Raises:
        DataError: as `open_held_out_prompts`.
    """
    path = str(data.eval_path)
    if is_named(path) or not _is_small(held_out_part(data)):
        return None
    with TemporaryDirectory(prefix="rollcast-rows-") as folder:
        if prompt_column is None:
            return open_held_out(data, Path(folder), seed)
        return open_held_out_prompts(data, prompt_column, Path(folder), seed)


def open_named_if_small(spec: str, prompt_column: str) -> tuple[Rows, str] | None:
    """Open an evaluation set as `load_named_or_path` does, if that takes no time; None for a hub's data and for text files over `SMALL_BYTES`.

    Raises:
        DataError: as `load_named_or_path`.
    """
    return load_named_or_path(spec, prompt_column) if _are_small(require_named_or_path(spec)) else None


def mix(mixture: MixtureSection, folder: Path, seed: int) -> Opened:
    """Concatenate the parts and shuffle them, as Open-R1 does.

    A part with a weight contributes a seeded subset of floor(rows x weight) rows, a part without one all rows.

    Args:
        folder, seed: for the rows of parts that are made, as in `open_rows`.

    Raises:
        DataError: a part lacks a column, keeps no row, or the parts have different columns.
    """
    opened = [_part_rows(part, folder, seed) for part in mixture.datasets]
    _require_same_columns(mixture.datasets, opened)
    chosen = [
        _chosen(part, len(rows), mixture.seed, stream) for stream, (part, rows) in enumerate(zip(mixture.datasets, opened, strict=True))
    ]
    part_of = np.repeat(np.arange(len(opened), dtype=np.int32), [len(indices) for indices in chosen])
    index_in_part = np.concatenate(chosen)
    order = permutation(len(part_of), mixture.seed, _SHUFFLE_STREAM)
    counts = [PartCount(part.path, len(rows), len(indices)) for part, rows, indices in zip(mixture.datasets, opened, chosen, strict=True)]
    return MixedRows(opened[0].columns, opened, part_of[order], index_in_part[order]), tuple(counts)


def kept_rows(rows: int, weight: float) -> int:
    """floor(rows x weight) in decimal arithmetic: 29 of 100 rows at weight 0.29."""
    return math.floor(rows * weight + ROUNDING)


def _part_rows(part: MixturePart, folder: Path, seed: int) -> Rows:
    require_split_of_file(part, SPLIT_OF_PART)
    rows = load_part(local_copy(part, folder, seed))
    kept = part.kept_columns
    if kept is None:
        return rows
    for column in kept:
        require_column(rows, column, f"data.mixture, columns of {part.path}:")
    return ColumnRows(rows, {new: old for old, new in kept.items()})


def _require_same_columns(parts: Sequence[MixturePart], opened: Sequence[Rows]) -> None:
    first = set(opened[0].columns)
    for part, rows in zip(parts, opened, strict=True):
        alone, missing = sorted(set(rows.columns) - first), sorted(first - set(rows.columns))
        if alone or missing:
            differences = [f"{parts[0].path} alone has {', '.join(missing)}"] * bool(missing)
            differences += [f"{part.path} alone has {', '.join(alone)}"] * bool(alone)
            raise DataError(
                f"data.mixture: its data sets have different columns: {'; '.join(differences)}; "
                "list in the `columns` of each what is kept, as {theirs: ours} where only the name differs"
            )


def _chosen(part: MixturePart, count: int, seed: int, stream: int) -> np.ndarray:
    if part.weight is None:
        return np.arange(count, dtype=np.int64)
    kept = kept_rows(count, part.weight)
    if kept == 0:
        raise DataError(
            f"data.mixture: of the {count} rows of {part.path} the weight {part.weight} keeps none; raise it, or remove the data set"
        )
    return permutation(count, seed, stream)[:kept]
