"""Whatever gold a generator makes is right against itself in every style that can hold it, and a changed one is wrong."""

from __future__ import annotations

from fractions import Fraction
from typing import get_args

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rewards.answers.golds import read_gold
from rewards.functions.math_answer import Accuracy, AnswerStyle

STYLES: tuple[AnswerStyle, ...] = get_args(AnswerStyle)
TAGGED: tuple[AnswerStyle, ...] = ("answer_tag", "auto")

wholes = st.integers(-99_999, 99_999)
decimals = st.decimals(-999, 999, places=2).map(str)
UNITS = ("cm", "kg", "km/h", "mL", "hours", "dollars", "apples", "毫克", "m^2")


@st.composite
def grouped(draw: st.DrawFn) -> str:
    return f"{draw(st.integers(1_000, 10**9)):,}"


@st.composite
def fractions(draw: st.DrawFn) -> str:
    above, below = draw(st.integers(-50, 50)), draw(st.integers(2, 50))
    return draw(st.sampled_from([f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}"]))


@st.composite
def quantities(draw: st.DrawFn) -> str:
    number = draw(st.integers(1, 999).map(str) | st.decimals(1, 99, places=1).map(str))
    return f"{number} {draw(st.sampled_from(UNITS))}"


@st.composite
def expressions(draw: st.DrawFn) -> str:
    a, b, x = draw(st.integers(2, 30)), draw(st.integers(1, 30)), draw(st.sampled_from("xynk"))
    return draw(
        st.sampled_from(
            [
                rf"{a}\sqrt{{{b}}}",
                rf"{a}{x}+{b}",
                rf"{x}^{{{a}}}-{b}",
                rf"\frac{{{a}\pi}}{{{b}}}",
                rf"\begin{{pmatrix}} {a} \\ {b} \end{{pmatrix}}",
                rf"{x} \le {a}",
                rf"$\frac{{{a}}}{{{x}}}$",
                rf"\log_{{{a}}} {b}",
            ]
        )
    )


@st.composite
def lists(draw: st.DrawFn) -> str:
    items = draw(st.lists(st.integers(-999, 999), min_size=2, max_size=5, unique=True))
    body = draw(st.sampled_from([", ", ",", " and "])).join(map(str, items))
    return draw(st.sampled_from([body, rf"\{{{', '.join(map(str, items))}\}}"]))


@st.composite
def intervals(draw: st.DrawFn) -> str:
    low = draw(st.integers(-99, 98))
    high = draw(st.integers(low + 1, 99))
    return f"{draw(st.sampled_from('(['))}{low}, {high}{draw(st.sampled_from(')]'))}"


mathematics = wholes.map(str) | decimals | grouped() | fractions() | quantities() | expressions() | lists() | intervals()

dates = st.dates().map(str) | st.dates().map(lambda day: f"{day.day}/{day.month}/{day.year}")
times = st.times().map(lambda time: f"{time:%H:%M}")
WORDS = ("fever", "acute", "Paris", "vitamin", "B12", "500", "mg", "twice", "daily", "H2O", "E. coli", "not", "the")
prose = st.lists(st.sampled_from(WORDS), min_size=2, max_size=6).map(" ".join)
chinese = st.text("高血压病孕期营养指导阴道炎症状治疗药物", min_size=2, max_size=12)
options = st.sampled_from(["A", "B", "(C)", "D.", "**E**", "A. Pneumonia", "(B) Paris", "AC", "B, D"])


def value(gold: str, answer: str, style: AnswerStyle) -> float | None:
    reward = Accuracy(style)
    return reward.grade_text(reward.gold_as_answer({"solution": answer}), {"solution": gold}).value


@settings(max_examples=300, deadline=None)
@given(mathematics, mathematics)
def test_mathematics(gold: str, other: str) -> None:
    """An expression that math-verify cannot tell from another is no generator's: they differ in value, in kind, or in what they are called."""
    for style in STYLES:
        assert read_gold(gold).mathematical, gold
        assert value(gold, gold, style) == 1.0, (gold, style)
        if certainly_different(gold, other):
            assert value(gold, other, style) == 0.0, (gold, other, style)


def certainly_different(gold: str, other: str) -> bool:
    """Two numbers of different value and kind; in doubt False."""
    a, b = read_gold(gold), read_gold(other)
    if a.number is None or b.number is None:
        return {a.kind, b.kind} in ({"number", "list"}, {"list", "latex"}) and "{" not in gold + other
    return abs(a.number.value - b.number.value) > Fraction(1, 1000) and not (a.number.unit and b.number.unit)


@settings(max_examples=200, deadline=None)
@given(quantities(), st.sampled_from([10, Fraction(1, 7), Fraction(101, 100)]))
def test_a_changed_quantity_is_another(gold: str, factor: Fraction) -> None:
    number, unit = gold.split(" ", 1)
    for style in STYLES:
        assert value(gold, f"{float(Fraction(number) * factor):.6f} {unit}", style) == 0.0


@settings(max_examples=100, deadline=None)
@given(lists(), st.integers(1_000, 9_999))
def test_a_list_with_one_more_is_another(gold: str, more: int) -> None:
    longer = (
        gold[:-2] + f", {more}" + gold[-2:] if gold.endswith("\\}") else f"{gold}{',' if ', ' not in gold and ',' in gold else ', '}{more}"
    )
    for style in STYLES:
        assert value(gold, longer, style) == 0.0, (gold, longer, style)


@settings(max_examples=300, deadline=None)
@given(dates | times, dates | times)
def test_dates_and_times(gold: str, other: str) -> None:
    assume(gold != other)
    for style in STYLES:
        assert value(gold, gold, style) == 1.0
        assert value(gold, other, style) == 0.0


@settings(max_examples=300, deadline=None)
@given(prose | chinese, prose | chinese)
def test_text(gold: str, other: str) -> None:
    assume(read_gold(gold).kind == read_gold(other).kind == "text" and gold.casefold() != other.casefold())
    for style in TAGGED:
        assert value(gold, gold, style) == 1.0
        assert value(gold, other, style) == 0.0
        assert value(gold, f"  {gold}。", style) == 1.0
    assert value(gold, gold, "latex") is None


@given(options, options)
def test_options(gold: str, other: str) -> None:
    letters = [set(read_gold(text).option.letters) for text in (gold, other)]  # type: ignore[union-attr]
    for style in TAGGED:
        assert value(gold, gold, style) == 1.0
        if letters[0] != letters[1]:
            assert value(gold, other, style) == 0.0
