"""Expressions: parsed and compared by math-verify, with guards against what it takes for equal by mistake.

math-verify's own time limits are switched off. They use SIGALRM, which works on the main thread only, and not while C code runs. So parsing
and comparing may take for ever. The grader process has the deadline: rewards/grading/graders.py in a run, rewards/grading/direct.py outside.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from sympy import Basic, Number

Parsed: TypeAlias = tuple[object, ...]
"""Result of math-verify's parser: a SymPy expression and the string that it was read from; or the string only; or nothing."""

CLOSE = 1e-6
"""Relative difference above which two numbers are different, whatever math-verify says. It compares absolute differences: 1/2^99 with 1/2^98."""

MOST_DIGITS = 100_000
"""Digits of the largest number that is computed."""


def is_expression(parsed: Parsed) -> bool:
    return bool(parsed) and not isinstance(parsed[0], str)


def parse(text: str, latex_only: bool = False) -> Parsed:
    """Let math-verify find and parse the answer in a text.

    Args:
        latex_only: by Open-R1's rules: in LaTeX only, `\\boxed` first, malformed operators not repaired.
    """
    library = _math_verify()
    extraction = {"extraction_config": library.latex_only} if latex_only else {}
    return tuple(library.parse(text, extraction_mode="first_match", parsing_timeout=None, **extraction))


@lru_cache(maxsize=4096)
def parse_latex(latex: str) -> Parsed:
    """Parse LaTeX that stands for itself, without delimiters."""
    return parse(f"${latex}$")


def equal_expressions(gold: Parsed, answer: Parsed) -> bool:
    """Compare two parsed answers. The order matters: math-verify's comparison is not symmetric.

    Powers and factorials of more digits than can be written out are equal to themselves only: math-verify would begin to compute them.
    """
    if beyond_writing(gold[0]) or beyond_writing(answer[0]):
        return gold[0] == answer[0]
    return _math_verify().verify(list(gold), list(answer), timeout_seconds=None) and not _far_apart(gold[0], answer[0])


def beyond_writing(value: object) -> bool:
    """Tell whether an expression holds a power or factorial of more than `MOST_DIGITS` digits, before or after the point."""
    from sympy import Basic

    return isinstance(value, Basic) and _digits(value) > MOST_DIGITS


def _digits(value: Basic) -> float:
    """Estimate, from above, the decimal digits of the largest number in an expression, without computing it."""
    from sympy import Basic, Mul, Number, Pow, binomial, factorial

    if isinstance(value, Number):
        return _digits_of_number(value)
    of_args = [_digits(arg) for arg in value.args if isinstance(arg, Basic)]
    if isinstance(value, Pow) and len(value.exp.args) + value.exp.is_Number > 0:
        exponent = 10.0 ** min(of_args[1], 300.0)
        return max(of_args[0], 0.31) * exponent if value.base not in (0, 1, -1) else 1.0
    if isinstance(value, (factorial, binomial)):
        return 10.0 ** min(max(of_args), 300.0) * max(*of_args, 1.0)
    return sum(of_args) if isinstance(value, Mul) else max(of_args, default=0.0)


def _digits_of_number(number: Number) -> float:
    from sympy import Rational

    if isinstance(number, Rational):
        return 0.302 * (max(int(number.p).bit_length(), int(number.q).bit_length()) - 1)
    return abs(math.log10(abs(float(number)))) if number and number.is_finite else 0.0


def _far_apart(gold: object, answer: object) -> bool:
    """Tell whether two expressions without variables have values that differ by more than rounding."""
    if gold == answer or not _is_constant(gold) or not _is_constant(answer):
        return False
    try:
        a, b = complex(gold.evalf(15)), complex(answer.evalf(15))  # type: ignore[attr-defined]
    except (TypeError, ValueError, ArithmeticError):
        return False
    apart = abs(a - b) > CLOSE * max(abs(a), abs(b))
    return apart and not _percent_of_each_other(a, b)


def _percent_of_each_other(a: complex, b: complex) -> bool:
    """math-verify takes 9% for 9."""
    return abs(a - 100 * b) <= CLOSE * abs(a) or abs(b - 100 * a) <= CLOSE * abs(b)


def value_of(parsed: Parsed) -> float | None:
    """The value of a real expression without variables; None for anything else."""
    if not parsed or not _is_constant(parsed[0]):
        return None
    try:
        value = float(parsed[0].evalf(15))  # type: ignore[attr-defined]
    except (TypeError, ValueError, ArithmeticError):
        return None
    return value if math.isfinite(value) else None


def _is_constant(value: object) -> bool:
    from sympy import Expr

    return isinstance(value, Expr) and not value.free_symbols and bool(value.is_number)


class _MathVerify(NamedTuple):
    parse: Callable[..., list[object]]
    verify: Callable[..., bool]
    latex_only: list[object]


@lru_cache(maxsize=1)
def _math_verify() -> _MathVerify:
    """Import math-verify, and make Open-R1's extraction without the deprecated option `equations`, which would warn at every parse."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    for module in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(module).setLevel(logging.ERROR)  # they warn that the time limits are off
    normalization = NormalizationConfig(basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all")
    extraction = LatexExtractionConfig(normalization_config=normalization, boxed_match_priority=0, try_extract_without_anchor=False)
    return _MathVerify(parse, verify, [extraction])


def preload() -> None:
    """Import math-verify and compile its patterns, so that processes forked afterwards have them."""
    parse("\\boxed{1}", latex_only=True)
    parse("1")
