"""A data set that is read in order, from any row, and no further than needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.rows.files import Row, kind_of, records
from actors.rows.hub import stream_with_datasets
from actors.rows.permutation import permutation
from actors.rows.rows import RecordRows, Rows, json_row, local_files
from actors.rows.sources import local_path, require_split_of_file
from actors.rows.views import renamed
from configs.contracts.errors import DataError
from configs.schema.sources import SourceSection

if TYPE_CHECKING:
    from datasets import IterableDataset

Record = tuple[str, Row]
"""The location of a row, and the row."""

_STREAMS_OF_AN_EPOCH = 2**32
"""Random streams of one epoch: one for each possible first row of a buffer."""

_ROWS_FOR_COLUMNS = 100
"""Number of first rows that decide on the columns of a stream. Later rows have None for a column that they lack, and no other columns."""


@dataclass
class RowStream:
    """Rows in order. A read that begins where the last one ended is cheap; any other opens the data again and skips rows."""

    open_at: Callable[[int], Iterator[Record]]
    """Iterate over the rows from a row number on."""
    columns: tuple[str, ...]
    names: Mapping[str, str]
    """`data.columns`."""
    position: int = -1
    """Number of the row after the last read."""
    _reader: Iterator[Record] = field(default_factory=lambda: iter(()))

    def read(self, start: int, count: int) -> Rows:
        """Rows `start` to `start + count` (exclusive), fewer at the end of the data.

        Raises:
            DataError: the data cannot be read, or lack a column of `names`.
        """
        if start != self.position:
            self._reader = self.open_at(start)
        read = list(islice(self._reader, count))
        self.position = start + len(read)
        rows = RecordRows(self.columns, [record for _, record in read], [location for location, _ in read])
        return renamed(rows, self.names, "data.columns")


def buffer_order(count: int, seed: int, epoch: int, start: int, shuffle: bool) -> np.ndarray:
    """The order in which an epoch draws `count` entries of the buffer that begins with row `start`: int64 [count]."""
    return permutation(count, seed, epoch * _STREAMS_OF_AN_EPOCH + start) if shuffle else np.arange(count)


def next_buffer(epoch: int, start: int, rows: int, data: SourceSection, first_row: int) -> tuple[int, int]:
    """Epoch and first row of the buffer after one of `rows` rows. A buffer that is not full is the last one of its epoch."""
    return (epoch, start + rows) if rows == data.shuffle_buffer_size else (epoch + 1, first_row)


def open_stream(data: SourceSection, folder: Path, seed: int) -> RowStream:
    """Open `data.path` as a stream. Arguments are those of `actors.rows.sources.open_rows`.

    Raises:
        DataError: there is no such data set, or it is empty.
    """
    require_split_of_file(str(data.path), data.split, "data.split")
    path = local_path(str(data.path), folder, seed, data.task)
    open_at = _opener(path, data)
    columns = dict.fromkeys(column for _, record in islice(open_at(0), _ROWS_FOR_COLUMNS) for column in record)
    if not columns:
        raise DataError(f"data set {path} is empty; it must have at least one row")
    return RowStream(open_at, tuple(columns), data.columns)


def _opener(path: str, data: SourceSection) -> Callable[[int], Iterator[Record]]:
    files = local_files(path, data.name, data.split)
    if files is not None:
        kind_of(files)
        return lambda start: _from_files(files, start)
    dataset = stream_with_datasets(path, data.name, data.split)
    return lambda start: _from_dataset(path, dataset, start)


def _from_files(files: Sequence[Path], start: int) -> Iterator[Record]:
    everything = (record for file in files for record in records(file))
    for location, record in islice(everything, start, None):
        yield location, json_row(record)


def _from_dataset(path: str, dataset: IterableDataset, start: int) -> Iterator[Record]:
    try:
        for number, record in enumerate(dataset.skip(start), start):
            yield f"{path}, row {number}", json_row(record)
    except (OSError, ValueError) as error:
        raise DataError(f"data set {path} broke off while it was read: {error}; run the same command again to go on") from error
