"""Data too large to tokenise at once -> a deterministic, resumable stream of demonstrations, read as they are needed.

    rows ── the first are held out ── buffers of `shuffle_buffer_size` ── `actors.demonstrations.samples` ── shuffle the buffer ──► batch

Buffers and their order are those of streamed prompts (`actors.prompts.streamed`): an epoch, the first row of a buffer and a position in its order
are a complete cursor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
import pyarrow as pa

from actors.demonstrations.conversation import Sample
from actors.demonstrations.counting import DemonstrationCounts
from actors.demonstrations.indexed import DemonstrationFile, open_apart, write_file
from actors.demonstrations.samples import CountedRows, SampleMaker, record_batch, require_demonstrations, require_some
from actors.prompts.selection import held_out_of_stream
from actors.rows.files import JsonValue
from actors.rows.stream import buffer_order, next_buffer, open_stream
from actors.rows.unused import first_values
from configs.schema.sft import SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class DemonstrationCursor(TypedDict):
    """Position in the stream, as a checkpoint stores it."""

    epoch: int
    row: int
    """The first row of the buffer that sequences are drawn from."""
    drawn: int
    """Sequences drawn from that buffer."""
    counts: dict[str, Any]
    """`DemonstrationCounts` of the rows read so far."""
    counted_to: int
    """The first row that is not in `counts`."""


@dataclass(frozen=True)
class _Buffer:
    """Consecutive rows of the stream."""

    start: int
    rows: int
    samples: list[Sample]
    counts: DemonstrationCounts
    first_values: Mapping[str, JsonValue]


class StreamedDemonstrations:
    """Demonstrations that are read as they are needed. They never end: the first row follows the last one.

    Held-out rows come from `data.eval_path`, or are the first `data.eval_samples` rows. Arguments are those of `DemonstrationSource`.

    Raises:
        DataError: the data are missing or empty, or no row is left to train on.
    """

    def __init__(self, data: SftDataSection, tokenizer: PreTrainedTokenizerBase, seed: int, folder: Path) -> None:
        self._data, self._seed = data, seed % 2**64
        self._maker = SampleMaker(data, tokenizer)
        self._stream = open_stream(data, folder, seed)
        require_demonstrations(data, self._stream.read(0, 0))
        apart = open_apart(data, folder, seed)
        rows, indices, self._first_row = held_out_of_stream(data, self._stream, apart, self._seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.held_out: DemonstrationFile = write_file(folder / "eval.arrow", self._maker, CountedRows.of(rows), indices, held_out=True)
        self.counts = DemonstrationCounts()
        """The counts of the rows read so far."""
        self._epoch, self._start, self._drawn, self._counted_to = 0, self._first_row, 0, self._first_row
        self._buffer = self._first_buffer()
        self.first_values: Mapping[str, JsonValue] = self._buffer.first_values
        """Every column of the data with its first value."""
        self.notices: tuple[str, ...] = (*self._stream.notices, *(() if apart is None else apart.notices))
        """Sentences on what was left out or changed when the first rows were read."""
        self._stream.logs = True
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        first = self._buffer.samples[0]
        facts = f"{data.model_dump_json()}/{self._seed}/".encode() + first.token_ids_T.tobytes() + first.trained_T.tobytes()
        self.digest: str = hashlib.blake2b(facts, digest_size=16).hexdigest()
        """A digest that tells these demonstrations from others: settings, seed, and the first row as tokens."""

    def draw(self, count: int) -> pa.Table:
        """Draw the next sequences, in the format `DEMONSTRATION_SCHEMA`.

        Raises:
            DataError: the data cannot be read.
        """
        return pa.Table.from_batches([record_batch([self._next() for _ in range(count)])])

    def cursor(self) -> DemonstrationCursor:
        """The position in the stream and the counts so far, as JSON."""
        return {
            "epoch": self._epoch,
            "row": self._start,
            "drawn": self._drawn,
            "counts": asdict(self.counts),
            "counted_to": self._counted_to,
        }

    def restore(self, cursor: Mapping[str, object]) -> None:
        """Continue at the position at which `cursor` was taken, from demonstrations of the same digest."""
        stored = cast(DemonstrationCursor, cursor)
        self._epoch, self._start, self._drawn = stored["epoch"], stored["row"], stored["drawn"]
        self.counts, self._counted_to = DemonstrationCounts(**stored["counts"]), stored["counted_to"]

    def _next(self) -> Sample:
        while self._drawn >= len(self._at(self._start).samples):
            self._epoch, self._start = next_buffer(self._epoch, self._start, self._buffer.rows, self._data, self._first_row)
            self._drawn = 0
        place = (self._epoch, self._start)
        if self._order is None or self._order[0] != place:
            self._order = place, buffer_order(len(self._buffer.samples), self._seed, *place, self._data.shuffle)
        self._drawn += 1
        return self._buffer.samples[self._order[1][self._drawn - 1]]

    def _at(self, start: int) -> _Buffer:
        """The buffer that begins with row `start`, which is then the one in memory."""
        if self._buffer.start != start:
            self._buffer = self._read(start)
        return self._buffer

    def _read(self, start: int) -> _Buffer:
        rows = CountedRows.of(self._stream.read(start, self._data.shuffle_buffer_size))
        buffer = _Buffer(start, len(rows.rows), self._maker.made(rows, range(len(rows.rows))), rows.counts, first_values(rows.rows))
        if start >= self._counted_to:
            self.counts, self._counted_to = self.counts + buffer.counts, start + buffer.rows
        return buffer

    def _first_buffer(self) -> _Buffer:
        """The first buffer that has a sequence to train on."""
        buffer = self._read(self._first_row)
        while not buffer.samples and buffer.rows == self._data.shuffle_buffer_size:
            buffer = self._read(buffer.start + buffer.rows)
        require_some(self._data, self.counts, self._maker.unusable)
        return buffer
