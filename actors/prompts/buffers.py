"""Buffers of consecutive rows of a stream, filtered and counted; the last few stay in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from actors.prompts.decontamination import SHOWN, Contaminated
from actors.prompts.filters import RowFilters
from actors.prompts.rendering import PromptMaker
from actors.prompts.selection import PromptCounts, fit
from actors.rows.rows import Rows
from actors.rows.stream import RowStream
from configs.schema.data import DataSection

KEPT_BUFFERS = 4
"""Number of buffers in memory. Prompts in flight are from the last ones."""


@dataclass(frozen=True)
class Buffer:
    """Consecutive rows of a stream, and the training prompts among them."""

    start: int
    """Number of its first row."""
    rows: Rows
    kept: np.ndarray
    """int64, positions in `rows`, ascending."""
    tokens: np.ndarray
    """int32, lengths of the prompts of `kept`."""
    counts: PromptCounts
    contaminated: Sequence[Contaminated]


@dataclass
class Buffers:
    """The buffers of a stream, by the number of their first row."""

    data: DataSection
    maker: PromptMaker
    filters: RowFilters
    streams: list[RowStream]
    """Two readers of the same rows, the one used last at the end. One can read old buffers again while the other reads on."""
    known: Set[bytes]
    """Digests of held-out prompts."""
    counts: PromptCounts
    """Numbers of rows used, and left out by reason, among the rows read so far."""
    counted_to: int
    """Number of the first row that is not in `counts`."""

    def __post_init__(self) -> None:
        self._kept: OrderedDict[int, Buffer] = OrderedDict()
        self.contaminated: list[Contaminated] = []

    def at(self, start: int) -> Buffer:
        """The buffer that begins with row `start`.

        Raises:
            DataError: the data cannot be read, or a row is malformed.
        """
        if start not in self._kept:
            self._kept[start] = self._counted(self._read(start))
        self._kept.move_to_end(start)
        while len(self._kept) > KEPT_BUFFERS:
            self._kept.popitem(last=False)
        return self._kept[start]

    def restore(self, counts: PromptCounts, counted_to: int) -> None:
        """Continue the counts of an earlier run."""
        self.counts, self.counted_to = counts, counted_to

    def _read(self, start: int) -> Buffer:
        stream = next((stream for stream in self.streams if stream.position == start), self.streams[0])
        self.streams.sort(key=lambda other: other is stream)
        rows = stream.read(start, self.data.shuffle_buffer_size)
        filters = self.filters.fresh()
        fitting = fit(rows, np.arange(len(rows)), self.maker, self.data, "training", filters)
        new = [
            (position, tokens)
            for (position, digest), tokens in zip(fitting.digests.items(), fitting.tokens, strict=True)
            if digest not in self.known
        ]
        counts = PromptCounts(
            trained=len(new),
            held_out=0,
            too_long=fitting.too_long,
            also_held_out=len(fitting.digests) - len(new),
            longest_tokens=fitting.longest_tokens,
            rows=len(rows),
            outside_pass_rate=filters.outside_pass_rate,
            contaminated=dict(filters.contaminated),
        )
        kept, tokens = np.array([position for position, _ in new], dtype=np.int64), np.array([tokens for _, tokens in new], dtype=np.int32)
        return Buffer(start, rows, kept, tokens, counts, filters.examples)

    def _counted(self, buffer: Buffer) -> Buffer:
        if buffer.start >= self.counted_to:
            self.counts = self.counts + buffer.counts
            self.counted_to = buffer.start + len(buffer.rows)
            self.contaminated = [*self.contaminated, *buffer.contaminated][:SHOWN]
        return buffer
