"""In the style `latex`, grades are those of Open-R1's accuracy reward, but for differences that are meant. Those are listed here."""

from __future__ import annotations

from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify

from rewards.functions.math_answer import Accuracy

EXTRACTION = LatexExtractionConfig(
    normalization_config=NormalizationConfig(basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all"),
    boxed_match_priority=0,
    try_extract_without_anchor=False,
)

ANSWERS = (
    r"42", r"-3", r"0", r"0.5", r"1/2", r"\frac{1}{2}", r"\frac12", r"1\frac{1}{2}", r"1.5", r"1,000", r"12,34", r"50\%", r"9", r"9\%", r"0.09",
    r"0.333333", r"\frac{1}{3}", r"2\sqrt{3}", r"\frac{\sqrt2}{2}", r"10!", r"2^{10}", r"1024", r"10^{-7}", r"\pi", r"\frac{\pi}{2}", r"\infty",
    r"x", r"x+1", r"x^2-1", r"(x-1)(x+1)", r"x=5", r"x<5", r"\sin x", r"\log_2 8", r"3+4i", r"3:2", r"90^\circ", r"1011_2", r"\$5", r"5",
    r"3\text{ cm}", r"5\text{ dollars}", r"(1,2)", r"[0,1)", r"(-\infty,3]", r"\{1,2\}", r"1,2", r"2,1", r"\pm 2", r"2,-2", r"\emptyset",
    r"\begin{pmatrix}1\\2\end{pmatrix}", r"\text{Blue}", r"\text{east}", r"\text{(B)}", r"B", r"AC", r"\text{No solution}",
)  # fmt: skip

FORMS = (
    "So \\boxed{{{}}}.", "So $\\boxed{{{}}}$.", "The final answer is ${}$. I hope it is correct.", "Thus the answer is ${}$.", "${}$", "{}",
)  # fmt: skip


@lru_cache(maxsize=1000)
def gold_of_open_r1(gold: str) -> tuple[object, ...]:
    return tuple(parse(gold, extraction_mode="first_match", parsing_timeout=None))  # pyright: ignore[reportArgumentType]


def open_r1(gold: str, text: str) -> float | None:
    """Grade as Open-R1 does: parse the gold, parse the answer, verify. Its time limits by SIGALRM are left out."""
    gold_parsed = gold_of_open_r1(gold)
    if not gold_parsed:
        return None
    answer = parse(text, extraction_config=[EXTRACTION], extraction_mode="first_match", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    return float(verify(list(gold_parsed), answer, timeout_seconds=None))  # pyright: ignore[reportArgumentType]


def ours(gold: str, text: str) -> float | None:
    return Accuracy("latex").grade_text(text, {"solution": gold}).value


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(ANSWERS), st.sampled_from(ANSWERS) | st.none(), st.sampled_from(FORMS))
def test_a_gold_between_dollars_is_graded_as_by_open_r1(gold: str, other: str | None, form: str) -> None:
    text = form.format(gold if other is None else other)
    assert ours(f"${gold}$", text) == open_r1(f"${gold}$", text)


@pytest.mark.parametrize(
    ("gold", "answer", "theirs", "mine"),
    [
        # math-verify's mistakes, guarded against
        ("$\\frac{1}{2^{99}}$", "\\frac{1}{2^{98}}", 1.0, 0.0),
        ("$0.0000001$", "0.0000002", 1.0, 0.0),
        ("$1011_2$", "1011_3", 1.0, 0.0),
        ("$1.5\\text{ cm}$", "1.5\\text{ mm}", 1.0, 0.0),
        ("$12$", "１２", 0.0, 1.0),
        # bare golds, of which Open-R1 reads a number
        ("2\\sqrt{3}", "2\\sqrt{3}", 0.0, 1.0),
        ("\\begin{pmatrix} -4 \\\\ 5 \\end{pmatrix}", "5", 1.0, 0.0),
        ("3,5", "3.5", 1.0, 0.0),
        ("5e-05", "5", 1.0, 0.0),
        ("1.000,50", "1", 1.0, 0.0),
        # bare golds that Open-R1 does not read
        ("x+1", "x+1", None, 1.0),
        ("[0,1)", "[0,1)", None, 1.0),
        ("\\$18.90", "\\$18.90", None, 1.0),
        # text, out of which Open-R1 picks a number
        ("amoxicillin 500 mg three times a day", "500", 1.0, None),
        ("2024-01-05", "2024-05-01", 0.0, 0.0),
        ("12:30", "12", 1.0, 0.0),
    ],
)
def test_the_differences_that_are_meant(gold: str, answer: str, theirs: float | None, mine: float | None) -> None:
    text = f"So $\\boxed{{{answer}}}$."
    assert (open_r1(gold, text), ours(gold, text)) == (theirs, mine)


@pytest.mark.parametrize("gold", ["A", "阴道炎", "Answer is forty two.", "Blue"])
def test_both_give_none_for_a_gold_that_is_no_mathematics(gold: str) -> None:
    assert open_r1(gold, f"\\boxed{{{gold}}}") is ours(gold, f"\\boxed{{{gold}}}") is None
