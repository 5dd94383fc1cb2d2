"""Batches of a streamed fine-tuning: read ahead, with the cursor of the batch that was given out, not of the one that was read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pyarrow as pa
import pytest

from actors.demonstrations.streamed import StreamedDemonstrations
from cluster.train.sft_batches import StreamedBatches
from configs.contracts.errors import DataError
from configs.schema.sft import SftDataSection
from learner.model.tiny_model import build_tokenizer


def batches_of(folder: Path, text: str) -> StreamedBatches:
    (folder / "rows.jsonl").write_text(text)
    data = SftDataSection(path=f"{folder}/rows.jsonl", streaming=True, shuffle_buffer_size=4, eval_samples=0)
    return StreamedBatches(StreamedDemonstrations(data, build_tokenizer(), 0, folder / "out"), 4)


def lines(count: int) -> str:
    return "".join(json.dumps({"prompt": f"{n}?", "completion": str(n)}) + "\n" for n in range(count))


def test_a_cursor_is_that_of_the_batch_given_out_though_more_is_read(tmp_path: Path) -> None:
    async def taken(batches: StreamedBatches, count: int) -> list[pa.Table]:
        return [await batches.next(last=False) for _ in range(count)]

    async def scenario() -> None:
        batches = batches_of(tmp_path, lines(30))
        await taken(batches, 3)
        cursor = json.loads(json.dumps(batches.cursor))
        assert (cursor["row"], cursor["drawn"], cursor["counts"]["rows"]) == (8, 4, 12)
        expected = await taken(batches, 7)
        await batches.restore(cursor)
        assert await taken(batches, 7) == expected, "of the same process, which had read ahead"
        other = batches_of(tmp_path, lines(30))
        await other.restore(cursor)
        assert await taken(other, 7) == expected
        await other.restore(None)
        assert await taken(other, 3) + expected == await taken(batches_of(tmp_path, lines(30)), 10)
        await batches.close()
        await other.close()

    asyncio.run(scenario())


def test_a_broken_row_is_told_when_its_batch_is_due_and_not_before(tmp_path: Path) -> None:
    async def scenario() -> None:
        batches = batches_of(tmp_path, lines(104) + "{broken\n")  # the first 100 rows are read for their columns
        for _ in range(26):
            await batches.next(last=False)
        with pytest.raises(DataError, match="rows.jsonl:105:2: not JSON"):
            await batches.next(last=False)
        await batches.restore(None)
        for _ in range(26):
            await batches.next(last=False)
        await batches.close()

    asyncio.run(scenario())
