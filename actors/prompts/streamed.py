"""A data set too large to index -> a deterministic, resumable stream of prompts, read as it is needed.

    rows ── the first are held out ── buffers of `shuffle_buffer_size` ── choose, render, leave out ── shuffle the buffer ──► Prompt

Buffers follow one another without overlap, and the order within one depends only on the seed, the epoch and its first row. With
`shuffle_buffer_size` 1000 and 64 held-out rows, the buffers begin at rows 64, 1064, 2064, ...; row 1500 is in the second. So a row
number and a position in its buffer are a complete cursor, and a prompt can be made again from its row number: from a buffer in memory,
or by reading its buffer again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np

from actors.prompts.buffers import Buffer, Buffers
from actors.prompts.decontamination import Contaminated
from actors.prompts.filters import RowFilters
from actors.prompts.indexed import EVAL_EPOCH, IndexedPrompts, other_prompts
from actors.prompts.rendering import PromptMaker, template_warnings
from actors.prompts.selection import PromptCounts, columns_read, fit, held_out_of_stream, require_some
from actors.prompts.source import PromptSource
from actors.rows.files import JsonValue, Row
from actors.rows.rows import Rows
from actors.rows.sources import PartCount, open_held_out_prompts
from actors.rows.stream import buffer_order, next_buffer, open_stream
from actors.rows.unused import first_values
from actors.rows.views import require_column
from configs.contracts.errors import DataError
from configs.contracts.records import Prompt, PromptId
from configs.schema.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SETTINGS = (
    "path", "mixture", "name", "split", "columns", "prompt_column", "system_prompt", "max_prompt_length", "train_samples", "pass_rate_column",
    "min_pass_rate", "max_pass_rate", "decontaminate", "shuffle", "curriculum_column", "curriculum_descending", "streaming",
    "shuffle_buffer_size", "eval_path", "eval_split", "eval_samples", "test_split_size",
)  # fmt: skip
"""The settings that a fingerprint of a stream holds, in their order."""


class StreamedCursor(TypedDict):
    """Position in the stream, as a checkpoint stores it."""

    epoch: int
    row: int
    """The first row of the buffer that prompts are drawn from."""
    drawn: int
    """Prompts drawn from that buffer."""
    counts: dict[str, Any]
    """`PromptCounts` of the rows read so far."""
    counted_to: int
    data: str
    """The fingerprint of the prompts."""


def settings_text(data: DataSection) -> str:
    """The settings of a stream as JSON, whatever the order in which the schema lists them: checkpoints hold a digest of this text."""
    names = (*_SETTINGS, *([] if data.data_files is None else ["data_files"]))
    return "{" + ",".join(data.model_dump_json(include={name})[1:-1] for name in names) + "}"


class StreamedPrompts:
    """A `PromptSource` that reads rows as they are needed. It never ends: the first row follows the last one.

    Held-out prompts come from `data.eval_path`, or from the first `data.eval_samples` rows. Arguments and errors are those of
    `IndexedPrompts`.
    """

    parts: tuple[PartCount, ...] = ()

    def __init__(
        self, data: DataSection, tokenizer: PreTrainedTokenizerBase, *, seed: int, folder: Path, reward_names: Sequence[str] = ()
    ) -> None:
        self._data = data
        self._seed = seed % 2**64
        self._maker = PromptMaker.of(data, tokenizer)
        stream = open_stream(data, folder, seed)
        streams = [stream, stream.again()]
        require_column(streams[0].read(0, 0), data.prompt_column, "data.prompt_column")
        apart = open_held_out_prompts(data, data.prompt_column, folder, seed) if data.eval_path is not None else None
        self._eval_rows, held_out, self._first_row = held_out_of_stream(data, streams[0], apart, self._seed)
        fitting = fit(self._eval_rows, held_out, self._maker, data, "held-out")
        require_some(fitting, len(held_out), data, "held-out")
        self._eval = list(fitting.digests)
        filters = RowFilters.of(data, streams[0].read(0, 0))
        counts = PromptCounts(0, len(self._eval), fitting.too_long, 0, fitting.longest_tokens, self._first_row)
        self._buffers = Buffers(data, self._maker, filters, streams, set(fitting.digests.values()), counts, self._first_row)
        self._epoch, self._start, self._drawn = 0, self._first_row, 0
        self._order: tuple[tuple[int, int], np.ndarray] | None = None
        first = self._first_buffer()
        self._canary_row = first.start + int(first.kept[0])
        self.prompt_tokens: np.ndarray = first.tokens
        """int32 [prompts]: lengths in tokens of the first training prompts."""
        facts = f"{settings_text(data)}/{self._seed}/{self.canary_prompt().text}"
        self.fingerprint: str = hashlib.blake2b(facts.encode(), digest_size=16).hexdigest()
        self.first_values: Mapping[str, JsonValue] = first_values(first.rows)
        self.columns_read: frozenset[str] = columns_read(data, self._maker)
        found = template_warnings(tokenizer, self.canary_prompt(), reward_names)
        of_rows = (*stream.notices, *(() if apart is None else apart.notices))
        for each in streams:
            each.logs = True
        self.warnings: tuple[str, ...] = (*of_rows, *self._maker.notes.sentences(), *found)
        for sentence in self.warnings:
            logger.warning("%s", sentence)

    @property
    def counts(self) -> PromptCounts:
        """Numbers of rows used, and left out by reason, among the rows read so far."""
        return self._buffers.counts

    @property
    def contaminated(self) -> tuple[Contaminated, ...]:
        """The first rows that were left out because they share words with an evaluation set."""
        return tuple(self._buffers.contaminated)

    def next(self) -> Prompt:
        """Draw the next prompt."""
        buffer = self._buffers.at(self._start)
        while self._drawn >= len(buffer.kept):
            self._advance(buffer)
            buffer = self._buffers.at(self._start)
        row = buffer.start + int(self._ordered(buffer)[self._drawn])
        self._drawn += 1
        return self.prompt(PromptId(self._epoch, row))

    def prompt(self, prompt_id: PromptId) -> Prompt:
        """Make the prompt with this id, the same each time. Does not move the stream."""
        rows, position = (self._eval_rows, prompt_id.index) if prompt_id.epoch == EVAL_EPOCH else self._found(prompt_id.index)
        if not 0 <= position < len(rows):
            raise DataError(f"prompt {prompt_id} is not in the data of {self._data.source}; resume with the data of the run")
        return self._maker.prompt(prompt_id, rows.row(position), rows.location(position))

    def row(self, index: int) -> Row:
        """All columns of a row, with the prompt as the data set holds it."""
        rows, position = self._found(index)
        return rows.row(position)

    def _found(self, index: int) -> tuple[Rows, int]:
        """The buffer that holds a row, and the row's position in it."""
        start = index - (index - self._first_row) % self._data.shuffle_buffer_size
        return self._buffers.at(start).rows, index - start

    def canary_prompt(self) -> Prompt:
        """A prompt of the training data, the same each time. Does not move the stream."""
        return self.prompt(PromptId(0, self._canary_row))

    def first_prompts(self, count: int) -> list[Prompt]:
        """Prompts of the first non-empty buffer, in the order in which the first epoch draws them. Does not move the stream."""
        first = self._first_buffer()
        return [self.prompt(PromptId(0, first.start + int(position))) for position in self._shuffled(first, 0)[:count]]

    def first_ids(self, count: int | None = None) -> list[PromptId]:
        """Ids in the order in which the first epoch draws them; all of that epoch without a count. Does not move the stream."""
        ids: list[PromptId] = []
        start = self._first_row
        while True:
            buffer = self._buffers.at(start)
            ids += [PromptId(0, buffer.start + int(position)) for position in self._shuffled(buffer, 0)]
            if len(buffer.rows) < self._data.shuffle_buffer_size or (count is not None and len(ids) >= count):
                return ids[:count]
            start += len(buffer.rows)

    def demonstrations(self, column: str) -> list[tuple[list[int], list[int]]]:
        """Refuse: a warm start needs all demonstrations at once.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{self._data.source} is read as a stream, and a warm start needs all of column {column!r}; set data.streaming: false"
        )

    def eval_prompts(self) -> list[Prompt]:
        """The held-out prompts, in the same order each time; their ids have the epoch `EVAL_EPOCH`."""
        return [self.prompt(PromptId(EVAL_EPOCH, index)) for index in self._eval]

    def cursor(self) -> StreamedCursor:
        """The position in the stream and the counts so far, as JSON."""
        return {
            "epoch": self._epoch,
            "row": self._start,
            "drawn": self._drawn,
            "counts": asdict(self.counts),
            "counted_to": self._buffers.counted_to,
            "data": self.fingerprint,
        }

    def restore(self, cursor: Mapping[str, object]) -> None:
        """Continue at the position at which `cursor` was taken.

        Raises:
            CheckpointError: it was taken from other data, another order or another rendering.
        """
        if cursor["data"] != self.fingerprint:
            raise other_prompts(self._data.source)
        stored = cast(StreamedCursor, cursor)
        self._epoch, self._start, self._drawn = stored["epoch"], stored["row"], stored["drawn"]
        self._buffers.restore(PromptCounts(**stored["counts"]), stored["counted_to"])

    def _first_buffer(self) -> Buffer:
        """The first buffer that has a training prompt."""
        start = self._first_row
        while not len((buffer := self._buffers.at(start)).kept):
            self._require_more(buffer)
            start = buffer.start + len(buffer.rows)
        return buffer

    def _advance(self, buffer: Buffer) -> None:
        """Go to the next buffer; after the last one a new epoch begins."""
        self._drawn = 0
        self._epoch, self._start = next_buffer(self._epoch, self._start, len(buffer.rows), self._data, self._first_row)

    def _require_more(self, buffer: Buffer) -> None:
        if len(buffer.rows) == self._data.shuffle_buffer_size:
            return
        raise DataError(
            f"{self._data.source}: none of its rows is left to train on, of which {self._first_row} are held out (data.eval_samples): "
            f"{self.counts}; lower data.eval_samples, raise data.max_prompt_length, or relax the filters"
        )

    def _ordered(self, buffer: Buffer) -> np.ndarray:
        """Positions of the buffer's prompts in the order in which they are drawn."""
        if self._order is None or self._order[0] != (self._epoch, buffer.start):
            self._order = ((self._epoch, buffer.start), self._shuffled(buffer, self._epoch))
        return self._order[1]

    def _shuffled(self, buffer: Buffer, epoch: int) -> np.ndarray:
        return buffer.kept[buffer_order(len(buffer.kept), self._seed, epoch, buffer.start, self._data.shuffle)]


def open_prompts(
    data: DataSection,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    folder: Path,
    epochs: float | None = None,
    reward_names: Sequence[str] = (),
) -> PromptSource:
    """Open the prompts of a run, streamed under `data.streaming` and indexed otherwise. Arguments are those of `IndexedPrompts`."""
    if data.streaming:
        return StreamedPrompts(data, tokenizer, seed=seed, folder=folder, reward_names=reward_names)
    return IndexedPrompts(data, tokenizer, seed=seed, folder=folder, epochs=epochs, reward_names=reward_names)
