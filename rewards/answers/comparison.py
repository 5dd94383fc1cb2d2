"""Comparison of an answer with a gold, by the gold's kind."""

from __future__ import annotations

from fractions import Fraction

from rewards.answers.expressions import Parsed, beyond_writing, equal_expressions, is_expression, value_of
from rewards.answers.golds import Reading
from rewards.answers.numbers import PlainNumber, close, equal_numbers
from rewards.answers.options import Option
from rewards.answers.spelling import folded
from rewards.answers.units import converted


def same(gold: Reading, answer: Reading) -> bool:
    """Tell whether two texts, each read as a whole, say the same.

    Numbers and expressions are compared by math-verify's rules, and units must agree or convert, if both have one. Lists are compared as sets.
    Of options the letters count, and their texts, if both have one. Text is compared whole.
    """
    if gold.option is not None:
        return same_option(gold.option, answer)
    if not gold.mathematical:
        return same_text(gold.text, answer.text)
    if gold.number is not None and answer.number is not None:
        return equal_numbers(gold.number, answer.number)
    if gold.elements and answer.elements:
        return _same_elements(gold.elements, answer.elements)
    if not answer.mathematical or not is_expression(answer.parsed):
        return False
    if gold.elements and answer.text.strip().startswith(("(", "[")):
        return False  # a point or an interval is no list
    return units_agree(gold, answer) and equal_values(gold, answer.parsed)


def equal_values(gold: Reading, parsed: Parsed) -> bool:
    """Compare a mathematical gold with an expression, also where math-verify rounds small numbers away."""
    if equal_expressions(gold.parsed, parsed):
        return True
    value = value_of(parsed) if gold.number is not None and not gold.number.exact and not beyond_writing(parsed[0]) else None
    return value is not None and gold.number is not None and close(gold.number.value, Fraction(value), exact=False) and value != 0


def same_text(gold: str, answer: str) -> bool:
    """Tell whether two texts are equal after `folded`. A text of nothing but punctuation equals none."""
    return bool(folded(gold)) and folded(gold) == folded(answer)


def same_option(gold: Option, answer: Reading) -> bool:
    """Tell whether the answer names the gold's letter, or says its text."""
    if answer.option is None:
        return bool(gold.label) and folded(answer.text) == gold.label
    texts_differ = gold.label and answer.option.label and gold.label != answer.option.label
    return gold.letters == answer.option.letters and not texts_differ


def units_agree(gold: Reading, answer: Reading) -> bool:
    """Tell whether two values with units are the same quantity; True if one of them has no unit, or both have the same."""
    golds, answers = _unit(gold), _unit(answer)
    if not golds or not answers or golds == answers or converted(1.0, answers, golds) == 1.0:
        return True
    theirs, value = value_of(answer.parsed), value_of(gold.parsed)
    if theirs is None or value is None:
        return False
    number = PlainNumber(Fraction(value), False, unit=golds)
    return equal_numbers(number, PlainNumber(Fraction(theirs), False, unit=answers))


def _unit(read: Reading) -> str:
    return read.number.unit if read.number is not None else read.unit


def _same_elements(gold: tuple[PlainNumber, ...], answer: tuple[PlainNumber, ...]) -> bool:
    """Compare as sets: order and repetitions do not count, as in math-verify."""
    return all(any(equal_numbers(a, b) for b in answer) for a in gold) and all(any(equal_numbers(a, b) for a in gold) for b in answer)
