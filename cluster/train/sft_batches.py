"""The batches of a streamed fine-tuning: each is read in a thread while the ranks train on the one before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import pyarrow as pa

from actors.demonstrations.streamed import DemonstrationCursor, StreamedDemonstrations
from configs.contracts.errors import RollcastError


class StreamedBatches:
    """Batches in the order of the stream, which nothing else may read."""

    def __init__(self, stream: StreamedDemonstrations, batch_size: int) -> None:
        self._stream, self._batch_size = stream, batch_size
        self._beginning = stream.cursor()
        self._ahead: asyncio.Task[tuple[pa.Table, DemonstrationCursor]] | None = None
        self.cursor: DemonstrationCursor = self._beginning
        """The position after the batch that was given out last: a checkpoint after its step continues there."""

    async def next(self, *, last: bool) -> pa.Table:
        """The next batch. Unless it is the last one, the one after it is read meanwhile.

        Raises:
            DataError: the data cannot be read, or a row is malformed.
        """
        batch, self.cursor = await (self._ahead or self._reading())
        self._ahead = None if last else self._reading()
        return batch

    async def restore(self, cursor: Mapping[str, object] | None) -> None:
        """Continue at the position at which `cursor` was taken; None for the beginning."""
        await self.close()
        self._stream.restore(cursor or self._beginning)
        self.cursor = self._stream.cursor()

    async def close(self) -> None:
        """Wait for what is being read: a thread cannot be stopped."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            with suppress(RollcastError):
                await ahead

    def _reading(self) -> asyncio.Task[tuple[pa.Table, DemonstrationCursor]]:
        return asyncio.create_task(asyncio.to_thread(self._read))

    def _read(self) -> tuple[pa.Table, DemonstrationCursor]:
        return self._stream.draw(self._batch_size), self._stream.cursor()
