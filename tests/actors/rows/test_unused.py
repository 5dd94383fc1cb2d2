"""Columns that nothing reads are told, with their first value and with what they mean elsewhere."""

from __future__ import annotations

from actors.rows.rows import RecordRows
from actors.rows.unused import ELSEWHERE, first_values, unused_columns


def test_the_first_value_of_each_column_is_the_first_that_is_there() -> None:
    rows = RecordRows(("a", "b", "c"), [{"a": None}, {"a": 1, "b": "x"}, {"a": 2}], ["f:1", "f:2", "f:3"])
    assert first_values(rows) == {"a": 1, "b": "x", "c": None}


def test_columns_that_mean_something_elsewhere_are_warned_of_by_name_and_the_others_are_listed() -> None:
    values = {
        "prompt": "2+2?",
        "solution": "4",
        "id": "a-1",
        "tools": [{"name": "add"}],
        "Images": ["1.png"],
        "note": "x\x1b[31m" + "y" * 100,
    }
    warnings, notice = unused_columns(values, {"prompt", "solution"})
    assert [warning.partition(" is used by nothing")[0] for warning in warnings] == [
        'column \'tools\' (first [{"name": "add"}])',
        "column 'Images' (first [\"1.png\"])",
    ]
    assert "functions that the model may call" in warnings[0] and "reads text only" in warnings[1]
    assert notice == f'columns that nothing uses, with their first value: id ("a-1"), note ("x\\u001b[31m{"y" * 45}...)'


def test_a_column_of_which_a_part_is_read_is_used() -> None:
    assert unused_columns({"extra_info": {"answer": "4"}, "p": "?"}, {"p", "extra_info.answer"}) == ([], "")


def test_a_reward_that_takes_every_column_does_not_show_the_model_its_tools() -> None:
    warnings, notice = unused_columns({"tools": ["x"], "id": 1}, (), passed_on=True)
    assert len(warnings) == 1 and notice == ""


def test_an_empty_column_means_nothing() -> None:
    assert unused_columns({"input": "", "history": [], "label": None}, ()) == (
        [],
        'columns that nothing uses, with their first value: input (""), history ([]), label (null)',
    )


def test_the_columns_of_other_trainers_are_known() -> None:
    asked = {"tools", "system", "system_prompt", "input", "images", "reasoning_content", "rejected", "history", "label"}
    assert asked <= set(ELSEWHERE)
