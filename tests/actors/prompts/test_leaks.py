"""Answers that stand in their own prompts are told with their share; those that stand anywhere by chance are not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from actors.prompts.leaks import leak_warnings
from configs.contracts.records import Prompt, PromptId


def told(rows: Sequence[tuple[str, object]], column: str = "answer", columns: tuple[str, ...] = ()) -> list[str]:
    prompts = [Prompt(PromptId(0, index), (), text, {column: gold}) for index, (text, gold) in enumerate(rows)]
    return list(leak_warnings(prompts, columns))


@pytest.mark.parametrize("gold", ["{}", "because of this #### {}", r"so \boxed{{{}}}", " {} "])
def test_answers_in_their_prompts_are_told_with_their_share(gold: str) -> None:
    rows = [(f"What is {n}+{n}? The answer is {2 * n}." if n % 4 else f"What is {n}?", gold.format(2 * n)) for n in range(11, 31)]
    (sentence,) = told(rows)
    assert "in column 'answer' stands word for word in the prompt of 15 of the first 20 rows (75%)" in sentence


@pytest.mark.parametrize(
    "rows",
    [
        [(f"Which one? A. {n} B. {n + 1} C. {n + 2}", "ABC"[n % 3]) for n in range(20)],
        [(f"Is review {n} positive or negative?", ("positive", "negative")[n % 2]) for n in range(20)],
        [(f"What is {n}+{n}?", str(2 * n)) for n in range(11, 31)],
        [(f"Number {n}0 and {n}.5", str(n)) for n in range(11, 31)],
        [("The answer is 3.", "3")] * 3,
        [(f"say {n}", n) for n in range(20)],
    ],
)
def test_what_stands_there_by_chance_is_not_told(rows: list[tuple[str, object]]) -> None:
    assert told(rows) == []


def test_other_columns_are_looked_at_where_a_reward_reads_them() -> None:
    rows: list[tuple[str, object]] = [(f"Say word{n}.", f"word{n}") for n in range(8)]
    assert told(rows, "key") == [] and len(told(rows, "key", ("key",))) == 1
