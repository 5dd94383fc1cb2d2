"""Demonstrations of several data sets, in real JSON and Parquet files, with a real tokenizer.

Protected here:
1. A mixture of demonstrations has the rows of the same mixture of prompts: the same shares, the same held-out rows.
2. Each data set is counted by itself: rows, rows taken, and those left out, with the reason and the first of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.demonstrations.counting import of_each_source
from actors.demonstrations.indexed import DemonstrationFile, Demonstrations, DemonstrationSource
from actors.prompts.indexed import IndexedPrompts
from configs.contracts.errors import DataError
from configs.schema.data import DataSection
from configs.schema.sft import SftDataSection
from learner.model.tiny_model import build_tokenizer

TOKENIZER = build_tokenizer()


@pytest.fixture
def parts(tmp_path: Path) -> list[dict[str, Any]]:
    """JSON Lines of 20 rows of which 7 are taken, and Parquet of 10 with other names of columns."""
    lines = [json.dumps({"prompt": f"one {n}?", "completion": f"{n}"}) for n in range(20)]
    (tmp_path / "one.jsonl").write_text("\n".join(lines))
    other = pa.table({"q": [f"two {n}?" for n in range(10)], "a": [str(n) for n in range(10)], "id": list(range(10))})
    pq.write_table(other, tmp_path / "two.parquet")
    return [
        {"path": f"{tmp_path}/one.jsonl", "weight": 0.35, "columns": ["prompt", "completion"]},
        {"path": f"{tmp_path}/two.parquet", "columns": {"q": "prompt", "a": "completion"}},
    ]


def written(folder: Path, mixture: dict[str, Any], *, seed: int = 3, **data: Any) -> Demonstrations:
    section = SftDataSection.model_validate({"mixture": mixture, "eval_samples": 0, **data})
    return DemonstrationSource(section, TOKENIZER, seed, folder / "out").write()


def texts(file: DemonstrationFile) -> list[str]:
    """Between the marks of the chat template, the question and the answer."""
    table = pa.ipc.open_file(pa.memory_map(str(file.path))).read_all()
    decoded = [str(TOKENIZER.decode(ids)) for ids in table["token_ids"].to_pylist()]
    return [text.partition("user\n")[2].partition("<|im_end|>")[0] for text in decoded]


def test_a_mixture_has_the_rows_of_the_same_mixture_of_prompts(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    mixture = {"datasets": parts, "seed": 7, "test_split_size": 0.2}
    found = written(tmp_path, mixture, eval_samples=2)
    trained = texts(found.train)
    assert (len(trained), found.held_out.counts.sequences, found.not_evaluated.rows) == (13, 2, 2)
    prompts = IndexedPrompts(
        DataSection.model_validate({"mixture": mixture, "eval_samples": 2, "shuffle": False}), TOKENIZER, seed=3, folder=tmp_path
    )
    assert trained == [prompt.columns["completion"] and _question(prompt.text) for prompt in prompts.first_prompts(13)]
    assert texts(found.held_out) == [_question(prompt.text) for prompt in prompts.eval_prompts()]
    assert [(source.rows, source.kept) for source in found.sources] == [(20, 7), (10, 10)]
    assert sum(source.held_out.rows for source in found.sources) == 4
    assert texts(written(tmp_path, mixture, seed=4).train) == trained, "the mixture's seed draws and splits"
    assert set(texts(written(tmp_path, {**mixture, "seed": 8}).train)) != set(trained)


def _question(text: str) -> str:
    return text.partition("user\n")[2].partition("<|im_end|>")[0]


def test_each_data_set_is_counted_by_itself_and_its_first_unusable_row_named(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    talks = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "x" * 20 * n}] for n in range(1, 5)]
    talks.insert(1, [{"role": "user", "content": "?"}])
    (tmp_path / "talks.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    short = [[{"role": "user", "content": f"short {n}?"}, {"role": "assistant", "content": "y"}] for n in range(6)]
    (tmp_path / "short.jsonl").write_text("\n".join(json.dumps({"messages": talk}) for talk in short))
    mixture = {"datasets": [{"path": f"{tmp_path}/talks.jsonl"}, {"path": f"{tmp_path}/short.jsonl", "weight": 0.5}]}
    found = written(tmp_path, mixture, messages_column="messages", max_length=70)
    first, second = found.sources
    assert (first.train.rows, first.train.sequences, first.train.too_long, first.train.without_answer) == (5, 2, 2, 1)
    assert (second.rows, second.kept, second.train.sequences, second.train.too_long) == (6, 3, 3, 0)
    assert found.train.counts.rows == 8 and found.train.counts.tokens == first.train.tokens + second.train.tokens
    talk, shorts = of_each_source(SftDataSection.model_validate({"mixture": mixture, "max_length": 70}), found.sources)
    assert talk.startswith(f"{tmp_path}/talks.jsonl: 5 rows, all taken: 5 to train on, 0 held out; 2 sequences,")
    assert "sequences left out, being over data.max_length 70: 2 (the first: " in talk
    assert f"imitate within data.max_length: 1 (the first: {tmp_path}/talks.jsonl:2)" in talk
    assert shorts.startswith(f"{tmp_path}/short.jsonl: 6 rows, 3 taken by its weight: 3 to train on, 0 held out; 3 sequences,")
    assert "left out" not in shorts


def test_what_equals_a_held_out_row_is_not_trained_on_though_that_is_not_evaluated(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    twice = {"datasets": [parts[1], parts[1]], "test_split_size": 0.5}
    found = written(tmp_path, twice, eval_samples=0)
    trained = texts(found.train)
    assert found.train.counts.also_held_out > 0 and len(trained) + found.train.counts.also_held_out == 10
    held_out = set(texts(written(tmp_path, twice, eval_samples=10).held_out))
    assert held_out and not held_out & set(trained)


def test_rows_that_are_not_drawn_are_told(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    found = written(tmp_path, {"datasets": parts}, train_samples=5, eval_samples=3)
    data = SftDataSection.model_validate({"mixture": {"datasets": parts}})
    sentences = list(of_each_source(data, found.sources))
    unused = [source.kept - source.train.rows - source.held_out.rows for source in found.sources]
    assert sum(unused) == 17 - 5 - 3 and all(unused)
    assert all(f"{rows} not among data.train_samples" in sentence for rows, sentence in zip(unused, sentences, strict=True))


def test_held_out_rows_may_be_of_a_data_set_of_their_own(tmp_path: Path, parts: list[dict[str, Any]]) -> None:
    (tmp_path / "apart.jsonl").write_text('{"prompt": "two 3?", "completion": "3"}\n')
    found = written(tmp_path, {"datasets": parts}, eval_path=f"{tmp_path}/apart.jsonl", eval_samples=5)
    assert (found.held_out.counts.sequences, found.train.counts.sequences, found.train.counts.also_held_out) == (1, 16, 1)
    assert [source.held_out.rows for source in found.sources] == [0, 0]
    assert "two.parquet, row 3" in found.sources[1].train.first_at["also_held_out"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"columns": None}, "its data sets have different columns: .*one.jsonl alone has completion, prompt; .*two.parquet alone has a, id, q"),
        ({"columns": {"q": "prompt", "answer": "completion"}}, "columns of .*two.parquet: 'answer' is not in the data; the columns there are q, a, id"),
        ({"weight": 0.01}, "of the 10 rows of .*two.parquet the weight 0.01 keeps none"),
        ({"path": "nowhere.jsonl"}, "nowhere.jsonl does not exist"),
    ],
)  # fmt: skip
def test_a_mixture_that_does_not_fit_is_refused(tmp_path: Path, parts: list[dict[str, Any]], change: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        written(tmp_path, {"datasets": [parts[0], parts[1] | change]})
