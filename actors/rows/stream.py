"""A data set that is read in order, from any row, and no further than needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.rows.files import Row, kind_of, records
from actors.rows.hub import stream_with_datasets
from actors.rows.permutation import permutation
from actors.rows.rows import RecordRows, Rows, json_row, local_files, notices_of
from actors.rows.sources import local_part
from actors.rows.views import prepared, renamed_unchecked, with_parts
from configs.contracts.errors import DataError
from configs.schema.sources import MixturePart, SourceSection

if TYPE_CHECKING:
    from datasets import IterableDataset

logger = logging.getLogger(__name__)

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
    data: SourceSection
    """Names of columns, and new ones."""
    notices: list[str] = field(default_factory=list)
    """Sentences on what was left out or changed when rows were read."""
    logs: bool = False
    """Log notices as they come; those before were told by whoever opened the stream."""
    position: int = -1
    """Number of the row after the last read."""
    _reader: Iterator[Record] = field(default_factory=lambda: iter(()))
    _known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._known.update(self.columns)

    def again(self) -> RowStream:
        """Another reader of the same rows; what one of them has told the other does not tell again."""
        return replace(self, position=-1, _reader=iter(()))

    def read(self, start: int, count: int) -> Rows:
        """Rows `start` to `start + count` (exclusive), fewer at the end of the data.

        Raises:
            DataError: the data cannot be read, or lack a column of `names`.
        """
        if start != self.position:
            self._reader = self.open_at(start)
        read = list(islice(self._reader, count))
        self.position = start + len(read)
        self._note_other_columns(read)
        return self._view(read)

    def require_columns(self, first: Sequence[Record]) -> None:
        """Raise DataError if the first rows lack a column of `data.columns`."""
        prepared(RecordRows(self.columns, [record for _, record in first], [location for location, _ in first]), self.data)

    def _view(self, read: Sequence[Record]) -> Rows:
        rows = RecordRows(self.columns, [record for _, record in read], [location for location, _ in read])
        return with_parts(renamed_unchecked(rows, self.data.columns), self.data.named_columns)

    def _note_other_columns(self, read: Sequence[Record]) -> None:
        """Note, once each, the columns that a row has and the first rows had not: they are not read."""
        known = self._known
        for location, record in read:
            if record.keys() <= known:
                continue
            for column in record.keys() - known:
                sentence = f"{location}: the column {column!r} is not in the first {_ROWS_FOR_COLUMNS} rows of the stream, and is not read"
                self.notices.append(sentence)
                if self.logs:
                    logger.warning("%s", sentence)
                known.add(column)


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
    part = local_part(data, folder, seed)
    files = local_files(part)
    open_at = _opener(part, files)
    first = list(islice(open_at(0), _ROWS_FOR_COLUMNS))
    columns = dict.fromkeys(column for _, record in first for column in record)
    if not columns:
        raise DataError(f"data set {part.source} is empty; it must have at least one row")
    stream = RowStream(open_at, tuple(columns), data, [] if files is None else list(notices_of(part, files)))
    stream.require_columns(first)
    return stream


def _opener(part: MixturePart, files: Sequence[Path] | None) -> Callable[[int], Iterator[Record]]:
    if files is not None:
        kind_of(files)
        return lambda start: _from_files(files, start)
    dataset = stream_with_datasets(part)
    return lambda start: _from_dataset(part.source, dataset, start)


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
