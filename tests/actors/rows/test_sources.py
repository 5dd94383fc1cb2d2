"""Mixtures, other names of columns, shares that are held out, filters and the order of a curriculum, with real files and a real tokenizer.

Protected here:
1. A mixture has the rows that Open-R1's has: floor(rows x weight) of each part, all of them where there is no weight; seeded.
2. No row that is held out, filtered or too long is trained on, and the counts add up to the rows that there are.
3. The first epoch of a curriculum is ordered; later ones are as without it.
"""

from __future__ import annotations

import json
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.prompts.decontamination import ngrams
from actors.prompts.indexed import IndexedPrompts
from actors.rows.sources import mix
from actors.rows.stream import open_stream
from configs.contracts.errors import CheckpointError, DataError
from configs.contracts.records import Prompt
from configs.schema.data import DataSection
from configs.schema.sources import MixtureSection
from learner.model.tiny_model import build_tokenizer

TOKENIZER = build_tokenizer()
MIXTURE_OF_SEED_7 = ["a 1", "b 1", "a 4", "a 3", "b 0", "b 2"]
LEVELS = [3, 1, 2, 5, 4, 1, 9, 0, 7, 6]
ROWS = [{"prompt": f"What is {n}+1?", "solution": str(n + 1), "level": level, "rate": n / 8} for n, level in enumerate(LEVELS)]


