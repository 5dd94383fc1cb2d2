"""Data sets on disk and on the hub -> rows of JSON values. `actors.rows.files` reads files, `actors.rows.hub` the hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from actors.rows.files import JsonValue, Row, is_data_file, kind_of, records, stripped_names
from actors.rows.folders import folder_notices, listed_files, split_files, unread_splits
from actors.rows.hub import load_with_datasets
from actors.rows.tables import TABLES, one_value_a_key, read_tables, reading_of_maps
from configs.contracts.errors import DataError
from configs.schema.sources import DataFiles, MixturePart

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Rows(Protocol):
    """A data set: numbered rows that all have the same columns."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences on what was left out or changed when the rows were read."""
        ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> Row:
        """One row, with None for every column that it lacks."""
        ...

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        """The values of one column, in the order of `indices`."""
        ...

    def location(self, index: int) -> str:
        """The source of a row as errors name it: `train.jsonl:17`."""
        ...


@dataclass(frozen=True)
class RecordRows:
    """Rows that were read from text files."""

    columns: tuple[str, ...]
    records: Sequence[Row]
    locations: Sequence[str]
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int) -> Row:
        record = self.records[index]
        return {column: json_value(record.get(column)) for column in self.columns}

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        return [json_value(self.records[index].get(column)) for index in indices]

    def location(self, index: int) -> str:
        return self.locations[index]


@dataclass(frozen=True)
class TableRows:
    """Rows of Parquet or Arrow files."""

    name: str
    table: pa.Table
    notices: tuple[str, ...] = ()

    @cached_property
    def _maps(self) -> Literal["strict"] | None:
        return reading_of_maps(self.table.schema)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.table.column_names)

    def __len__(self) -> int:
        return self.table.num_rows

    def row(self, index: int) -> Row:
        with one_value_a_key(self.location(index)):
            return json_row(self.table.slice(index, 1).to_pylist(maps_as_pydicts=self._maps)[0])

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        values = self.table.column(column)  # `take` does not know every type
        with one_value_a_key(self.name):
            return [json_value(values[index].as_py(maps_as_pydicts=self._maps)) for index in indices]

    def location(self, index: int) -> str:
        return f"{self.name}, row {index}"


@dataclass(frozen=True)
class DatasetRows:
    """Rows of a `datasets.Dataset`, which stays on disk."""

    name: str
    dataset: Dataset
    notices: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def row(self, index: int) -> Row:
        return json_row(self.dataset[index])

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        return [json_value(value) for value in self.dataset.select_columns([column])[list(indices)][column]]

    def location(self, index: int) -> str:
        return f"{self.name}, row {index}"


@dataclass(frozen=True)
class SlicedRows:
    """Some rows of a data set."""

    rows: Rows
    numbers: np.ndarray
    """int64 [rows]: their numbers in `rows`."""

    @property
    def columns(self) -> tuple[str, ...]:
        return self.rows.columns

    @property
    def notices(self) -> tuple[str, ...]:
        return self.rows.notices

    def __len__(self) -> int:
        return len(self.numbers)

    def row(self, index: int) -> Row:
        return self.rows.row(int(self.numbers[index]))

    def values(self, column: str, indices: Sequence[int]) -> list[JsonValue]:
        return self.rows.values(column, self.numbers[np.asarray(indices, np.int64)].tolist())

    def location(self, index: int) -> str:
        return self.rows.location(int(self.numbers[index]))


def load_rows(path: str, *, name: str | None = None, split: str = "train", data_files: DataFiles | None = None) -> Rows:
    """Open a data set.

    Args:
        path: a JSON, JSONL, CSV, Parquet or Arrow file, a folder of them or of `save_to_disk`, or a hub id.
        name: configuration of a hub data set.
        split: name of the split, or slices of it as `datasets` writes them: `train[:1000]`, `train[:10%]+train[90%:]`. Names of files in
            a folder say their split (`test.jsonl`, `data/train-00000.parquet`); if a local data set has only one split, it is taken,
            whatever the name is.
        data_files: the files of `path` to read.

    Raises:
        DataError: there is no such data set, configuration or split, there are no rows, or a file cannot be read (names file
            and line).
    """
    return load_part(MixturePart(path=path, name=name, split=split, data_files=data_files))


def load_part(part: MixturePart) -> Rows:
    """Open a data set, or one of a mixture, with all its columns. Errors are those of `load_rows`."""
    files = local_files(part)
    if files is None:
        rows = DatasetRows(part.source, load_with_datasets(part))
    else:
        rows = _sliced(_read_files(files, notices_of(part, files)), part.source, part.split)
    if not len(rows):
        raise DataError(f"data set {part.source} is empty; it must have at least one row")
    return rows


