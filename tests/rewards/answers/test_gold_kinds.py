"""Golds of every kind against answers that say the same, and others that do not, in every style that can hold them."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from rewards.answers.golds import GoldKind, read_gold
from rewards.functions.math_answer import Accuracy, AnswerStyle
from tests import REPOSITORY

STYLES: tuple[AnswerStyle, ...] = get_args(AnswerStyle)
TAGGED: tuple[AnswerStyle, ...] = ("answer_tag", "auto")


def value(gold: object, text: str, style: AnswerStyle, kind: GoldKind = "auto") -> float | None:
    return Accuracy(style, gold_kind=kind).grade_text(text, {"solution": gold}).value


def boxed(answer: str) -> str:
    return f"So it is \\boxed{{{answer}}}."


def tagged(answer: str) -> str:
    return f"<think>let me see: 7</think><answer>{answer}</answer>"


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        ("42", "number"),
        ("-3", "number"),
        ("+5", "number"),
        ("−5", "number"),
        ("１２", "number"),
        ("1,000", "number"),
        ("1,234,567.5", "number"),
        ("5e-05", "number"),
        ("5 \\times 10^{-5}", "number"),
        ("1/2", "number"),
        ("1 1/2", "number"),
        ("50%", "number"),
        ("50 percent", "number"),
        ("\\$18.90", "number"),
        ("$18.90", "number"),
        ("5 dollars", "number"),
        ("1.5 cm", "number"),
        ("500mg", "number"),
        ("60 km/h", "number"),
        ("3 apples", "number"),
        ("5毫克", "number"),
        ("90^\\circ", "number"),
        ("37 °C", "number"),
        ("1011_2", "number"),
        ("5.", "number"),
        ("x #### 42", "number"),
        ("so the answer is $5$.", "number"),
        ("答案是5。", "number"),
        ("3,5", "list"),
        ("3, 5", "list"),
        ("12,34", "list"),
        ("1 and 2", "list"),
        ("1,000, 2,000", "list"),
        ("\\{1,2\\}", "list"),
        ("(1,2)", "list"),
        ("[0,1)", "list"),
        ("(-\\infty, 3]", "list"),
        ("\\boxed{3} and \\boxed{4}", "list"),
        ("\\frac{1}{2}", "number"),
        ("-2\\dfrac{1}{2}", "number"),
        ("\\frac{x}{2}", "latex"),
        ("2\\sqrt{3}", "latex"),
        ("√2", "latex"),
        ("π/2", "latex"),
        ("pi", "latex"),
        ("x+1", "latex"),
        ("x", "latex"),
        ("x < 5", "latex"),
        ("\\begin{pmatrix} -4 \\\\ 5 \\end{pmatrix}", "latex"),
        ("2\\pi \\text{ cm}", "latex"),
        ("A", "option"),
        ("(b)", "option"),
        ("C.", "option"),
        ("**B**", "option"),
        ("\\text{(B)}", "option"),
        ("A. Pneumonia", "option"),
        ("(B) Paris", "option"),
        ("A, C", "option"),
        ("ABD", "option"),
        ("option C", "option"),
        ("Blue", "text"),
        ("\\text{Blue}", "text"),
        ("孕期营养指导", "text"),
        ("amoxicillin 500 mg three times a day", "text"),
        ("2024-01-05", "text"),
        ("5/1/2024", "text"),
        ("12:30", "text"),
        ("9:30 pm", "text"),
        ("1.2.3", "text"),
        ("10-20", "text"),
        ("3rd", "text"),
        ("21st century", "text"),
        ("H2O", "text"),
        ("CO2", "text"),
        ("E. coli", "text"),
        ("β2-microglobulin", "text"),
        ("x-ray", "text"),
        ("C++", "text"),
        ("No solution", "text"),
        ("Answer is forty two.", "text"),
        ("we bought 3 of them for $5 in all, and ate two", "text"),
        ("", "unreadable"),
        ("$$", "unreadable"),
        ("...", "unreadable"),
        ("\\frac{1}{2", "unreadable"),
    ],
)
def test_the_kind_of_a_gold_follows_from_the_whole_of_it(gold: str, kind: str) -> None:
    assert read_gold(gold).kind == kind


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("matrix", ["pmatrix", "bmatrix"])
def test_a_bare_matrix_is_read_as_a_whole(style: AnswerStyle, matrix: str) -> None:
    gold = f"\\begin{{{matrix}}} -4 \\\\ 5 \\end{{{matrix}}}"
    assert value(gold, boxed(gold), style) == 1.0
    assert value(gold, boxed("5"), style) == 0.0


RIGHT_AND_WRONG = [
    ("3,5", "3,5", "3.5"),
    ("3,5", "5, 3", "3,6"),
    ("1,000", "1000", "1.000"),
    ("12,345", "12345", "12, 345"),
    ("1,000, 2,000", "2000, 1000", "1,000"),
    ("\\$18.90", "\\$18.90", "\\$18.09"),
    ("\\$18.90", "18.9 \\text{ dollars}", "18.9 \\text{ euros}"),
    ("$5", "5 USD", "€5"),
    ("5e-05", "0.00005", "0.00006"),
    ("1e-7", "0.0000001", "2e-7"),
    ("5e-05", "5 \\times 10^{-5}", "5 \\times 10^{-4}"),
    ("1.5 cm", "1.5 \\text{ cm}", "1.5 \\text{ mm}"),
    ("1.5 cm", "15 mm", "15 cm"),
    ("1.5 cm", "1.5", "15"),
    ("60 km/h", "60 \\text{ km per hour}", "60 \\text{ m/s}"),
    ("3 hours", "180 minutes", "3 days"),
    ("500 mg", "0.5 g", "500 g"),
    ("37 °C", "98.6 °F", "37 °F"),
    ("3 apples", "3", "4 apples"),
    ("3 boys", "3 \\text{ boys}", "3 \\text{ girls}"),
    ("5毫克", "5 mg", "5 kg"),
    ("2\\pi \\text{ cm}", "2\\pi \\text{ cm}", "2\\pi \\text{ mm}"),
    ("1011_2", "1011_{2}", "1011_{3}"),
    ("1/2^{99}", "\\frac{1}{2^{99}}", "\\frac{1}{2^{98}}"),
    ("50%", "0.5", "0.05"),
    ("1/3", "\\frac{1}{3}", "0.333"),
    ("1/3", "0.33333333", "0.3334"),
    ("√2/2", "\\frac{\\sqrt{2}}{2}", "\\frac{\\sqrt{3}}{2}"),
    ("½", "0.5", "0.25"),
    ("−5", "-5", "5"),
    ("１２", "12", "21"),
    ("12", "１２", "２１"),
    ("[0,1)", "[0,1)", "[0,1]"),
    ("(1,2)", "(1,2)", "(2,1)"),
    ("5000000", "5 million", "5 billion"),
    ("\\$1.2 million", "1,200,000", "1.2 billion"),
    ("3万", "30000", "3亿"),
    ("10 cm^2", "10 cm²", "10 cm³"),
    ("25 years", "25 years old", "25 months old"),
    ("50 cents", "50¢", "50 dollars"),
    ("10^-3", "0.001", "0.01"),
    ("n^2", "n²", "n³"),
    ("0.1\\overline{6}", "1/6", "0.16"),
    ("€1.234,56", "1234.56 euros", "1.23456"),
    ("9.8 m/s^2", "9.8 \\mathrm{~m/s^2}", "9.8 \\mathrm{~m/s}"),
    ("6.02 \\times 10^{23}", "6.02e23", "6.02e22"),
    ("2024-01-05", "2024-01-05", "2024-05-01"),
    ("2018", "2018", "2024-01-05"),
    ("12:30", "12:30", "25:60"),
    ("10-20", "10-20", "-10"),
    ("x #### 42", "42", "41"),
    ("\\text{east}", "\\text{east}", "\\text{seat}"),
    ("\\text{(B)}", "B", "A"),
    ("$B$", "\\text{(B)}", "C"),
]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("gold", "right", "wrong"), RIGHT_AND_WRONG)
def test_mathematics_in_every_style(gold: str, right: str, wrong: str, style: AnswerStyle) -> None:
    assert value(gold, boxed(right), style) == 1.0
    assert value(gold, boxed(wrong), style) == 0.0
    if style != "latex":
        assert value(gold, tagged(right), style) == 1.0
        assert value(gold, tagged(wrong), style) == 0.0


@pytest.mark.parametrize("style", TAGGED)
@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("amoxicillin 500 mg three times a day", "Amoxicillin 500 mg three times a day.", "ibuprofen 500 mg once a day"),
        ("孕期营养指导", "孕期营养指导。", "孕期营养"),
        ("孕期营养指导", "“孕期 营养指导”", "产后营养指导"),
        ("阴道炎", "答案是阴道炎。", "答案是宫颈炎。"),
        ("Paris", "The answer is **Paris**.", "The answer is Rome, not Paris."),
        ("forty two", "The answer is forty two.", "42 and forty"),
        ("east", "East", "seat"),
        ("C++", "c++", "C"),
        ("E. coli", "E. coli", "E. faecalis"),
        ("H2O", "H2O", "2"),
        ("H_2O", "H₂O", "H2O2"),
        ("72", "So he sold **72** clips in total.", "So he sold **27** clips in total."),
        ("3rd", "3rd", "3"),
        ("don't know", "don’t know", "do know"),
        ("A", "A", "B"),
        ("A", "A.", "B."),
        ("A", "A. Pneumonia", "B. Asthma"),
        ("A", "答案是A", "答案是B"),
        ("B", "**B**", "**C**"),
        ("C", "(C)", "(D)"),
        ("C", "\\boxed{\\text{C}}", "\\boxed{D}"),
        ("A. Pneumonia", "A", "B"),
        ("A. Pneumonia", "Pneumonia", "Asthma"),
        ("A. Pneumonia", "A) pneumonia", "A) asthma"),
        ("A, C", "AC", "A"),
        ("AC", "A and C", "B and C"),
        ("ABD", "A、B、D", "A、B"),
        ("A", "A", "Aspirin"),
    ],
)
def test_text_and_options_where_an_answer_is_text(gold: str, right: str, wrong: str, style: AnswerStyle) -> None:
    assert value(gold, tagged(right), style) == 1.0
    assert value(gold, tagged(wrong), style) == 0.0


@pytest.mark.parametrize("gold", ["A", "阴道炎", "Answer is forty two.", "amoxicillin 500 mg three times a day", "Blue", "C++"])
def test_in_the_latex_style_a_gold_that_is_no_mathematics_gives_none(gold: str) -> None:
    for reward in (Accuracy("latex"), Accuracy("latex", on_unparsable_answer="skip")):
        assert reward.grade_text(boxed(gold), {"solution": gold}) == (None, "unparsable_gold")


@pytest.mark.parametrize("style", TAGGED)
def test_the_answer_behind_hashes_comes_before_numbers_after_it(style: AnswerStyle) -> None:
    gold = "He has 24 + 48 = 72.\n#### 42"
    assert value(gold, "6 * 7\n#### 42\nI checked it 3 times.", style) == 1.0
    assert value(gold, "6 * 7\n#### 41\nIs it 42? No.", style) == 0.0
    assert value("42", "#### Step 1: think\nwe add 40 and 2\n#### Step 2: answer\nit is 42", style) == 1.0


@pytest.mark.parametrize("style", TAGGED)
def test_units_in_prose_count(style: AnswerStyle) -> None:
    assert value("1.5 cm", "<answer>The worm is 1.5 cm long.</answer>", style) == 1.0
    assert value("1.5 cm", "<answer>The worm is 15 mm long.</answer>", style) == 1.0
    assert value("1.5 cm", "<answer>The worm is 1.5 mm long.</answer>", style) == 0.0
    assert value("1.5 cm", "<answer>The worm weighs 1.5 kg.</answer>", style) == 0.0


@pytest.mark.parametrize(
    ("kind", "gold", "right", "wrong"),
    [
        ("text", "A", "A", "B"),
        ("text", "1/2", "1/2", "0.5"),
        ("number", "3,500", "3500", "3, 500"),
        ("list", "1,234", "234, 1", "1234"),
        ("option", "a", "A", "B"),
        ("latex", "ab", "ba", "ac"),
    ],
)
def test_a_kind_that_is_given_overrules(kind: GoldKind, gold: str, right: str, wrong: str) -> None:
    for style in STYLES:
        assert value(gold, boxed(right), style, kind) == 1.0
        assert value(gold, boxed(wrong), style, kind) == 0.0


@pytest.mark.parametrize(("kind", "gold"), [("number", "Paris"), ("list", "5"), ("option", "Paris"), ("latex", "\\frac{1}{")])
def test_a_gold_that_is_not_of_the_kind_that_is_given_cannot_be_read(kind: GoldKind, gold: str) -> None:
    for style in STYLES:
        assert Accuracy(style, gold_kind=kind).grade_text(boxed(gold), {"solution": gold}) == (None, "unparsable_gold")


def test_plain_numbers_text_and_options_are_read_without_a_parser() -> None:
    """The driver reads golds before a run; importing math-verify and SymPy would cost it a second."""
    code = (
        "import sys; from rewards.answers.golds import read_gold; [read_gold(gold) for gold in sys.argv[1:]]; print('sympy' in sys.modules)"
    )
    for golds, loaded in ((["42", "1,000", "3/4", "1.5 cm", "Paris", "A"], "False"), (["x+1"], "True")):
        done = subprocess.run([sys.executable, "-c", code, *golds], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == loaded
