"""Every name of a column may lead into a column: `reward_model.ground_truth`, `messages.0.content`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.rows.named_sets import load_named_or_path
from actors.rows.sources import open_held_out, open_rows
from actors.rows.stream import open_stream
from configs.contracts.column_paths import MISSING, found_at
from configs.contracts.errors import DataError
from configs.schema.data import DataSection
from configs.schema.sft import SftDataSection
from tests.actors.rows.test_rows import all_rows, file_with, write_parquet

VERL = {
    "data_source": "openai/gsm8k",
    "prompt": [{"role": "user", "content": "1+1?"}],
    "reward_model": {"ground_truth": "2", "style": "rule"},
    "extra_info": {"answer": "1+1=2 #### 2", "question": "1+1?", "index": 0},
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", {"b": 1, "b.c": 2, "list": [{"x": "first"}, {"x": "last"}]}),
        ("a.b", 1),
        ("a.b.c", 2),
        ("a.list.0.x", "first"),
        ("a.list.-1.x", "last"),
        ("lit.eral", 3),
        ("lit.eral.d", 4),
        ("text.k.0", 5),
        ("a.c", MISSING),
        ("a.list.2.x", MISSING),
        ("a.b.c.d", MISSING),
        ("plain.x", MISSING),
        ("none.x", MISSING),
    ],
)
def test_a_name_leads_to_its_value(name: str, value: object):
    row = {
        "a": {"b": 1, "b.c": 2, "list": [{"x": "first"}, {"x": "last"}]},
        "lit.eral": 3,
        "lit": {"eral": {"d": 4}},
        "text": '{"k": [5]}',
        "plain": "{no json",
        "none": None,
    }
    found = found_at(row, name)
    assert found is value if value is MISSING else found == value


def written(folder: Path, kind: str) -> Path:
    if kind == "jsonl":
        return file_with(folder, "a.jsonl", (json.dumps(VERL) + "\n") * 4)
    return write_parquet(folder / "a.parquet", {name: [value] * 4 for name, value in VERL.items()})


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_settings_of_a_run_lead_into_columns(tmp_path: Path, kind: str):
    data = DataSection(
        path=str(written(tmp_path, kind)),
        columns={"reward_model.ground_truth": "solution"},
        prompt_column="extra_info.question",
        pass_rate_column="extra_info.index",
        min_pass_rate=-1,
        curriculum_column="extra_info.index",
    )
    rows, _ = open_rows(data, tmp_path, 0)
    row = rows.row(3)
    assert (row["solution"], row["extra_info.question"], row["extra_info.index"]) == ("2", "1+1?", 0)
    assert rows.values("solution", [0, 2]) == ["2", "2"] and rows.values("extra_info.question", [1]) == ["1+1?"]
    assert row["reward_model"] == VERL["reward_model"], "the column itself stays"
    stream = open_stream(data.model_copy(update={"curriculum_column": None}), tmp_path, 0)
    assert stream.read(0, 1).row(0) == {name: row[name] for name in stream.read(0, 1).columns} != {}
    assert {"solution", "extra_info.question", "extra_info.index"} <= set(stream.read(0, 0).columns)
    held_out = open_held_out(data.model_copy(update={"eval_path": data.path}), tmp_path, 0)
    assert held_out.row(0)["solution"] == "2"
    rows, column = load_named_or_path(str(data.path), "extra_info.question")
    assert (column, rows.values(column, [0])) == ("extra_info.question", ["1+1?"])


def test_settings_of_a_fine_tuning_lead_into_columns(tmp_path: Path):
    data = SftDataSection(path=str(written(tmp_path, "jsonl")), prompt_column="prompt.0.content", completion_column="extra_info.answer")
    row = open_rows(data, tmp_path, 0)[0].row(0)
    assert (row["prompt.0.content"], row["extra_info.answer"]) == ("1+1?", "1+1=2 #### 2")


def test_parts_of_a_mixture_lead_into_columns(tmp_path: Path):
    file_with(tmp_path, "b.jsonl", '{"prompt": "?", "solution": "3"}\n')
    parts = [
        {"path": str(written(tmp_path, "parquet")), "columns": {"extra_info.question": "prompt", "reward_model.ground_truth": "solution"}},
        {"path": str(tmp_path / "b.jsonl")},
    ]
    rows, _ = open_rows(DataSection.model_validate({"mixture": {"datasets": parts}}), tmp_path, 0)
    assert sorted(str(row["solution"]) for row in all_rows(rows)) == ["2", "2", "2", "2", "3"]


def test_a_column_whose_name_holds_the_dot_comes_first(tmp_path: Path):
    path = file_with(tmp_path, "a.jsonl", json.dumps({"prompt": "?", "gold.text": "own", "gold": {"text": "inside"}}))
    rows, _ = open_rows(DataSection(path=str(path), columns={"gold.text": "solution"}), tmp_path, 0)
    assert rows.row(0) == {"prompt": "?", "solution": "own", "gold": {"text": "inside"}}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_name_that_leads_to_nothing_is_refused_with_what_is_there(tmp_path: Path, streaming: bool):
    data = DataSection(path=str(written(tmp_path, "jsonl")), columns={"reward_model.ground_trut": "solution"}, streaming=streaming)
    with pytest.raises(DataError) as caught:
        open_stream(data, tmp_path, 0) if streaming else open_rows(data, tmp_path, 0)
    assert (
        "data.columns 'reward_model.ground_trut' leads to nothing in the column 'reward_model', which has ground_truth, style (did you mean "
        "reward_model.ground_truth?)"
    ) in str(caught.value)


def test_a_row_in_which_a_name_leads_to_nothing_has_null_there(tmp_path: Path):
    path = file_with(tmp_path, "a.jsonl", '{"prompt": "?", "m": {"gold": 1}}\n{"prompt": "?", "m": null}\n{"prompt": "?"}\n')
    rows, _ = open_rows(DataSection(path=str(path), columns={"m.gold": "solution"}), tmp_path, 0)
    assert rows.values("solution", range(3)) == [1, None, None] == [row["solution"] for row in all_rows(rows)]
