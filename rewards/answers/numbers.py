"""Plain numbers, read as a whole: signs, thousands, exponents, fractions, percent, currencies, units, and bases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from rewards.answers.units import converted, currency, is_unit

_NUMBER = re.compile(
    r"""
    (?P<sign>[-+]?)\s*
    (?P<currency>US\$|[$€£¥₹₩₽฿]|(?:USD|EUR|GBP|CNY|RMB|JPY|INR)(?=[\s\d.]))?\s*
    (?P<inner_sign>-?)
    (?:
        (?:(?P<whole>\d+)\s+)?(?P<above>\d+)\s*/\s*(?P<below>\d+)(?!\s*mm\s*[Hh]g)
        |
        (?P<latex_whole>\d+)?\s*\\[dtc]?frac\s*\{\s*(?P<latex_above>-?\d+)\s*\}\s*\{\s*(?P<latex_below>\d+)\s*\}
        |
        (?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:\ \d{3})+(?!\d)|\d*)(?:\.(?P<decimals>\d+)|(?P<stop>\.))?
        (?:[eE](?P<exponent>[-+]?\d{1,3})|\s*(?:\\times|\\cdot|[x*×])\s*10\s*\^\s*\{?\s*(?P<power>[-+]?\d{1,3})\s*\}?)?
        (?:_\{?(?P<base>\d{1,2})\}?)?
    )
    (?P<space>\s*)(?P<rest>[^\s\d].*)?
    """,
    re.VERBOSE,
)
_SCALES = {
    "dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "百": 100, "千": 10**3, "万": 10**4, "百万": 10**6,
    "千万": 10**7, "亿": 10**8,
}  # fmt: skip
_SCALE = re.compile(r"(dozen|hundred|thousand|million|billion|trillion)(?![A-Za-z])|([百千]?万|[百千亿])", re.IGNORECASE)
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\(?:overline|bar)\s*\{(\d+)\}")
_EUROPEAN = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d+(?![\d.,])")
_PERCENT = re.compile(r"\\?%|percent(?:age)?(?: points?)?|pct|per cent", re.IGNORECASE)

MOST_CHARACTERS = 300
"""Longer texts are no number that anybody means: a model that repeats a digit writes thousands."""

ROUNDED_TO = 6
"""Decimals to which a decimal number is compared, as math-verify does: 0.333333 is 1/3."""
CLOSE = Fraction(1, 10**5)
"""Relative difference above which numbers that round to the same are still different: 1e-7 is not 2e-7. math-verify has no such bound."""


@dataclass(frozen=True, slots=True)
class PlainNumber:
    """A number as it was written."""

    value: Fraction
    """Without percent or unit."""
    exact: bool
    """False if it was written with decimals or an exponent, and may be rounded."""
    percent: bool = False
    unit: str = ""
    """The unit or currency as it was written; "" if there is none."""
    base: int = 10
    """The base written as an index: 2 of `1011_2`. The value is that of the same digits in base ten."""

    def __str__(self) -> str:
        value = str(self.value) if self.exact else decimal_of(self.value)
        return value + (f"_{self.base}" if self.base != 10 else "") + ("%" if self.percent else "") + (f" {self.unit}" if self.unit else "")


def decimal_of(value: Fraction) -> str:
    """Write a value with twelve digits; it may be larger than a float can be."""
    return f"{Decimal(value.numerator) / Decimal(value.denominator):.12g}"


def read_number(text: str) -> PlainNumber | None:
    """Read a text that is a number and nothing else; None for any other text.

    Args:
        text: without LaTeX's commands for text and space (`rewards.answers.spelling.plain`).

    Example: `read_number("$1,250.50") == PlainNumber(Fraction(2501, 2), exact=False, unit="$")`.
    """
    if len(text) > MOST_CHARACTERS:
        return None
    if repeating := _REPEATING.fullmatch(text):
        return _repeating(*repeating.groups())
    found = _NUMBER.fullmatch(_EUROPEAN.sub(lambda each: each[0].replace(".", "").replace(",", "."), text))
    if found is None:
        return None
    value = _value(found)
    rest = (found["rest"] or "").strip()
    if value is not None and (scale := _SCALE.match(rest)):
        value, rest = value * _SCALES[scale[0].lower()], rest[scale.end() :].strip()
    percent = _PERCENT.fullmatch(rest.rstrip(".")) is not None
    unit = found["currency"] or ""
    if rest and not percent:
        if (unit and (currency(rest) != currency(unit) or not rest[0].isalpha())) or not is_unit(rest, attached=not found["space"]):
            return None
        unit = unit or rest
    if value is None:
        return None
    negative = "-" in (found["sign"], found["inner_sign"])
    exact = not (found["decimals"] or found["exponent"] or found["power"])
    return PlainNumber(-value if negative else value, exact, percent, unit.strip(), int(found["base"] or 10))


def _repeating(sign: str, whole: str, before: str, period: str) -> PlainNumber:
    """Read a decimal that repeats: `0.1\\overline{6}` is 1/6."""
    nines = (10 ** len(period) - 1) * 10 ** len(before)
    value = Fraction(int(whole or 0)) + Fraction(int(before or 0), 10 ** len(before)) + Fraction(int(period), nines)
    return PlainNumber(-value if sign == "-" else value, exact=True)


def _value(found: re.Match[str]) -> Fraction | None:
    if found["above"]:
        below = int(found["below"])
        return Fraction(int(found["whole"] or 0)) + Fraction(int(found["above"]), below) if below else None
    if found["latex_above"]:
        below, whole, above = int(found["latex_below"]), int(found["latex_whole"] or 0), int(found["latex_above"])
        return Fraction(whole) + Fraction(above, below) if below and not (whole and above < 0) else None
    digits, decimals = re.sub("[, ]", "", found["digits"]), found["decimals"] or ""
    if not digits and not decimals:
        return None
    exponent = int(found["exponent"] or found["power"] or 0) - len(decimals)
    return Fraction(int(digits + decimals)) * Fraction(10) ** exponent


def equal_numbers(gold: PlainNumber, answer: PlainNumber) -> bool:
    """Tell whether two numbers are the same, by math-verify's rules, and more strictly where it is lax.

    Units must agree or convert, if both have one; of two that are written with a base, digits and base must agree. Percent: 50% is 0.5, and
    9% is also 9. A number with decimals equals what rounds to the same six decimals and differs by less than one in 100,000.
    """
    if gold.base != answer.base:
        return answer.base == 10 and gold.value == answer.value
    if gold.percent != answer.percent and close(gold.value, answer.value, gold.exact and answer.exact):
        return True
    theirs, exact = answer.value, gold.exact and answer.exact
    if answer.unit != gold.unit:
        converts = in_unit(answer, gold.unit)
        if converts is None:
            return False
        exact, theirs = exact and converts == theirs, converts
    return close(gold.value / (100 if gold.percent else 1), theirs / (100 if answer.percent else 1), exact)


def in_unit(number: PlainNumber, unit: str) -> Fraction | None:
    """Convert a number to another unit; None if it has one of another kind. Without a unit on one side it stays as it is."""
    same = converted(1.0, number.unit, unit)
    if same == 1.0:
        return number.value
    try:
        value = converted(float(number.value), number.unit, unit)
        return None if value is None else Fraction(round(value, 12))
    except (OverflowError, ValueError):
        return None


def close(a: Fraction, b: Fraction, exact: bool) -> bool:
    """Tell whether two values are equal; unless both are exact, after rounding."""
    if a == b:
        return True
    if exact:
        return False
    return round(a, ROUNDED_TO) == round(b, ROUNDED_TO) and abs(a - b) <= CLOSE * max(abs(a), abs(b))
