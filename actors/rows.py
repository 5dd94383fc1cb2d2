"""Data sets on disk and on the hub -> rows of JSON values.

JSON and CSV are read here rather than by `datasets`, for two reasons: its loaders turn texts that look like dates or
numbers into dates and numbers, which changes gold answers, and they do not say in which line a file is broken. CSV has no
types: its values stay text. Parquet is memory-mapped; hub data sets, and folders with named configurations, go through `datasets`.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cluster.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


class Rows(Protocol):
    """A data set: numbered rows that all have the same columns."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> dict[str, Any]:
        """One row, JSON values only; None where the row lacks a column."""
        ...

    def values(self, column: str, indices: Sequence[int]) -> list[Any]:
        """One column of some rows, in the order of `indices`."""
        ...

    def place(self, index: int) -> str:
        """Where a row comes from, for people: `train.jsonl:17`."""
        ...


@dataclass(frozen=True)
class RecordRows:
    """Rows that were read from text files."""

    columns: tuple[str, ...]
    records: Sequence[dict[str, Any]]
    places: Sequence[str]

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        return {column: _json_value(record.get(column)) for column in self.columns}

    def values(self, column: str, indices: Sequence[int]) -> list[Any]:
        return [_json_value(self.records[index].get(column)) for index in indices]

    def place(self, index: int) -> str:
        return self.places[index]


@dataclass(frozen=True)
class DatasetRows:
    """Rows of a `datasets.Dataset`, which stays on disk."""

    name: str
    dataset: Dataset

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def row(self, index: int) -> dict[str, Any]:
        return _json_value(self.dataset[index])

    def values(self, column: str, indices: Sequence[int]) -> list[Any]:
        return _json_value(self.dataset.select_columns([column])[list(indices)][column])

    def place(self, index: int) -> str:
        return f"{self.name}, row {index}"


def load_rows(path: str, *, name: str | None = None, split: str = "train") -> Rows:
    """Open a data set.

    Args:
        path: a JSON, JSONL, CSV or Parquet file, a folder of them, or a hub id.
        name: configuration of a hub data set.
        split: which split. In a folder, files named after splits (`test.jsonl`, `data/train-00000.parquet`) make them; a
            local data set that has only one split gives that one, whatever is asked for.

    Raises:
        DataError: there is no such data set, configuration, split or row; or a file is not what its name says (names file
            and line).
    """
    local = Path(path).expanduser()
    if local.is_dir() and name is None:
        rows = _read_folder(local, split)
    elif local.is_file():
        rows = _read_files([local])
    elif local.is_dir() or (_HUB_ID.fullmatch(path) and local.suffix not in SUFFIXES):
        rows = _load_with_datasets(path, name, split)
    else:
        raise DataError(f"data set {path} does not exist{_near(local)}; give a file, a folder or a hub id such as openai/gsm8k")
    if not len(rows):
        raise DataError(f"data set {path} is empty; it must have at least one row")
    return rows


def _near(path: Path) -> str:
    there = [str(other) for other in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(str(path), there, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _read_folder(folder: Path, split: str) -> Rows:
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    try:
        patterns = get_data_patterns(str(folder))
        found = DataFilesDict.from_patterns(patterns, base_path=str(folder), allowed_extensions=list(SUFFIXES))
    except (EmptyDatasetError, FileNotFoundError):
        found = {}
    files = {str(kind): sorted(map(Path, paths)) for kind, paths in found.items()}
    files = {kind: paths for kind, paths in files.items() if paths}
    if not files:
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
        raise DataError(f"folder {folder} holds no data ({there} there); put {', '.join(SUFFIXES)} files into it")
    if split not in files and len(files) > 1:
        raise DataError(f"folder {folder} has no split {split!r}; it has {', '.join(files)}")
    return _read_files(files.get(split) or next(iter(files.values())))


def _read_files(files: Sequence[Path]) -> Rows:
    kinds = {".json" if file.suffix == ".jsonl" else file.suffix for file in files}
    if len(kinds) > 1:
        raise DataError(f"folder {files[0].parent} mixes {' and '.join(sorted(kinds))} files; keep one kind, or name one file")
    kind = kinds.pop()
    if kind == ".parquet":
        return _read_parquet(files)
    if kind not in SUFFIXES:
        raise DataError(f"{files[0]} is of no kind that can be read; convert it to one of {', '.join(SUFFIXES)}")
    columns: dict[str, None] = {}
    records: list[dict[str, Any]] = []
    places: list[str] = []
    for file in files:
        for line, record in _csv_records(file) if kind == ".csv" else _json_records(file):
            columns.update(dict.fromkeys(record))
            records.append(record)
            places.append(f"{file}:{line}")
    return RecordRows(tuple(columns), records, places)


def _read_parquet(files: Sequence[Path]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset, concatenate_datasets

    parts = []
    for file in files:
        try:
            parts.append(Dataset(pq.read_table(file, memory_map=True)))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} is not a readable Parquet file: {error}") from None
    return DatasetRows(str(files[0]) if len(files) == 1 else str(files[0].parent), concatenate_datasets(parts))


def _text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 file, without a byte order mark at its start."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{file}:1:1: the file begins with a UTF-16 byte order mark (BOM); save it as UTF-8")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                column = len(line[: error.start].decode("utf-8")) + 1
                raise DataError(f"{file}:{number}:{column}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


def _json_records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of JSON Lines, or of one JSON list of objects, with the line (in a list: the place) of each."""
    lines = _text_lines(file)
    filled = ((number, line) for number, line in lines if line.strip())
    number, first = next(filled, (1, ""))
    if first.lstrip().startswith("["):
        rest = "".join(line for _, line in lines)
        yield from _json_list(file, "\n" * (number - 1) + first + rest)
        return
    if first:
        yield number, _json_object(file, number, first)
    for number, line in filled:
        yield number, _json_object(file, number, line)


def _json_object(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{number}:{error.colno}: not JSON: {error.msg}; every line must be one JSON object") from None
    if not isinstance(record, dict):
        raise DataError(f'{file}:{number}: {_shown(record)} is not a JSON object; every line must be one, such as {{"prompt": ...}}')
    return record


def _json_list(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}; the file must be one list of objects") from None
    for place, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{file}: entry {place} of the list, {_shown(record)}, is not a JSON object; every entry must be one")
        yield place, record


def _csv_records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader((line for _, line in _text_lines(file)), strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                wanted = len(reader.fieldnames or ())
                raise DataError(
                    f"{file}:{reader.line_num}: the row does not have the {wanted} fields of the header; quote fields that hold commas"
                )
            yield reader.line_num, record
    except csv.Error as error:
        raise DataError(f"{file}:{reader.reader.line_num}: not CSV: {error}; quote fields that hold commas, quotes or line ends") from None


def _load_with_datasets(path: str, name: str | None, split: str) -> Rows:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    called = f"data set {path}" + (f", configuration {name}" if name else "")
    try:
        dataset = datasets.load_dataset(path, name, split=split)
    except DatasetNotFoundError:
        raise DataError(f"{called}: neither a local file nor a data set that you can read on the hub; check its name, or log in") from None
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise DataError(f"{called} is a loader script, which is not executed; download its files and give their folder") from None
    except ValueError as error:
        raise DataError(f"{called}, split {split}: {error}") from None
    except (ConnectionError, OSError) as error:
        raise DataError(f"{called}: {error}; connect to the hub once to fill the cache, or give local files") from None
    return DatasetRows(path, dataset)


def _json_value(value: Any) -> Any:
    """The same value in JSON's types: rewards run in other processes, and rows travel there as JSON."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {str(key): _json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(part) for part in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
