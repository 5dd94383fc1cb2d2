"""Parquet and Arrow files -> one table, or rows one after another.

Every type that Arrow has is read: dictionaries, large and view strings and run-end encoding give their values, a `map` gives an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.contracts.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = (".parquet", ".arrow")
"""Suffixes of these files."""

_BATCH_ROWS = 1024


def read_tables(files: Sequence[Path]) -> tuple[pa.Table, tuple[str, ...]]:
    """Memory-map Parquet or Arrow files as one table; returns it with sentences on columns that some of them lack.

    Raises:
        DataError: one is not readable, or a column has types that do not fit together.
    """
    import pyarrow as pa

    tables = [_read_table(file) for file in files]
    columns = list(dict.fromkeys(name for table in tables for name in table.column_names))
    try:
        whole = pa.concat_tables(tables, promote_options="permissive") if len(tables) > 1 else tables[0]
    except (pa.ArrowException, TypeError) as error:
        raise DataError(_misfit(files, tables, columns) or f"folder {files[0].parent}: its files do not fit together: {error}") from None
    lacking = {column: [file for file, table in zip(files, tables, strict=True) if column not in table.column_names] for column in columns}
    return whole, tuple(
        f"column {column!r} is not in {', '.join(file.name for file in without)}: the rows there have null"
        for column, without in lacking.items()
        if without
    )


def reading_of_maps(schema: pa.Schema) -> Literal["strict"] | None:
    """The argument `maps_as_pydicts` of `to_pylist`: a map becomes an object, or an error if it has a key twice. Without maps it only costs time."""
    return "strict" if any("map<" in str(field.type) for field in schema) else None


@contextmanager
def one_value_a_key(name: str) -> Iterator[None]:
    """Refuse maps in which a key is there twice, as a JSON object with one is refused.

    Raises:
        DataError: there is such a map; `name` is where.
    """
    try:
        yield
    except KeyError as error:
        raise DataError(f"{name}: a map has a key twice, with two values ({error}); rename or remove one") from None


def _misfit(files: Sequence[Path], tables: Sequence[pa.Table], columns: Sequence[str]) -> str:
    """Name the first column whose types do not fit together, with the files."""
    import pyarrow as pa

    for column in columns:
        having = [(file, table.schema.field(column)) for file, table in zip(files, tables, strict=True) if column in table.column_names]
        first, field = having[0]
        for file, other in having[1:]:
            try:
                pa.unify_schemas([pa.schema([field]), pa.schema([other])], promote_options="permissive")
            except (pa.ArrowException, TypeError):
                return (
                    f"column {column!r} is {field.type} in {first} and {other.type} in {file}; write both with one type, or leave one file out with "
                    "data.data_files"
                )
    return ""


def require_one_name_each(file: Path, names: Sequence[str]) -> None:
    """Raise DataError if two columns have one name."""
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise DataError(f"{file} has two columns called {doubled!r}; rename or remove one")


def _read_table(file: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix.lower() == ".parquet":
            table = pq.ParquetFile(file, memory_map=True).read()
        else:
            with _opened_arrow(file) as reader:
                table = reader.read_all()
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None
    require_one_name_each(file, table.column_names)
    return table


def _opened_arrow(file: Path) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    """Open an Arrow file, either with a footer (the file format) or without one (the stream format, which `datasets` writes)."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(file)))
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(pa.memory_map(str(file)))


def table_records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of one file, each after its location. A map is an object.

    Raises:
        DataError: it is not readable.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if file.suffix.lower() == ".parquet":
            opened = pq.ParquetFile(file)
            require_one_name_each(file, opened.schema_arrow.names)
            batches, maps = opened.iter_batches(_BATCH_ROWS), reading_of_maps(opened.schema_arrow)
        else:
            reader = _opened_arrow(file)
            require_one_name_each(file, reader.schema.names)
            maps = reading_of_maps(reader.schema)
            has_footer = isinstance(reader, pa.ipc.RecordBatchFileReader)
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if has_footer else reader
        number = 0
        for batch in batches:
            with one_value_a_key(str(file)):
                rows = batch.to_pylist(maps_as_pydicts=maps)
            for record in rows:
                yield f"{file}, row {number}", record
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} is not a readable {file.suffix[1:].capitalize()} file: {error}")
