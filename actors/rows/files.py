"""Data files -> rows, each with its location; errors name file and line.

JSON and CSV are read here rather than by `datasets`, for two reasons: its loaders turn texts that look like dates or
numbers into dates and numbers, which changes gold answers, and they do not say in which line a file is broken. CSV has no
types: its values stay text. Parquet and Arrow files are memory-mapped.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from configs.contracts.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

Row: TypeAlias = dict[str, JsonValue]
"""One row: values by the name of their column."""

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")

_BATCH_ROWS = 1024


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of one split of a folder, in the order of their names.

    The names of files say their split (`test.jsonl`, `data/train-00000.parquet`). If there is only one split, it is taken,
    whatever `split` says.

    Raises:
        DataError: the folder holds no data, or several splits without this one.
    """
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
    return files.get(split) or next(iter(files.values()))


def kind_of(files: Sequence[Path]) -> str:
    """The common suffix of these files, `.json` for `.jsonl`.

    Raises:
        DataError: they have several suffixes, or one that cannot be read.
    """
    kinds = {".json" if file.suffix == ".jsonl" else file.suffix for file in files}
    if len(kinds) > 1:
        raise DataError(f"folder {files[0].parent} mixes {' and '.join(sorted(kinds))} files; keep one kind, or name one file")
    kind = kinds.pop()
    if kind not in SUFFIXES:
        raise DataError(f"{files[0]} cannot be read; convert it to one of {', '.join(SUFFIXES)}")
    return kind


def records(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of one file, each after its location as errors name it (`train.jsonl:17`).

    Raises:
        DataError: the content does not fit the suffix of the file.
    """
    kind = kind_of([file])
    if kind in (".parquet", ".arrow"):
        yield from _batched_records(file)
        return
    for line, record in _csv_records(file) if kind == ".csv" else _json_records(file):
        yield f"{file}:{line}", record


def read_table(file: Path) -> pa.Table:
    """Memory-map a Parquet or Arrow file.

    Raises:
        DataError: it is not readable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            return pq.read_table(file, memory_map=True)
        with _opened_arrow(file) as reader:
            return reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _opened_arrow(file: Path) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """Open an Arrow file, either with a footer (the file format) or without one (the stream format, which `datasets` writes)."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(file)))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(pa.memory_map(str(file)))


def _batched_records(file: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix == ".parquet":
            batches = pq.ParquetFile(file).iter_batches(_BATCH_ROWS)
        else:
            reader = _opened_arrow(file)
            has_footer = isinstance(reader, pa.ipc.RecordBatchFileReader)
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if has_footer else reader
        number = 0
        for batch in batches:
            for record in batch.to_pylist():
                yield f"{file}, row {number}", record
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} is not a readable {file.suffix[1:].capitalize()} file: {error}")


def _text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers from 1, without a byte order mark."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{file}:1:1: the file begins with a UTF-16 byte order mark (BOM); save it as UTF-8")
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                column = len(line[: error.start].decode("utf-8")) + 1
                raise DataError(f"{file}:{number}:{column}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


def _json_records(file: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of JSON Lines, or of one JSON list of objects, each after its line (in a list: its position from 1)."""
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


def _json_object(file: Path, number: int, line: str) -> Row:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{number}:{error.colno}: not JSON: {error.msg}; every line must be one JSON object") from None
    if not isinstance(record, dict):
        raise DataError(f'{file}:{number}: {_shown(record)} is not a JSON object; every line must be one, such as {{"prompt": ...}}')
    return record


def _json_list(file: Path, text: str) -> Iterator[tuple[int, Row]]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}; the file must be one list of objects") from None
    for position, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{file}: entry {position} of the list, {_shown(record)}, is not a JSON object; every entry must be one")
        yield position, record


def _csv_records(file: Path) -> Iterator[tuple[int, Row]]:
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


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