def local_files(part: MixturePart) -> list[Path] | None:
    """The files of a local data set; None if `datasets` must find them, on the hub or in a folder with named configurations.

    Raises:
        DataError: there is no such data set, or no such split.
    """
    path, local, split = part.path, Path(part.path).expanduser(), split_name(part.split)
    if part.data_files is not None and (files := listed_files(path, part.data_files, split)) is not None:
        return files
    if local.is_dir() and part.name is None:
        return _saved_files(local, split) or split_files(local, split)
    if local.is_file():
        return [local]
    if not local.is_dir() and (not _HUB_ID.fullmatch(path) or is_data_file(local)):
        raise DataError(f"data set {path} does not exist{_near(local)}; give a file, a folder or a hub id such as openai/gsm8k")
    return None


def notices_of(part: MixturePart, files: Sequence[Path]) -> tuple[str, ...]:
    """Sentences on files that are left out, and on names of columns that are changed."""
    folder, split = Path(part.path).expanduser(), split_name(part.split)
    found = unread_splits(part.data_files, split)
    if part.data_files is None and folder.is_dir() and not _is_saved(folder):
        found += folder_notices(folder, split, files)
    stripped = {name: file for file in files for name in stripped_names(file)}
    return (*found, *(f"{file}: the blanks around the column {name!r} are removed" for name, file in stripped.items()))


def split_name(split: str) -> str:
    """The split that slices are of: `train` of `train[:10%]+train[90%:]`."""
    return re.split(r"[\[+]", split, maxsplit=1)[0]


def _sliced(rows: Rows, path: str, split: str) -> Rows:
    """Take the slices of a split, by the rules of `datasets`.

    Raises:
        DataError: they cannot be read, are of several splits, or hold no row.
    """
    if split == split_name(split) or not len(rows):
        return rows
    from datasets import ReadInstruction

    try:
        slices = ReadInstruction.from_spec(split).to_absolute({split_name(split): len(rows)})
    except ValueError as error:
        raise DataError(f"split {split!r} of {path}: {error}; write slices of one split, such as train[:1000] or train[10%:20%]") from None
    numbers = np.concatenate([np.arange(each.from_, each.to) for each in slices])
    if not len(numbers):
        raise DataError(f"split {split!r} of {path} holds none of its {len(rows)} rows; widen the slice")
    return SlicedRows(rows, numbers)


def _saved_files(folder: Path, split: str) -> list[Path] | None:
    """The Arrow files, in order, of a folder that `save_to_disk` wrote; None for another folder."""
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = json.loads(splits.read_text(encoding="utf-8"))["splits"]
        if split not in names and len(names) > 1:
            raise DataError(f"folder {folder} has no split {split!r}; it has {', '.join(names)}")
        folder = folder / (split if split in names else names[0])
    state = folder / "state.json"
    if not state.is_file():
        return None
    return [folder / file["filename"] for file in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]


def _is_saved(folder: Path) -> bool:
    """True for a folder that `save_to_disk` wrote."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _near(path: Path) -> str:
    there = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(str(path), there, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _read_files(files: Sequence[Path], notices: Sequence[str]) -> Rows:
    if kind_of(files) in TABLES:
        name = str(files[0]) if len(files) == 1 else str(files[0].parent)
        table, lacking = read_tables(files)
        return TableRows(name, table, (*notices, *lacking))
    columns: dict[str, None] = {}
    found: list[Row] = []
    locations: list[str] = []
    first_of: dict[Path, Row] = {}
    for file in files:
        before = len(found)
        for location, record in records(file):
            columns.update(dict.fromkeys(record))
            found.append(record)
            locations.append(location)
        first_of |= {file: found[before]} if len(found) > before else {}
    empty = [f"{file} holds no row" for file in files if file not in first_of] if found else []
    return RecordRows(tuple(columns), found, locations, (*notices, *empty, *_differences(first_of)))


def _differences(first_of: Mapping[Path, Row]) -> list[str]:
    """Sentences on the columns that files do not share, or hold with other types, by the first row of each."""
    told: dict[str, str] = {}
    (first_file, first), *others = first_of.items() or [(Path(), {})]
    for file, row in others:
        for column in dict.fromkeys([*first, *row]):
            if (column in first) != (column in row):
                having, lacking = (first_file, file) if column in first else (file, first_file)
                told.setdefault(
                    column, f"column {column!r} is in the first row of {having} and not in that of {lacking}: a row without it has null"
                )
            elif (one := _type(first[column])) and (other := _type(row[column])) and one != other:
                told.setdefault(column, f"column {column!r} is {one} in the first row of {first_file} and {other} in that of {file}")
    return list(told.values())


def _type(value: JsonValue) -> str:
    """The JSON type of a value; "" of null."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "")


def json_row(record: Mapping[str, object]) -> Row:
    """Convert every value of a row to a JSON type."""
    return {str(column): json_value(value) for column, value in record.items()}


def json_value(value: object) -> JsonValue:
    """Convert a value to a JSON type: rows travel as JSON to the processes of the rewards."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(part) for part in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
