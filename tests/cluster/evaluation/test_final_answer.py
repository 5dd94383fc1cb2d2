"""What completions vote for."""

from __future__ import annotations

import pytest

from cluster.evaluation.final_answer import final_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("first \\boxed{1}, then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1{,}024 \\text{ apples}} and 7", "1024apples"),
        ("so $x = \\boxed{1,024}$.", "1024"),
        ("<think>3</think><answer> 42. </answer> 5", "42"),
        ("6 * 12 = 72\n#### 72", "72"),
        ("It is 12, or 13,500.0 then.", "13500.0"),
        ("\\boxed{never closed 5", "5"),
        ("I do not know.", "idonotknow"),
        ("<answer>\\dfrac{3}{4}</answer>", "\\frac{3}{4}"),
        ("minus -3", "-3"),
        ("", ""),
    ],
)
def test_the_last_answer_counts_in_one_spelling(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_spellings_of_one_answer_are_one_vote() -> None:
    texts = ["\\boxed{\\left( 1, 2 \\right)}", "\\boxed{(1,2)}", "so \\boxed{ (1,\\,2) }", "\\boxed{$(1, 2)$}"]
    assert len({final_answer(text) for text in texts}) == 1
