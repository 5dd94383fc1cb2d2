"""Demonstrations that are read as they are needed, from real files with a real tokenizer.

Protected here:
1. Every row of an epoch comes once, shuffled within its buffer, in the order in which streamed prompts come.
2. A restored stream goes on at the exact row, with the same counts.
3. The first rows are held out; what is left out is counted once, and its first row named.
4. Data are read no further than they are needed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.demonstrations.streamed import StreamedDemonstrations
from actors.prompts.streamed import StreamedPrompts
from configs.contracts.errors import DataError
from configs.schema.data import DataSection
from configs.schema.sft import SftDataSection
from learner.model.tiny_model import build_tokenizer

TOKENIZER = build_tokenizer()
ROWS = [{"prompt": f"{n}+1?", "completion": str(n + 1)} for n in range(50)]


def lines_of(folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def stream_of(folder: Path, rows: list[dict[str, Any]] = ROWS, *, seed: int = 0, **keys: Any) -> StreamedDemonstrations:
    defaults = {"path": lines_of(folder, rows), "streaming": True, "shuffle_buffer_size": 8, "eval_samples": 0}
    return StreamedDemonstrations(SftDataSection.model_validate(defaults | keys), TOKENIZER, seed, folder / "out")


def drawn(stream: StreamedDemonstrations, count: int) -> list[int]:
    """The numbers of the next rows."""
    return [_row(ids) for ids in stream.draw(count)["token_ids"].to_pylist()]


def _row(ids: list[int]) -> int:
    return int(str(TOKENIZER.decode(ids)).partition("user\n")[2].partition("+")[0])


def test_rows_come_in_the_order_of_streamed_prompts(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"path": lines_of(tmp_path, ROWS), "streaming": True, "shuffle_buffer_size": 8, "eval_samples": 2}
    prompts = StreamedPrompts(DataSection.model_validate(keys), TOKENIZER, seed=3, folder=tmp_path)
    stream = stream_of(tmp_path, seed=3, eval_samples=2)
    found = drawn(stream, 100)
    assert found == [prompts.next().id.index for _ in range(100)]
    assert sorted(found[:48]) == list(range(2, 50)) and found[:48] != found[48:96]
    assert [_row(ids) for ids in pa.ipc.open_file(str(stream.held_out.path)).read_all()["token_ids"].to_pylist()] == [0, 1]
    assert drawn(stream_of(tmp_path, shuffle=False), 60) == [*range(50), *range(10)]


@pytest.mark.parametrize("before", [0, 3, 8, 47, 48, 77, 131])
def test_a_restored_stream_goes_on_at_the_exact_row(tmp_path: Path, before: int) -> None:
    rows = [*ROWS[:20], {"prompt": "20+1?", "completion": "x" * 300}, *ROWS[21:]]
    stream = stream_of(tmp_path, rows, eval_samples=2, max_length=60)
    if before:
        stream.draw(before)
    cursor = json.loads(json.dumps(stream.cursor()))
    resumed = stream_of(tmp_path, rows, eval_samples=2, max_length=60)
    resumed.restore(cursor)
    assert resumed.counts == stream.counts
    assert resumed.draw(60).equals(stream.draw(60))
    assert resumed.counts == stream.counts
    stream.restore(cursor)
    assert drawn(stream, 5) == drawn(_restored(tmp_path, rows, cursor), 5), "in the same process, too"


def _restored(folder: Path, rows: list[dict[str, Any]], cursor: dict[str, Any]) -> StreamedDemonstrations:
    stream = stream_of(folder, rows, eval_samples=2, max_length=60)
    stream.restore(cursor)
    return stream


def test_what_is_left_out_is_counted_once_and_named(tmp_path: Path) -> None:
    rows = [*ROWS[:12], {"prompt": "12+1?", "completion": "x" * 300}, ROWS[0], ROWS[1], *ROWS[15:20]]
    stream = stream_of(tmp_path, rows, eval_samples=2, max_length=60)
    assert sorted(drawn(stream, 15)) == sorted(drawn(stream, 15)) == [*range(2, 12), *range(15, 20)]
    counts = stream.counts
    assert (counts.rows, counts.sequences, counts.too_long, counts.also_held_out) == (18, 15, 1, 2)
    assert counts.first_at == {"too_long": f"{tmp_path}/rows.jsonl:13", "also_held_out": f"{tmp_path}/rows.jsonl:14"}


def test_a_data_set_of_its_own_may_be_held_out_and_columns_renamed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"q": [f"{n}+1?" for n in range(20)], "a": ["1"] * 20}), tmp_path / "rows.parquet")
    other = lines_of(tmp_path, [{"prompt": "3+1?", "completion": "1"}], "other.jsonl")
    columns = {"q": "prompt", "a": "completion"}
    stream = stream_of(tmp_path, path=f"{tmp_path}/rows.parquet", columns=columns, eval_path=other, eval_samples=5)
    assert stream.held_out.counts.sequences == 1
    assert sorted(drawn(stream, 19)) == [n for n in range(20) if n != 3]


def test_data_are_read_no_further_than_needed(tmp_path: Path) -> None:
    path = Path(lines_of(tmp_path, [*ROWS, *ROWS, *ROWS[:20]]))
    path.write_text(path.read_text() + "{broken\n")
    stream = StreamedDemonstrations(
        SftDataSection(path=str(path), streaming=True, shuffle_buffer_size=60, eval_samples=0), TOKENIZER, 0, tmp_path / "out"
    )
    stream.draw(120)
    with pytest.raises(DataError, match="rows.jsonl:121:2: not JSON"):
        stream.draw(1)


@pytest.mark.parametrize("change", [{"seed": 1}, {"rows": ROWS[1:]}, {"system_prompt": "Add."}, {"shuffle_buffer_size": 9}])
def test_other_demonstrations_have_another_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    digest = stream_of(tmp_path).digest
    assert stream_of(tmp_path).digest == digest != stream_of(tmp_path, **change).digest


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"max_length": 5}, "of the 50 rows of .* none is left to train on: 50 have more tokens than data.max_length 5"),
        ({"eval_samples": 60}, "of the 0 rows of .* none is left to train on"),
        ({"completion_column": "answer"}, "data.completion_column 'answer' is not in the data; the columns there are prompt, completion"),
    ],
)
def test_a_stream_of_which_nothing_is_left_is_refused(tmp_path: Path, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        stream_of(tmp_path, **keys)
