"""Evaluation sets by name or by path.

Protected here: every named set hands the accuracy reward a gold that it reads, in the form that the set really has.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.rows.named_sets import NAMED_SETS, load_named_or_path
from actors.rows.rows import load_rows
from actors.rows.views import renamed
from configs.contracts.errors import DataError


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS_OF = {
    "math_500": {"problem": "p", "solution": r"We get $\boxed{\frac{3}{4}}$.", "answer": r"\frac{3}{4}", "level": 2},
    "aime_2024": {"id": 60, "problem": "p", "solution": "Long text about 4 cases.", "answer": "204", "url": "u", "year": "2024"},
    "aime_2025": {"id": 1, "problem": "p", "answer": "70"},
    "gsm8k": {"question": "p", "answer": "9 * 2 = <<9*2=18>>18 a day.\n#### 18"},
}
RIGHT = {"math_500": "0.75", "aime_2024": "204", "aime_2025": "70", "gsm8k": "18"}


@pytest.mark.parametrize("name", NAMED_SETS)
def test_the_gold_of_a_named_set_is_read_by_the_accuracy_reward(tmp_path: Path, name: str):
    from rewards import load

    known = NAMED_SETS[name]
    rows = renamed(load_rows(str(write_rows(tmp_path / "rows.jsonl", [ROWS_OF[name]]))), known.columns, "columns")
    row = rows.row(0)
    assert row[known.prompt_column] == "p"
    for style, completion in (("latex", rf"\boxed{{{RIGHT[name]}}}"), ("answer_tag", f"<answer>{RIGHT[name]}</answer>")):
        accuracy = load("accuracy", answer_style=style)
        columns = {column: [value] * 2 for column, value in row.items()}
        assert accuracy(completions=[completion, completion.replace(RIGHT[name], "1")], **columns) == [1.0, 0.0]


def test_a_path_is_read_with_its_split_and_its_prompt_column_is_found(tmp_path: Path):
    for split in ("train", "test"):
        write_rows(tmp_path / "set" / f"{split}.jsonl", [{"answer": "1", "question": split}])
    for spec, question in ((f"{tmp_path}/set", "test"), (f"{tmp_path}/set@train", "train")):
        rows, column = load_named_or_path(spec)
        assert (column, rows.row(0)["question"]) == ("question", question)
    lone = write_rows(tmp_path / "me@home.jsonl", [{"prompt": "1+1?", "question": "no"}])
    assert load_named_or_path(str(lone))[1] == "prompt"
    assert load_named_or_path(f"{lone}@validation")[0].row(0)["prompt"] == "1+1?"


def test_what_is_neither_a_name_nor_a_data_set_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"nothing.jsonl does not exist.* \(sets known by name: math_500, aime_2024, aime_2025, gsm8k\)"):
        load_named_or_path(str(tmp_path / "nothing.jsonl"))
    odd = write_rows(tmp_path / "odd.jsonl", [{"text": "1+1?"}])
    with pytest.raises(DataError, match="has the columns text, none of which is known to hold prompts; name one of them prompt, problem"):
        load_named_or_path(str(odd))


def test_columns_get_other_names_and_hide_what_had_them(tmp_path: Path):
    path = write_rows(tmp_path / "rows.jsonl", [{"q": "1+1?", "answer": "2", "solution": "long"}, {"q": "2+2?", "answer": "4"}])
    rows = renamed(load_rows(str(path)), {"q": "prompt", "answer": "solution"}, "data.columns")
    assert rows.columns == ("prompt", "solution")
    assert rows.row(0) == {"prompt": "1+1?", "solution": "2"}
    assert rows.values("solution", [1, 0]) == ["4", "2"]
    assert (len(rows), rows.location(1)) == (2, f"{path}:2")
    swapped = renamed(load_rows(str(path)), {"answer": "solution", "solution": "answer"}, "data.columns")
    assert swapped.row(0) == {"q": "1+1?", "solution": "2", "answer": "long"}


def test_a_column_that_is_not_there_is_named_with_the_nearest(tmp_path: Path):
    rows = load_rows(str(write_rows(tmp_path / "rows.jsonl", [{"Question": "1+1?", "answer": "2"}])))
    with pytest.raises(DataError, match=r"data.columns 'question' is not in the data; .* Question, answer \(did you mean Question\?\)"):
        renamed(rows, {"question": "prompt"}, "data.columns")