def write_rows(folder: Path, rows: list[dict], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(folder: Path, name: str, count: int, **columns: Any) -> str:
    return write_rows(folder, [{"prompt": f"{name} {n}", "solution": str(n), **columns} for n in range(count)], f"{name}.jsonl")


def source_of(folder: Path, rows: list[dict] = ROWS, *, seed: int = 0, **keys: Any) -> IndexedPrompts:
    where = {} if "mixture" in keys else {"path": write_rows(folder, rows)}
    return IndexedPrompts(DataSection.model_validate(where | {"eval_samples": 0} | keys), TOKENIZER, seed=seed, folder=folder)


def drawn(source: IndexedPrompts, count: int | None = None) -> list[Prompt]:
    return [prompt for prompt in (source.next() for _ in range(len(source) if count is None else count)) if prompt is not None]


def rows_of(source: IndexedPrompts, count: int | None = None) -> list[int]:
    return [prompt.id.index for prompt in drawn(source, count)]


def values_of(source: IndexedPrompts, column: str) -> list[Any]:
    return [prompt.columns[column] for prompt in drawn(source)]


def refusal(folder: Path, rows: list[dict] = ROWS, **keys: Any) -> str:
    with pytest.raises(DataError) as caught:
        source_of(folder, rows, **keys)
    return str(caught.value)


def mixed(parts: list[dict], **keys: Any) -> list[dict]:
    rows, _ = mix(MixtureSection.model_validate({"datasets": parts, **keys}), Path(), 0)
    return [rows.row(index) for index in range(len(rows))]


def test_a_mixture_keeps_a_seeded_share_of_each_part_and_all_of_one_without_a_weight(tmp_path: Path):
    parts = [
        {"path": numbered(tmp_path, "a", 10), "weight": 0.35},
        {"path": numbered(tmp_path, "b", 4)},
        {"path": numbered(tmp_path, "c", 100), "weight": 0.29},
    ]
    rows, counts = mix(MixtureSection.model_validate({"datasets": parts}), Path(), 0)
    assert [(part.rows, part.kept) for part in counts] == [(10, 3), (4, 4), (100, 29)]
    prompts = [str(value) for value in rows.values("prompt", range(len(rows)))]
    assert sorted(prompt[0] for prompt in prompts) == ["a"] * 3 + ["b"] * 4 + ["c"] * 29
    assert len(set(prompts)) == 36
    assert prompts == [row["prompt"] for row in mixed(parts)], "the same every time"
    assert [prompt for prompt in prompts if prompt[0] == "b"] != [f"b {n}" for n in range(4)], "shuffled as a whole"
    assert {row["prompt"] for row in mixed(parts, seed=1)} != set(prompts), "another seed keeps others"
    assert rows.values("solution", [7, 0, 7]) == [rows.row(7)["solution"], rows.row(0)["solution"], rows.row(7)["solution"]]
    assert rows.location(0).endswith(f"{prompts[0][0]}.jsonl:{int(prompts[0][2:]) + 1}")


def test_the_mixture_follows_from_the_seed_on_every_platform(tmp_path: Path):
    """Literal values: they must never change, or a run cannot be resumed elsewhere."""
    parts = [{"path": numbered(tmp_path, "a", 6), "weight": 0.5}, {"path": numbered(tmp_path, "b", 3)}]
    assert [row["prompt"] for row in mixed(parts, seed=7)] == MIXTURE_OF_SEED_7


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_a_weight_keeps_the_floor_of_what_is_written(rows: int, thousandths: int):
    """`0.29` of 100 rows is 29, though 0.29 x 100 is 28.999999999999996 in binary floating point."""
    from actors.rows.sources import kept_rows

    assert kept_rows(rows, thousandths / 1000) == floor(Fraction(thousandths, 1000) * rows)


def test_the_columns_of_a_mixture_are_made_equal(tmp_path: Path):
    one = write_rows(tmp_path, [{"problem": "1+1?", "answer": "2", "id": 7}], "one.jsonl")
    other = write_rows(tmp_path, [{"prompt": "2+2?", "solution": "4", "level": 1}], "other.jsonl")
    parts = [{"path": one, "columns": {"problem": "prompt", "answer": "solution"}}, {"path": other, "columns": ["prompt", "solution"]}]
    assert sorted(row["prompt"] + row["solution"] for row in mixed(parts)) == ["1+1?2", "2+2?4"]
    with pytest.raises(DataError) as caught:
        mixed([{"path": one}, {"path": other}])
    message = str(caught.value)
    assert f"{one} alone has answer, id, problem; {other} alone has level, prompt, solution; list in the `columns` of each" in message
    with pytest.raises(
        DataError, match=r"columns of .*one.jsonl: 'solution' is not in the data; the columns there are problem, answer, id"
    ):
        mixed([{"path": one, "columns": ["solution"]}])
    with pytest.raises(DataError, match="of the 1 rows of .*one.jsonl the weight 0.5 keeps none; raise it"):
        mixed([{"path": one, "weight": 0.5}])


def test_a_single_file_has_the_split_that_is_asked_for_or_is_refused(tmp_path: Path):
    path = numbered(tmp_path, "a", 6)
    assert values_of(source_of(tmp_path, path=path, split="train[:2]", shuffle=False), "solution") == ["0", "1"]
    assert sorted(row["prompt"] for row in mixed([{"path": path, "split": "train[4:]"}])) == ["a 4", "a 5"]
    held_out = source_of(tmp_path, eval_path=path, eval_split="test[:2]", eval_samples=9)
    assert sorted(str(prompt.columns["solution"]) for prompt in held_out.eval_prompts()) == ["0", "1"]
    assert len(source_of(tmp_path, eval_path=path, eval_samples=9).eval_prompts()) == 6, "the default of eval_split says nothing"
    named = numbered(tmp_path, "my_test-00", 3)
    assert len(source_of(tmp_path, path=named, split="test")) == 3
    for split in ("dev", "dev[:2]"):
        remedy = f"{split!r} is not in {path}, which is a single file and as such the split train; remove "
        assert f"data.split {remedy}data.split, or give" in refusal(tmp_path, path=path, split=split)
        assert f"data.eval_split {remedy}" in refusal(tmp_path, eval_path=path, eval_split=split, eval_samples=1)
        mixture = {"datasets": [{"path": path, "split": split}]}
        assert f"data.mixture.datasets.split {remedy}" in refusal(tmp_path, mixture=mixture)
        with pytest.raises(DataError, match=r"data.split 'dev.* is not in builtin:addition"):
            source_of(tmp_path, path="builtin:addition", split=split)
        with pytest.raises(DataError, match=r"data.split 'dev.* is a single file"):
            open_stream(DataSection.model_construct(path=path, split=split), tmp_path, 0)


def test_a_mixture_is_trained_on_and_split_by_its_own_seed(tmp_path: Path):
    mixture = {
        "datasets": [{"path": numbered(tmp_path, "a", 30)}, {"path": numbered(tmp_path, "b", 10)}],
        "test_split_size": 0.25,
        "seed": 3,
    }
    source, other = (source_of(tmp_path, mixture=mixture, eval_samples=4, seed=seed) for seed in (0, 1))
    assert (len(source), source.counts.held_out, len(source.eval_prompts())) == (30, 10, 4)
    assert [(part.rows, part.kept) for part in source.parts] == [(30, 30), (10, 10)]
    first, second = drawn(source), drawn(other)
    assert {prompt.text for prompt in first} == {prompt.text for prompt in second}, "the mixture's seed splits"
    assert first != second, "the run's seed orders"


@pytest.mark.parametrize(("size", "held_out"), [(0.1, 1), (0.11, 2), (3, 3), (0.3, 3)])
def test_a_share_or_a_number_of_rows_is_held_out(tmp_path: Path, size: float, held_out: int):
    source = source_of(tmp_path, test_split_size=size, eval_samples=2)
    trained = rows_of(source)
    evaluated = [prompt.id.index for prompt in source.eval_prompts()]
    assert (len(trained), source.counts.held_out, len(evaluated)) == (10 - held_out, held_out, min(2, held_out))
    assert not set(trained) & set(evaluated)
    assert rows_of(source_of(tmp_path, test_split_size=size, eval_samples=0)) == trained, "held out whether evaluated or not"
    assert sorted(trained) != list(range(held_out, 10)), "a seeded choice"


def test_a_share_is_of_the_rows_that_are_used(tmp_path: Path):
    source = source_of(tmp_path, test_split_size=0.5, train_samples=4)
    assert (len(source), source.counts.held_out, source.counts.not_sampled) == (2, 2, 6)
    assert "has 10 rows, of which 5 are held out (test_split_size) and 11 are wanted" in refusal(
        tmp_path, test_split_size=0.5, train_samples=11
    )
    assert "and 1 are wanted for training; lower data.train_samples or test_split_size" in refusal(tmp_path, test_split_size=10)
    assert "has 10 rows, and 11 are wanted for training" in refusal(tmp_path, train_samples=11)


def test_rows_are_kept_whose_pass_rate_lies_strictly_between(tmp_path: Path):
    source = source_of(tmp_path, pass_rate_column="rate", min_pass_rate=0.25, max_pass_rate=1.0)
    assert sorted(rows_of(source)) == [3, 4, 5, 6, 7]
    assert source.counts.outside_pass_rate == 5
    assert sorted(rows_of(source_of(tmp_path, pass_rate_column="rate", max_pass_rate=0.25))) == [0, 1]
    message = refusal(tmp_path, pass_rate_column="rate", min_pass_rate=5.0)
    assert "none of the 10 training rows is left: 10 have a pass rate that is not between" in message
    assert "data.pass_rate_column 'pass_rate' is not in the data" in refusal(tmp_path, min_pass_rate=0.1)
    lacking = [*ROWS[:3], {"prompt": "?", "rate": None}, {"prompt": "??", "rate": "high"}]
    message = refusal(tmp_path, lacking, pass_rate_column="rate", min_pass_rate=0.1)
    assert "rows.jsonl:4: column 'rate' holds None, which is not a number (2 rows of 5 looked at have none); measure it with" in message


def test_held_out_rows_are_not_filtered(tmp_path: Path):
    source = source_of(tmp_path, eval_samples=5, pass_rate_column="rate", min_pass_rate=0.5)
    assert len(source.eval_prompts()) == 5
    counts = source.counts
    assert counts.trained + counts.held_out + counts.outside_pass_rate == counts.rows == 10


TAINTED = "Let ABC be a triangle with sides of 3, 4 and 5 units."


def test_words_of_an_evaluation_set_are_left_out_and_told(tmp_path: Path):
    first = write_rows(tmp_path, [{"problem": f"1. {TAINTED} Find its area."}, {"problem": "too short to match"}], "first.jsonl")
    second = write_rows(tmp_path, [{"question": "so many words that nobody else has ever written down"}], "second.jsonl")
    rows = [
        {"prompt": "  let abc be a TRIANGLE, with (sides) of 3 4 and 5 units"},
        {"prompt": [{"role": "system", "content": TAINTED}, {"role": "user", "content": "1+1?"}]},
        {"prompt": [{"role": "user", "content": f"Now: {TAINTED}"}]},
        {"prompt": "Let ABC be a triangle with sides of 6, 8 and 10 units."},
        {"prompt": "too short to match"},
    ]
    source = source_of(tmp_path, rows, decontaminate=[first, second])
    assert sorted(rows_of(source)) == [1, 4]
    assert source.counts.contaminated == {first: 3, second: 0}
    assert [(found.location[-4:], found.evaluation_set) for found in source.contaminated] == [
        ("nl:1", first),
        ("nl:3", first),
        ("nl:4", first),
    ]
    assert source.contaminated[0].ngram == "let abc be a triangle with sides of"
    assert f"3 training prompts share words with {first} and are left out" in source.warnings
    assert "does not exist" in refusal(tmp_path, decontaminate=["no.jsonl"])


def test_eight_words_in_a_row():
    assert list(ngrams("One two, three four five six seven EIGHT nine.")) == [
        "one two three four five six seven eight",
        "two three four five six seven eight nine",
    ]
    assert list(ngrams("one two three four five six seven")) == []


def test_a_curriculum_orders_the_first_epoch(tmp_path: Path):
    source = source_of(tmp_path, curriculum_column="level")
    assert values_of(source, "level") == sorted(LEVELS)
    second = rows_of(source)
    assert second != rows_of(source_of(tmp_path, curriculum_column="level"))
    plain = source_of(tmp_path)
    rows_of(plain)
    assert second == rows_of(plain), "the second epoch is shuffled as without a curriculum"
    assert values_of(source_of(tmp_path, curriculum_column="level", curriculum_descending=True), "level") == sorted(LEVELS, reverse=True)
    unshuffled = source_of(tmp_path, curriculum_column="level", shuffle=False)
    assert values_of(unshuffled, "level") == values_of(unshuffled, "level") == sorted(LEVELS)
    assert [prompt.columns["level"] for prompt in source.first_prompts(3)] == [0, 1, 1]


def test_equal_rows_of_a_curriculum_are_in_a_seeded_order(tmp_path: Path):
    rows = [{"prompt": f"{n}?", "level": n % 2} for n in range(40)]
    orders = [rows_of(source_of(tmp_path, rows, curriculum_column="level", seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:20] != sorted(orders[0][:20])


def test_a_curriculum_needs_a_number_in_every_row(tmp_path: Path):
    rows = [*ROWS[:2], {"prompt": "?"}]
    message = refusal(tmp_path, rows, curriculum_column="level")
    assert "rows.jsonl:3: column 'level' holds None, which is not a number; give every row a number there" in message
    assert "'hard', which is not a number" in refusal(tmp_path, [{"prompt": "?", "level": "hard"}], curriculum_column="level")
    assert "data.curriculum_column 'levle' is not in the data" in refusal(tmp_path, curriculum_column="levle")
    assert values_of(
        source_of(tmp_path, [{"prompt": str(n), "level": str(n)} for n in (10, 9, 2)], curriculum_column="level"), "level"
    ) == [
        "2",
        "9",
        "10",
    ], "texts that are numbers, as CSV has them"


def test_a_cursor_of_another_curriculum_is_refused(tmp_path: Path):
    cursor = source_of(tmp_path, curriculum_column="level").cursor()
    changed = [{**row, "level": 10 - row["level"]} for row in ROWS]
    with pytest.raises(CheckpointError, match="was made with other prompts"):
        source_of(tmp_path, changed, curriculum_column="level").restore(cursor)
    with pytest.raises(CheckpointError, match="was made with other prompts"):
        source_of(tmp_path).restore(cursor)


def test_columns_get_other_names_in_training_and_evaluation(tmp_path: Path):
    rows = [{"instruction": f"{n}+1?", "output": str(n + 1)} for n in range(5)]
    names = {"instruction": "question", "output": "answer"}
    other = write_rows(tmp_path, [{"instruction": "7+7?", "output": "14"}], "eval.jsonl")
    source = source_of(tmp_path, rows, columns=names, prompt_column="question", eval_path=other, eval_samples=9)
    assert sorted(values_of(source, "answer")) == ["1", "2", "3", "4", "5"]
    assert [prompt.columns for prompt in source.eval_prompts()] == [{"answer": "14"}]
    ours = write_rows(tmp_path, [{"question": "7+7?", "answer": "14"}], "ours.jsonl")
    assert [
        prompt.columns
        for prompt in source_of(tmp_path, rows, columns=names, prompt_column="question", eval_path=ours, eval_samples=9).eval_prompts()
    ] == [{"answer": "14"}]
