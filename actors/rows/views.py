"""Views of rows: with renamed columns, with some of the columns, or several data sets as one. Nothing is copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np

from actors.rows.files import JsonValue, Row
from actors.rows.rows import Rows
from configs.contracts.errors import DataError


def renamed(rows: Rows, columns: Mapping[str, str], key: str) -> Rows:
    """A view of the rows with renamed columns.

    Args:
        columns: old name -> new name, each different. A column that already has the new name is hidden by the renamed one.
        key: the config key that holds the mapping, for errors: `data.columns`.

    Raises:
        DataError: an old name is no column.
    """
    for old in columns:
        require_column(rows, old, key)
    if all(old == new for old, new in columns.items()):
        return rows
    kept = {column: column for column in rows.columns if column not in columns and column not in columns.values()}
    names = {old: columns.get(old, old) for old in rows.columns if old in columns or old in kept}
    return ColumnRows(rows, {new: old for old, new in names.items()})


def require_column(rows: Rows, column: str, key: str, remedy: str = "") -> None:
    """Raise DataError if `column` does not exist, with a list of the columns and the nearest name.

    Args:
        remedy: instead of giving columns other names.
    """
    if column in rows.columns:
        return
    lower = {name.lower(): name for name in rows.columns}
    near = get_close_matches(column.lower(), lower, n=1)
    hint = f" (did you mean {lower[near[0]]}?)" if near else ""
    remedy = remedy or "correct the key, or give columns other names with data.columns: {theirs: ours}"
    raise DataError(f"{key} {column!r} is not in the data; the columns there are {', '.join(rows.columns)}{hint}; {remedy}")


@dataclass(frozen=True)
class ColumnRows:
    """Some columns of a data set, renamed."""

    rows: Rows
    sources: Mapping[str, str]
    """Name in this view -> name in `rows`."""

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.sources)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Row:
        row = self.rows.row(index)
        return {name: row[source] for name, source in self.sources.items()}

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        return self.rows.values(self.sources[column], indices)

    def location(self, index: int) -> str:
        return self.rows.location(index)


def part_numbers(rows: Rows) -> np.ndarray:
    """Number of the part of a mixture that holds each row: int32 [rows]; 0 for the rows of one data set."""
    return rows.part_of if isinstance(rows, MixedRows) else np.zeros(len(rows), np.int32)


@dataclass(frozen=True)
class MixedRows:
    """Rows of several data sets with the same columns, in an order of their own."""

    columns: tuple[str, ...]
    parts: Sequence[Rows]
    part_of: np.ndarray
    """int32 [rows]: number of the part that holds the row."""
    index_in_part: np.ndarray
    """int64 [rows]: row number in that part."""

    def __len__(self) -> int:
        return len(self.part_of)

    def row(self, index: int) -> Row:
        row = self._part(index).row(int(self.index_in_part[index]))
        return {column: row[column] for column in self.columns}

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        chosen = np.asarray(indices, dtype=np.int64)
        values: list[JsonValue] = [None] * len(chosen)
        for number, part in enumerate(self.parts):
            positions = np.flatnonzero(self.part_of[chosen] == number)
            if len(positions):
                found = part.values(column, self.index_in_part[chosen[positions]].tolist())
                for position, value in zip(positions.tolist(), found, strict=True):
                    values[position] = value
        return values

    def location(self, index: int) -> str:
        return self._part(index).location(int(self.index_in_part[index]))

    def _part(self, index: int) -> Rows:
        return self.parts[self.part_of[index]]
