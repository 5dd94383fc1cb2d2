"""Cases that TRL, Open-R1 and MedicalGPT test or document, with the values that their own functions give."""

from __future__ import annotations

from typing import Any

import pytest

from rewards import load

FRACTION = "\\boxed{\\frac{63}{400}}"


@pytest.mark.parametrize(
    ("name", "params", "gold", "completion", "value"),
    [
        # TRL's accuracy_reward; Open-R1's has the first and the third
        ("accuracy", {}, "\\frac{63}{400}", FRACTION, 1.0),
        ("accuracy", {}, "63/400", FRACTION, 1.0),
        ("accuracy", {}, "\\frac{63}{400}", "\\boxed{\\frac{64}{400}}", 0.0),
        ("accuracy", {}, "6", "\\boxed{3}", 0.0),
        ("accuracy", {}, "Answer is forty two.", "Answer is forty two.", None),
        ("accuracy", {}, "Answer is forty three.", "Some other content. \\boxed{43}.", None),
        # TRL's reasoning_accuracy_reward
        ("reasoning_accuracy", {}, "\\frac{63}{400}", f"<think> Reasoning content </think> {FRACTION}", 1.0),
        ("reasoning_accuracy", {}, "\\frac{63}{400}", f"Reasoning content </think> {FRACTION}", 1.0),
        (
            "reasoning_accuracy",
            {"reasoning_delimiters": ["</END>"]},
            "\\frac{63}{400}",
            f"<START> Reasoning content </END> {FRACTION}",
            1.0,
        ),
        ("reasoning_accuracy", {}, "\\frac{63}{400}", "<think> Reasoning content </think> \\boxed{\\frac{64}{400}}", 0.0),
        ("reasoning_accuracy", {}, "\\boxed{42}", "<think> My answer is \\boxed{42} </think> Some other text.", 0.0),
        ("reasoning_accuracy", {}, "\\boxed{42}", "<think> The answer is \\boxed{42} </think> Here's a wrong answer: \\boxed{43}.", 0.0),
        ("reasoning_accuracy", {}, "\\frac{63}{400}", "<think> Incomplete reasoning without closing tag", 0.0),
        ("reasoning_accuracy", {}, "\\frac{63}{400}", "Correct answer \\frac{63}{400} but completely missing reasoning content", 0.0),
        ("reasoning_accuracy", {}, "forty two", "<think> Reasoning content </think> \\boxed{42}", None),
        # MedicalGPT: GSM8K's gold behind ####, the answer in its tag
        ("accuracy", {"answer_style": "answer_tag"}, "48/2 = 24\n#### 72", "<think>\n24 + 48\n</think>\n<answer>\n72\n</answer>\n", 1.0),
        ("accuracy", {"answer_style": "answer_tag"}, "48/2 = 24\n#### 72", "<think>\n24 + 48\n</think>\n<answer>\n71\n</answer>\n", 0.0),
        ("accuracy", {"answer_style": "answer_tag"}, "#### 1,080", "<think>\nx\n</think>\n<answer>\n1080\n</answer>\n", 1.0),
    ],
)
def test_a_value_is_the_peers(name: str, params: dict[str, Any], gold: str, completion: str, value: float | None) -> None:
    assert load(name, **params)(completions=[[{"role": "assistant", "content": completion}]], solution=[gold]) == [value]
