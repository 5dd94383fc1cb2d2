"""Names of columns that lead into a column: `reward_model.ground_truth`, `messages.0.content`. Standard library only: graders read this file.

A column whose name holds the dots literally comes first, at every depth. A number is a position in a list. Where a column is JSON text, it is read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping


class Missing:
    """There is nothing at a path."""


MISSING = Missing()


def column_of(columns: Collection[str], name: str) -> str | None:
    """The column that a name leads into, which may be itself; None if there is none."""
    return next((head for head, _ in _splits(name) if head in columns), None)


def found_at(row: Mapping[str, object], name: str) -> object:
    """The value that a name leads to; `MISSING` if there is none."""
    for head, rest in _splits(name):
        if head in row.keys():  # noqa: SIM118 - of a `RowColumns` its columns only
            found = row[head] if not rest else _inside(row[head], rest)
            if not isinstance(found, Missing):
                return found
    return MISSING


def value_at(row: Mapping[str, object], name: str) -> object:
    """The value that a name leads to; None if there is none, as for a column that a row lacks."""
    found = found_at(row, name)
    return None if isinstance(found, Missing) else found


def part_of(value: object, column: str, name: str) -> object:
    """The value that a name leads to inside its column, of which `value` is the value; None if there is none."""
    return value_at({column: value}, name)


def keys_at(value: object) -> list[str]:
    """The names that may follow behind a value in a path."""
    opened = _opened(value)
    if isinstance(opened, Mapping):
        return [str(key) for key in opened]
    return [str(position) for position in range(len(opened))] if isinstance(opened, list) else []


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """The name as a whole, and then every way to cut it at a dot, the longest beginning first."""
    yield name, ""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        yield ".".join(parts[:length]), ".".join(parts[length:])


def _inside(value: object, rest: str) -> object:
    opened = _opened(value)
    if isinstance(opened, Mapping):
        return found_at(opened, rest)
    if isinstance(opened, list):
        return found_at({str(position): part for position, part in (*enumerate(opened), *_from_the_end(opened))}, rest)
    return MISSING


def _from_the_end(values: list[object]) -> list[tuple[int, object]]:
    return [(position - len(values), value) for position, value in enumerate(values)]


def _opened(value: object) -> object:
    """The value; of JSON text of an object or a list, what it says."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


class RowColumns(dict[str, object]):
    """A row in which a name may lead into a column; its items are its columns.

    Example: `RowColumns({"reward_model": {"ground_truth": "4"}})["reward_model.ground_truth"]` is `"4"`.
    """

    def __missing__(self, name: str) -> object:
        found = found_at(self, name)
        if isinstance(found, Missing):
            raise KeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and "." in name and not isinstance(found_at(self, name), Missing))

    def get(self, name: str, default: object = None) -> object:
        """The value of a column, or what the name leads to."""
        found = found_at(self, name)
        return default if isinstance(found, Missing) else found


class ColumnNames(tuple[str, ...]):
    """The names of columns. A name that leads into one of them is among them, as their values are not known."""

    __slots__ = ()

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(super(ColumnNames, self).__contains__(head) for head, _ in _splits(name))
