"""Golds and answers as people and models write them: Markdown, Chinese, units, scales, options; and answers that nobody can mean."""

from __future__ import annotations

import pytest

from rewards.functions.math_answer import Accuracy


@pytest.mark.parametrize("style", ["answer_tag", "auto"])
@pytest.mark.parametrize(
    ("gold", "answer", "value"),
    [
        ("5", "1e400", 0.0),
        ("5", "9" * 5000, 0.0),
        ("0.5", "0." + "3" * 4400, 0.0),
        ("5", "7" * 320 + "\\text{ km}", 0.0),
        ("2\\pi \\text{ m}", "2\\pi\\text{ 9**9**9**9}", 0.0),
        ("5 m", "\\infty \\text{ km}", 0.0),
        ("1e400", "5", 0.0),
        ("1e999", "1e999", 1.0),
        ("42", "The final answer is **42**.", 1.0),
        ("42", "**42**", 1.0),
        ("42", "**Answer: 42**", 1.0),
        ("42", "### Final Answer\n\n**42**", 1.0),
        ("42", "#### **42**", 1.0),
        ("42", "答案是**42**。", 1.0),
        ("42", "The answer is `42`", 1.0),
        ("42", 'The answer is "42"', 1.0),
        ("42", "__42__", 1.0),
        ("42", "\n* 42\n", 1.0),
        ("- 5", "5", 0.0),
        ("- 5", "-5", 1.0),
        ("> 5", "5", 0.0),
        ("10,\\!080", "10,\\!080", 1.0),
        ("10,\\!080", "10080", 1.0),
        ("$10,\\!080$", "10,\\!080", 1.0),
        ("\\$32,\\!348", "\\$32,\\!348", 1.0),
        ("A、B、D", "ABD", 1.0),
        ("A、B、D", "A, B, D", 1.0),
        ("A、C", "AC", 1.0),
        ("A、C", "A", 0.0),
        ("ABD", "A、B、D", 1.0),
        ("\\text{(A), (B)}", "A,B", 1.0),
        ("故选C", "C", 1.0),
        ("【答案】C", "C", 1.0),
        ("C\n解析：因为…", "C", 1.0),
        ("<answer>42</answer>", "42", 1.0),
        ("<answer>B</answer>", "B", 1.0),
        ("<think>x</think><answer>42</answer>", "42", 1.0),
        ("D 以上都是", "D", 1.0),
        ("C, A", "AC", 1.0),
        ("A;C", "AC", 1.0),
        ("\\approx 3.14", "3.14", 1.0),
        ("≈3.14", "3.14", 1.0),
        ("37 ℃", "37", 1.0),
        ("0 °C", "32 °F", 1.0),
        ("0.5 mg", "500 μg", 1.0),
        ("3 m/s", "3 m s^{-1}", 1.0),
        ("2.5 kJ/mol", "2.5 kJ mol^{-1}", 1.0),
        ("9.8 m/s²", "9.8\\mathrm{m\\,s^{-2}}", 1.0),
        ("2.5 \\mathrm{~kJ}\\mathrm{~mol}^{-1}", "2500\\text{ J/mol}", 1.0),
        ("100 \\Omega", "100", 1.0),
        ("12.5%", "12.5", 1.0),
        ("33.33", "33.33\\%", 1.0),
        ("3.5 million", "3.5", 0.0),
        ("1.5万", "1.5", 0.0),
        ("1.5亿", "1.5", 0.0),
        ("20万", "20", 0.0),
        ("1.5万元", "1.5", 0.0),
        ("1.5万元", "15000元", 1.0),
        ("2 dozen", "24", 1.0),
        ("1.2", "1.2 million", 0.0),
        ("20", "20万", 0.0),
        ("42", "The answer is 42 million.", 0.0),
        ("3 hours 30 minutes", "3", 0.0),
        ("2 h 30 min", "2", 0.0),
        ("5 feet 6 inches", "5", 0.0),
        ("42", "42 hours 30 minutes", 0.0),
        ("3 am", "3 pm", 0.0),
        ("5 January", "5", 0.0),
        ("3 in 10", "3", 0.0),
        ("2 to 1", "1 to 2", 0.0),
        ("10 to 20", "20 to 10", 0.0),
        ("7 of 9", "9 of 7", 0.0),
        ("5 by 6", "6 by 5", 0.0),
        ("120/80", "3/2", 0.0),
        ("120/80", "120/80", 1.0),
        ("140/90 mmHg", "14/9 mmHg", 0.0),
        ("J. K. Rowling", "J", 0.0),
        ("42", "not 42", 0.0),
        ("42", "The answer is not 42.", 0.0),
        ("42", "can't be 42", 0.0),
        ("42", "40\n41\n42", 0.0),
        ("42", "42_8", 0.0),
        ("1,-2", "(-2,1)", 0.0),
        ("1e-07", "10^{-7}", 1.0),
        ("42", "答：42个。", 1.0),
        ("42", "结果是42。", 1.0),
        ("42", "所以一共有42个苹果。", 1.0),
        ("0.\\overline{3}", "\\frac13", 1.0),
        ("0", "0.\\overline{3}", 0.0),
    ],
)
def test_an_answer_in_a_tag(gold: str, answer: str, value: float, style: str) -> None:
    reward = Accuracy("auto" if style == "auto" else "answer_tag")
    assert reward.grade_text(f"<answer>{answer}</answer>", {"solution": gold}).value == value


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "1e400"),
        ("5", "9" * 5000),
        ("0.5", "0." + "3" * 4400),
        ("5", "7" * 320 + "\\text{ km}"),
        ("5 m", "5 m**9**9**9"),
        ("2\\pi \\text{ m}", "2\\pi\\text{ 9**9**9**9}"),
        ("5 m", "\\infty \\text{ km}"),
        ("1e400", "5"),
    ],
)
def test_an_answer_that_nobody_can_mean_is_wrong_and_raises_nothing(gold: str, answer: str) -> None:
    for style in ("latex", "auto"):
        assert Accuracy(style).grade_text(f"\\boxed{{{answer}}}", {"solution": gold}).value == 0.0


def test_malformed_operators_are_read_in_the_style_auto() -> None:
    for answer in ("\\frac43", "\\frac{4}3", "\\dfrac43"):
        assert Accuracy("auto").grade_text(f"\\boxed{{{answer}}}", {"solution": "\\frac{4}{3}"}).value == 1.0
        assert Accuracy("latex").grade_text(f"\\boxed{{{answer}}}", {"solution": "\\frac{4}{3}"}).value == 0.0
    assert Accuracy("auto").grade_text("\\boxed{\\sqrt2}", {"solution": "\\sqrt{2}"}).value == 1.0


def test_a_tag_within_the_reasoning_does_not_count_if_another_follows() -> None:
    text = "<think>First <answer>41</answer>.</think><answer>42</answer>"
    assert Accuracy("answer_tag").grade_text(text, {"solution": "42"}).value == 1.0


def test_a_draft_in_a_box_of_the_reasoning_does_not_change_text_in_latex() -> None:
    for gold in ("$\\text{Yes}$", "$A$", "$\\text{(B)}$"):
        assert Accuracy("latex").grade_text(f"<think>\\boxed{{9}}</think> $\\boxed{{{gold.strip('$')}}}$", {"solution": gold}).value == 1.0
