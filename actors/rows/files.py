"""Data files -> rows, each with its location; errors name file and line.

JSON and CSV are read here rather than by `datasets`, for two reasons: its loaders turn texts that look like dates or
numbers into dates and numbers, which changes gold answers, and they do not say in which line a file is broken. CSV has no
types: its values stay text. Text files may be compressed. Parquet and Arrow files are read in `actors.rows.tables`.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeAlias, cast

from actors.rows.tables import TABLES, table_records
from configs.contracts.errors import DataError

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

Row: TypeAlias = dict[str, JsonValue]
"""One row: values by the name of their column."""

SUFFIXES = (".json", ".jsonl", ".csv", *TABLES, ".ndjson")

_JSON = (".json", ".jsonl", ".ndjson")

_COMPRESSED = (".gz", ".xz", ".bz2", ".zst")
"""Last suffixes of compressed text files."""

_MAGIC = {
    b"\x1f\x8b": "is compressed by gzip; call it {}.gz",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; call it {}.zst",
    b"\xfd7zXZ": "is compressed by xz; call it {}.xz",
    b"BZh": "is compressed by bzip2; call it {}.bz2",
    b"PAR1": "is a Parquet file; call it {}.parquet",
    b"PK\x03\x04": "is a zip archive or a spreadsheet; unpack it, or save the sheet as CSV",
}
"""First bytes of files that are no text -> what is to be done about them."""


def suffix_of(file: Path) -> str:
    """The suffix that tells the content of a file, in lower case: `.jsonl` of `a.jsonl.gz`."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    return suffixes[0] if len(suffixes) == 2 and suffixes[1] in _COMPRESSED else suffixes[-1] if suffixes else ""


def is_compressed(file: Path) -> bool:
    """Look at the last suffix of the file's name."""
    return file.suffix.lower() in _COMPRESSED


def is_data_file(file: Path) -> bool:
    """True if the file's name says that rows can be read from it."""
    return suffix_of(file) in SUFFIXES


def kind_of(files: Sequence[Path]) -> str:
    """The common suffix of these files, `.json` for `.jsonl`.

    Raises:
        DataError: they have several suffixes, or one that cannot be read.
    """
    kinds = {".json" if (suffix := suffix_of(file)) in _JSON else suffix for file in files}
    if len(kinds) > 1:
        raise DataError(
            f"folder {files[0].parent} mixes {' and '.join(sorted(kinds))} files; keep one kind, or name the files of one kind in data.data_files"
        )
    kind = kinds.pop()
    if kind not in SUFFIXES or (kind in TABLES and is_compressed(files[0])):
        raise DataError(
            f"{files[0]} cannot be read; convert it to one of {', '.join(SUFFIXES)} (text files may end in {', '.join(_COMPRESSED)} as well)"
        )
    return kind


def records(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of one file, each after its location as errors name it (`train.jsonl:17`).

    Raises:
        DataError: the content does not fit the suffix of the file.
    """
    kind = kind_of([file])
    if kind in TABLES:
        yield from table_records(file)
        return
    for line, record in _csv_records(file) if kind == ".csv" else _json_records(file):
        yield f"{file}:{line}", record


def stripped_names(file: Path) -> list[str]:
    """The names in the header of a CSV file that have blanks around them, which are removed.

    Raises:
        DataError: the header cannot be read.
    """
    if kind_of([file]) != ".csv":
        return []
    header = next(csv.reader(line for _, line in _text_lines(file)), [])
    return [name for name in header if name != name.strip()]


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    """Open a text file for reading, decompressed.

    Raises:
        DataError: it is not compressed as its name says, or cut off.
    """
    if not is_compressed(file):
        with file.open("rb") as lines:
            yield lines
        return
    import pyarrow as pa

    try:
        with _decompressing(file) as lines:
            yield lines
    except (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, gzip.BadGzipFile):
            raise
        raise DataError(
            f"{file} is not a whole {file.suffix[1:]} file: {error}; get it again, or remove the suffix if it is none"
        ) from None


def _decompressing(file: Path) -> IO[bytes]:
    match file.suffix.lower():
        case ".gz":
            return cast("IO[bytes]", gzip.open(file))
        case ".xz":
            return cast("IO[bytes]", lzma.open(file))
        case ".bz2":
            return cast("IO[bytes]", bz2.open(file))
        case _:
            import pyarrow as pa

            decompressed = pa.CompressedInputStream(pa.OSFile(str(file)), "zstd")
            return cast("IO[bytes]", io.BufferedReader(decompressed, 1 << 16))  # pyright: ignore[reportArgumentType]


def _text_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers from 1, without a byte order mark."""
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                _require_text(file, line)
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                column = len(line[: error.start].decode("utf-8")) + 1
                raise DataError(f"{file}:{number}:{column}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8") from None


def _require_text(file: Path, line: bytes) -> None:
    """Raise DataError if the first line begins as another kind of file does."""
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{file}:1:1: the file begins with a UTF-16 byte order mark (BOM); save it as UTF-8")
    for magic, remedy in _MAGIC.items():
        if line.startswith(magic):
            raise DataError(f"{file} {remedy.format(file.with_suffix('').name if 'Parquet' in remedy else file.name)}")


class _DoubledKeyError(ValueError):
    """A JSON object has one key twice, of which Python would keep the last value."""


def _object(pairs: list[tuple[str, JsonValue]]) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise _DoubledKeyError(f"the key {doubled!r} is there twice in one object, with two values; rename or remove one")
    return found


_decoder = json.JSONDecoder(object_pairs_hook=_object)


def _decode(text: str) -> JsonValue:
    """The value of JSON text, of which no object has a key twice.

    Raises:
        JSONDecodeError, _DoubledKeyError: it is no JSON, or one has.
    """
    if text.startswith("\ufeff"):
        raise json.JSONDecodeError("a byte order mark (BOM) in front of it; remove it", text, 0)
    return _decoder.decode(text)


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
        record = _decode(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{number}:{error.colno}: not JSON: {error.msg}; every line must be one JSON object") from None
    except _DoubledKeyError as error:
        raise DataError(f"{file}:{number}: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f'{file}:{number}: {_shown(record)} is not a JSON object; every line must be one, such as {{"prompt": ...}}')
    return record


def _json_list(file: Path, text: str) -> Iterator[tuple[int, Row]]:
    try:
        records = cast("list[JsonValue]", _decode(text))  # it begins with a bracket
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}; the file must be one list of objects") from None
    except _DoubledKeyError as error:
        raise DataError(f"{file}: {error}") from None
    for position, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise DataError(f"{file}: entry {position} of the list, {_shown(record)}, is not a JSON object; every entry must be one")
        yield position, record


def _csv_records(file: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line for _, line in _text_lines(file)), strict=True)
    try:
        names = _header(file, next(reader, []))
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{file}:{reader.line_num}: the row has {len(cells)} fields, and does not have the {len(names)} fields of the header; quote "
                    "fields that hold commas"
                )
            yield reader.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: not CSV: {error}; quote fields that hold commas, quotes or line ends") from None


def _header(file: Path, cells: list[str]) -> list[str]:
    """The names of the columns, without blanks around them.

    Raises:
        DataError: two are equal, so that the values of one would be lost.
    """
    names = [cell.strip() for cell in cells]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        numbers = [str(number) for number, name in enumerate(names, start=1) if name == doubled]
        raise DataError(f"{file}:1: the columns {' and '.join(numbers)} of the header are both called {doubled!r}; rename or remove one")
    return names


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
