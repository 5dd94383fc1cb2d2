"""Prompts of a data set that is read as it is needed, with a real tokenizer and real files.

Protected here:
1. The order is decided by the seed alone; every row of an epoch comes once, shuffled within its buffer.
2. A restored stream goes on exactly where the cursor was taken; any prompt is made again from its id, also when its buffer is gone.
3. The first rows are held out and never trained on; what is too long or chosen away is left out and counted once.
4. Data are read no further than they are needed.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from actors.prompts.buffers import KEPT_BUFFERS
from actors.prompts.indexed import EVAL_EPOCH, IndexedPrompts
from actors.prompts.streamed import StreamedPrompts, settings_text
from configs.contracts.errors import CheckpointError, DataError
from configs.contracts.records import Prompt, PromptId
from configs.schema.data import DataSection
from learner.model.tiny_model import build_tokenizer

TOKENIZER = build_tokenizer()
ORDER_OF_SEED_3 = [6, 1, 5, 2, 7, 4, 3, 0, 10, 8]
ROWS = [{"prompt": f"What is {n}+1?", "solution": str(n + 1), "pass_rate": n % 4 / 4} for n in range(50)]


def write_rows(folder: Path, rows: list[dict], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def stream_of(
    folder: Path, rows: list[dict] = ROWS, *, seed: int = 0, reward_names: tuple[str, ...] = (), **settings: Any
) -> StreamedPrompts:
    defaults = {"path": write_rows(folder, rows), "streaming": True, "shuffle_buffer_size": 8, "eval_samples": 0}
    return StreamedPrompts(DataSection.model_validate(defaults | settings), TOKENIZER, seed=seed, folder=folder, reward_names=reward_names)


def draw(stream: StreamedPrompts, count: int) -> list[Prompt]:
    return [stream.next() for _ in range(count)]


def rows_of(prompts: list[Prompt]) -> list[int]:
    return [prompt.id.index for prompt in prompts]


def test_every_row_comes_once_an_epoch_shuffled_within_its_buffer(tmp_path: Path):
    stream = stream_of(tmp_path)
    first, second = rows_of(draw(stream, 50)), rows_of(draw(stream, 50))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    for start in range(0, 50, 8):
        assert sorted(first[start : start + 8]) == list(range(start, min(start + 8, 50)))
    assert first[:8] != list(range(8))
    assert first[:8] != [index - 8 for index in first[8:16]], "each buffer has an order of its own"
    assert stream.next().id.epoch == 2


def test_the_order_follows_from_the_seed_on_every_platform(tmp_path: Path):
    """Literal values: they must never change, or a run cannot be resumed elsewhere."""
    assert rows_of(draw(stream_of(tmp_path, seed=3), 10)) == ORDER_OF_SEED_3
    assert rows_of(draw(stream_of(tmp_path, seed=4), 10)) != ORDER_OF_SEED_3
    assert rows_of(draw(stream_of(tmp_path, shuffle=False), 10)) == list(range(10))


@pytest.mark.parametrize("drawn", [0, 3, 8, 49, 50, 77, 131])
def test_a_restored_stream_goes_on_where_the_cursor_was_taken(tmp_path: Path, drawn: int):
    stream = stream_of(tmp_path, eval_samples=2, max_prompt_length=60)
    draw(stream, drawn)
    cursor = json.loads(json.dumps(stream.cursor()))
    resumed = stream_of(tmp_path, eval_samples=2, max_prompt_length=60)
    resumed.restore(cursor)
    assert resumed.counts == stream.counts
    assert draw(resumed, 60) == draw(stream, 60)
    assert resumed.counts == stream.counts


def test_a_prompt_is_made_again_from_its_id_though_its_buffer_is_gone(tmp_path: Path):
    stream = stream_of(tmp_path, eval_samples=3)
    drawn = draw(stream, 8 * (KEPT_BUFFERS + 1))
    before = stream.cursor()
    assert [stream.prompt(prompt.id) for prompt in drawn] == drawn
    assert stream.cursor() == before
    resumed = stream_of(tmp_path, eval_samples=3)
    resumed.restore(before)
    assert resumed.prompt(drawn[0].id) == drawn[0]
    assert draw(resumed, 10) == draw(stream, 10)
    with pytest.raises(DataError, match="prompt 0:50 is not in the data of .*; resume with the data of the run"):
        stream.prompt(PromptId(0, 50))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"rows": [{"prompt": "0+0?"}, *ROWS]}, {"system_prompt": "Add."}, {"shuffle_buffer_size": 9}]
)
def test_a_cursor_of_other_prompts_is_refused(tmp_path: Path, change: dict):
    cursor = stream_of(tmp_path).cursor()
    with pytest.raises(CheckpointError, match="was made with other prompts"):
        stream_of(tmp_path, **change).restore(cursor)


def test_checkpoints_of_streams_hold_their_settings_in_one_order_for_ever():
    """The schema may list them in another order; a run that was started before must go on. The text is that of the first streams."""
    data = DataSection(path="r.jsonl", streaming=True, columns={"q": "prompt"}, min_pass_rate=0.00001, decontaminate=("builtin:addition",))
    assert settings_text(data) == (
        '{"path":"r.jsonl","mixture":null,"name":null,"split":"train","columns":{"q":"prompt"},"prompt_column":"prompt","system_prompt":null,'
        '"max_prompt_length":512,"train_samples":-1,"pass_rate_column":"pass_rate","min_pass_rate":0.00001,"max_pass_rate":null,'
        '"decontaminate":["builtin:addition"],"shuffle":true,"curriculum_column":null,"curriculum_descending":false,"streaming":true,'
        '"shuffle_buffer_size":1000,"eval_path":null,"eval_split":"test","eval_samples":100,"test_split_size":null}'
    )


def test_the_first_rows_are_held_out_and_no_row_with_their_text_is_trained_on(tmp_path: Path):
    stream = stream_of(tmp_path, [*ROWS, *ROWS], eval_samples=5)
    held_out = stream.eval_prompts()
    assert [prompt.id for prompt in held_out] == [PromptId(EVAL_EPOCH, index) for index in range(5)]
    assert [stream.prompt(prompt.id) for prompt in held_out] == held_out
    trained = draw(stream, 90)
    assert stream.next().id.epoch == 1
    assert not {prompt.text for prompt in trained} & {prompt.text for prompt in held_out}
    assert (stream.counts.also_held_out, stream.counts.trained, stream.counts.rows) == (5, 90, 100)


def test_a_data_set_of_its_own_may_be_held_out(tmp_path: Path):
    other = write_rows(tmp_path, [{"prompt": "5+5?", "solution": "10"}, *ROWS[:3]], "eval.jsonl")
    stream = stream_of(tmp_path, eval_path=other, eval_samples=100)
    assert {prompt.columns["solution"] for prompt in stream.eval_prompts()} == {"10", "1", "2", "3"}
    assert sorted(rows_of(draw(stream, 47))) == list(range(3, 50))


def test_rows_that_are_left_out_are_counted_once_however_often_they_are_read(tmp_path: Path):
    rows = [*ROWS[:20], {"prompt": "1" * 200, "pass_rate": 0.5}, {"prompt": "one two three four five six seven eight", "pass_rate": 0.5}]
    other = write_rows(tmp_path, [{"prompt": "Zero! One, two THREE four five six seven-- eight nine"}], "other.jsonl")
    stream = stream_of(tmp_path, rows, max_prompt_length=100, min_pass_rate=0.0, max_pass_rate=0.75, decontaminate=[other])
    trained = sorted(set(rows_of(draw(stream, 30))))
    assert trained == [index for index in range(20) if index % 4 in (1, 2)]
    counts = stream.counts
    assert (counts.trained, counts.too_long, counts.outside_pass_rate, dict(counts.contaminated)) == (10, 1, 10, {other: 1})
    assert stream.contaminated[0].location.endswith("rows.jsonl:22")


def test_data_are_read_no_further_than_needed(tmp_path: Path):
    """A broken line is met when its buffer is."""
    path = Path(write_rows(tmp_path, [{"prompt": f"{n}?"} for n in range(250)]))
    path.write_text(path.read_text() + "{broken\n")
    stream = StreamedPrompts(
        DataSection(path=str(path), streaming=True, shuffle_buffer_size=100, eval_samples=0), TOKENIZER, seed=0, folder=tmp_path
    )
    draw(stream, 200)
    with pytest.raises(DataError, match="rows.jsonl:251:2: not JSON"):
        stream.next()


@pytest.mark.parametrize("kind", ["csv", "parquet", "arrow", "folder", "saved"])
def test_every_kind_of_data_set_streams_the_same_prompts(tmp_path: Path, kind: str):
    from datasets import Dataset

    dataset = Dataset.from_list([{"prompt": row["prompt"], "solution": row["solution"]} for row in ROWS])
    path = tmp_path / f"set.{kind}"
    if kind == "csv":
        path.write_text("prompt,solution\n" + "".join(f"{row['prompt']},{row['solution']}\n" for row in ROWS))
    elif kind == "parquet":
        dataset.to_parquet(path)
    elif kind == "folder":
        path.mkdir()
        for part in range(2):
            dataset.shard(2, part, contiguous=True).to_parquet(path / f"train-{part}.parquet")
    else:
        dataset.save_to_disk(path, num_shards=2 if kind == "saved" else 1)
        path = path / "data-00000-of-00001.arrow" if kind == "arrow" else path
    found, wanted = draw(stream_of(tmp_path, path=str(path)), 60), draw(stream_of(tmp_path), 60)
    assert [(prompt.id, prompt.token_ids, prompt.columns["solution"]) for prompt in found] == [
        (prompt.id, prompt.token_ids, prompt.columns["solution"]) for prompt in wanted
    ]


def test_columns_get_other_names_and_later_rows_may_lack_some(tmp_path: Path):
    rows = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?"}]
    stream = stream_of(tmp_path, rows, columns={"question": "prompt", "answer": "solution"}, shuffle=False)
    assert [prompt.columns for prompt in draw(stream, 2)] == [{"solution": "2"}, {"solution": None}]
    with pytest.raises(DataError, match=r"data.columns 'qestion' is not in the data; .* question, answer \(did you mean question\?\)"):
        stream_of(tmp_path, rows, columns={"qestion": "prompt"})
    with pytest.raises(DataError, match="data.prompt_column 'prompt' is not in the data"):
        stream_of(tmp_path, rows)


def test_a_stream_of_which_nothing_is_left_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="none of its rows is left to train on, of which 50 are held out"):
        stream_of(tmp_path, eval_samples=60)
    with pytest.raises(DataError, match="0 prompts to train on, 0 held out, 50 left out as too long; .*raise data.max_prompt_length"):
        stream_of(tmp_path, max_prompt_length=5)
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="is empty"):
        stream_of(tmp_path, path=str(tmp_path / "empty.jsonl"))


def test_a_template_that_opens_the_tag_itself_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        stream_of(
            tmp_path,
            [{"prompt": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "<think>"}]}],
            reward_names=("format",),
        )
    assert "ends the prompt with <think>" in caplog.text


@pytest.mark.parametrize("buffer", [50, 200])
def test_a_column_that_comes_late_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, buffer: int):
    rows = [{"prompt": f"What is {n}?"} | ({"solution": str(n)} if n >= 120 else {}) for n in range(300)]
    stream = stream_of(tmp_path, rows, shuffle_buffer_size=buffer)
    sentence = f"{tmp_path}/rows.jsonl:121: the column 'solution' is not in the first 100 rows of the stream, and is not read"
    assert (sentence in stream.warnings) == (buffer > 120)
    draw(stream, 700)
    stream.prompt(PromptId(0, 2))
    assert [record.getMessage() for record in caplog.records].count(sentence) == 1


def test_names_that_lead_into_columns_give_the_same_prompts_as_of_an_indexed_run(tmp_path: Path):
    rows = [{"info": {"ask": f"What is {n}?", "gold": n, "rate": n % 4 / 4}} for n in range(20)]
    settings = {"prompt_column": "info.ask", "columns": {"info.gold": "solution"}, "pass_rate_column": "info.rate", "min_pass_rate": 0.2}
    stream = stream_of(tmp_path, rows, shuffle=False, **settings)
    data = DataSection.model_validate({"path": str(tmp_path / "rows.jsonl"), "eval_samples": 0, "shuffle": False, **settings})
    indexed = IndexedPrompts(data, TOKENIZER, seed=0, folder=tmp_path)
    assert [(prompt.text, prompt.columns) for prompt in draw(stream, 15)] == [
        (prompt.text, prompt.columns) for prompt in indexed.first_prompts(15)
    ]
    assert stream.columns_read == indexed.columns_read >= {"info.ask", "info.rate", "info.gold"}
