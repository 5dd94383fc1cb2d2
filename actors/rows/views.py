"""Views of rows: with renamed columns, with some of the columns, or several data sets as one. Nothing is copied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import cast

import numpy as np

from actors.rows.files import JsonValue, Row
from actors.rows.rows import Rows
from configs.contracts.column_paths import Missing, column_of, found_at, keys_at, part_of, value_at
from configs.contracts.errors import DataError
from configs.schema.sources import SourceSection

_LOOKED_INTO_ROWS = 100
_SHOWN_KEYS = 20


def prepared(rows: Rows, data: SourceSection, columns: Mapping[str, str] | None = None) -> Rows:
    """A view of the rows as settings name their columns: renamed, and with a column for every name that leads into one.

    Args:
        columns: those of `data.columns` that apply; all by default.

    Raises:
        DataError: an old name is no column.
    """
    return with_parts(renamed(rows, data.columns if columns is None else columns, "data.columns"), data.named_columns)


def renamed(rows: Rows, columns: Mapping[str, str], key: str) -> Rows:
    """A view of the rows with renamed columns.

    Args:
        columns: old name -> new name, each different. A column that already has the new name is hidden by the renamed one. An old name may lead into
            a column, which stays.
        key: the config key that holds the mapping, for errors: `data.columns`.

    Raises:
        DataError: an old name is no column.
    """
    for old in columns:
        require_column(rows, old, key)
    return renamed_unchecked(rows, columns)


def renamed_unchecked(rows: Rows, columns: Mapping[str, str]) -> Rows:
    """A view of the rows as of `renamed`; an old name that leads to nothing gives null."""
    if all(old == new and old in rows.columns for old, new in columns.items()):
        return rows
    kept = {column: column for column in rows.columns if column not in columns and column not in columns.values()}
    names = {old: columns.get(old, old) for old in rows.columns if old in columns or old in kept}
    inside = {new: old for old, new in columns.items() if old not in rows.columns}
    return ColumnRows(rows, {new: old for old, new in names.items()} | inside)


def with_parts(rows: Rows, names: Iterable[str]) -> Rows:
    """A view of the rows with one more column for every name that leads into a column, such as `extra_info.question`."""
    inside = [name for name in names if name not in rows.columns and column_of(rows.columns, name) is not None]
    return ColumnRows(rows, dict(zip((*rows.columns, *inside), (*rows.columns, *inside), strict=True))) if inside else rows


def hidden_columns(rows: Rows, columns: Mapping[str, str]) -> list[str]:
    """Sentences on the columns of these rows that `data.columns` hides behind a renamed one."""
    return [
        f"data.columns: the data's own column {new!r} is hidden by {old!r}, which gets its name"
        for old, new in columns.items()
        if new in rows.columns and new not in columns and old != new
    ]


def has_column(rows: Rows, name: str) -> bool:
    """True if the name is a column, or leads to something inside one in one of the first rows. Of no rows only the column is known."""
    if name in rows.columns:
        return True
    head = column_of(rows.columns, name)
    if head is None or not len(rows):
        return head is not None
    values = rows.values(head, range(min(len(rows), _LOOKED_INTO_ROWS)))
    return any(not isinstance(found_at({head: value}, name), Missing) for value in values)


def require_column(rows: Rows, column: str, key: str, remedy: str = "") -> None:
    """Raise DataError if `column` does not exist, with a list of the columns and the nearest name.

    Args:
        remedy: instead of giving columns other names.
    """
    if has_column(rows, column):
        return
    remedy = remedy or "correct the key, or give columns other names with data.columns: {theirs: ours}"
    head = column_of(rows.columns, column)
    if head is not None:
        value = next((value for value in rows.values(head, range(min(len(rows), _LOOKED_INTO_ROWS))) if value is not None), None)
        there = keys_at(value)
        near = get_close_matches(column.removeprefix(f"{head}."), there, n=1)
        hint = f" (did you mean {head}.{near[0]}?)" if near else ""
        within = f"which has {', '.join(there[:_SHOWN_KEYS])}" if there else f"which holds {str(value)[:_SHOWN_KEYS]!r}"
        raise DataError(f"{key} {column!r} leads to nothing in the column {head!r}, {within}{hint}; correct the key")
    lower = {name.lower(): name for name in rows.columns}
    near = get_close_matches(column.lower(), lower, n=1)
    hint = f" (did you mean {lower[near[0]]}?)" if near else ""
    raise DataError(f"{key} {column!r} is not in the data; the columns there are {', '.join(rows.columns)}{hint}; {remedy}")


@dataclass(frozen=True)
class ColumnRows:
    """Some columns of a data set, renamed, and parts of columns."""

    rows: Rows
    sources: Mapping[str, str]
    """Name in this view -> name in `rows`, which may lead into a column."""

    @property
    def notices(self) -> tuple[str, ...]:
        return self.rows.notices

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.sources)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> Row:
        row = self.rows.row(index)
        return {name: row[source] if source in row else _json(value_at(row, source)) for name, source in self.sources.items()}

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        source = self.sources[column]
        head = column_of(self.rows.columns, source)
        if head is None or head == source:
            return self.rows.values(source, indices)
        return [_json(part_of(value, head, source)) for value in self.rows.values(head, indices)]

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

    @property
    def notices(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(notice for part in self.parts for notice in part.notices))

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


def _json(value: object) -> JsonValue:
    """The part of a JSON value, which is one itself."""
    return cast("JsonValue", value)
