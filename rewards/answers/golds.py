"""Gold answers: of which kind one is, decided once, from the whole of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from rewards.answers import expressions, places
from rewards.answers.expressions import Parsed, is_expression
from rewards.answers.numbers import PlainNumber, read_number
from rewards.answers.option_letters import read_option
from rewards.answers.options import Option, gold_option
from rewards.answers.spelling import braced, folded, latex_of, plain, typed, without_markdown

GoldKind = Literal["auto", "latex", "number", "list", "option", "text"]
"""The kinds that a gold can be told to be; `auto` decides by its text."""

Kind = Literal["latex", "number", "list", "option", "text", "unreadable"]

_COMMAND = re.compile(r"\\[a-zA-Z]+")
_NAMES_AN_OPTION = re.compile(r"答案|选|[Aa]nswer|^\W*[A-J]\s*\n")
_SAID_TO_BE = re.compile(r"\W*(?:the\s+)?(?:(?:final|correct)\s+)?answer\b|\W*(?:最终|正确)?答案", re.IGNORECASE)
_ALGEBRA = re.compile(r"[\dA-Za-z\s+\-*/^=<>().,|!\[\]{}_']+")
_LETTERS = re.compile(r"[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_CODE = re.compile(r"\d+(?:[-./:]\d+){2,}|\d{1,2}:\d{2}|\d+\s*[-~]\s*\d+(?:\s*-\s*\d+)*|(?:8\d|9\d|1\d\d|2\d\d)/(?:[4-9]\d|1[0-4]\d)")
"""Dates, versions, addresses, times, telephone numbers, ranges and blood pressures: digits that are no arithmetic."""
_ABOUT = re.compile(r"^(?:≈|≃|\\approx|\\simeq|\\sim)\s*")
_ORDINAL = re.compile(r"\d(?:st|nd|rd|th)\b")
_SEPARATOR = re.compile(r"\s*(?:,\s+and\s+|,\s+or\s+|\s+and\s+|\s+or\s+|\s*[和或及、;]\s*|,\s+)\s*")
_BRACKETED = re.compile(r"(\\?\{|\(|\[)(.*?)(\\?\}|\)|\])", re.DOTALL)
_SMALL_WORDS = frozenset("to of by in at on is or am pm no if as an be do go he it me my so up us we st nd rd th".split())  # noqa: SIM905
_UNIT_COMMAND = re.compile(r"\\(?:text|mathrm|mbox)\s*\{\s*([^{}]*?)\s*\}\s*(\^\s*\{?\s*\d\s*\}?)?\s*$")


@dataclass(frozen=True)
class Reading:
    """A text, read as a whole."""

    kind: Kind
    text: str
    """The text that was read, without delimiters."""
    number: PlainNumber | None = None
    """Of a number."""
    elements: tuple[PlainNumber, ...] = ()
    """Of a list of numbers without brackets, or in braces."""
    option: Option | None = None
    """Of an option."""
    expression: Parsed = ()
    """Of a list or an expression, as math-verify parsed it."""
    unit: str = ""
    """The unit behind an expression."""
    as_mathematics: bool = False
    """True if it was written in LaTeX, or consists of digits and signs only."""

    @property
    def parsed(self) -> Parsed:
        """The value for math-verify. That of a number is made when it is asked for: numbers are mostly compared without a parser."""
        return self.expression if self.number is None else expressions.parse_latex(_latex_of(self.number))

    @property
    def mathematical(self) -> bool:
        return self.kind in ("latex", "number", "list")

    def __str__(self) -> str:
        if self.number is not None:
            return str(self.number)
        if self.option is not None:
            return str(self.option)
        if self.elements:
            return ", ".join(map(str, self.elements))
        return " ".join(str(self.parsed[0]).split()) if self.mathematical else folded(self.text)


def read_gold(text: str, kind: GoldKind = "auto", prose_latex: bool = False) -> Reading:
    """Decide what a gold is.

    Of a gold with an `<answer>` tag only its content counts; of one with `####` what follows the first one (GSM8K); otherwise what boxes hold;
    otherwise what follows "the answer is", if that is no prose; otherwise all of it. A number is never picked out of other text.

    Args:
        kind: the kind that it is told to be. What cannot be read so is unreadable.
        prose_latex: prose with LaTeX in it, and without any of these marks, is what math-verify reads in it (Open-R1).
    """
    text = places.in_tag(text) or text
    before, mark, after = text.partition("####")
    text = without_markdown(typed(after if mark else before).strip()).strip()
    if kind != "auto":
        return _forced(_unboxed(text), kind)
    if held := places.boxes(text):
        return _read(", ".join(dict.fromkeys(held)), in_latex=True)
    if (content := places.whole_delimited(text)) is not None and read_number(plain(text)) is None:
        return _read(content, in_latex=True)
    read = _read(text)
    if read.mathematical or read.kind == "option":
        return read
    if (said := places.anchored(text)) is not None:
        answer = read_whole(said)
        if answer.mathematical or answer.kind == "option" or _SAID_TO_BE.match(text):
            return answer
    if (named := read_option(text)) is not None and _NAMES_AN_OPTION.search(text):
        return Reading("option", text, option=Option(named))
    if prose_latex and places.delimited(text) and is_expression(parsed := expressions.parse(text)):
        return Reading("latex", str(parsed[-1]), expression=parsed, as_mathematics=True)
    return read


def read_whole(text: str) -> Reading:
    """Read a text that stands for itself: an answer, or a gold without its marks."""
    text = without_markdown(text).strip().strip('"“”')
    content = places.whole_delimited(text)
    return _read(text) if content is None or read_number(plain(text)) is not None else _read(content, in_latex=True)


def _unboxed(text: str) -> str:
    held = places.boxes(text)
    return ", ".join(dict.fromkeys(held)) if held else places.whole_delimited(text) or text


def _read(text: str, in_latex: bool = False) -> Reading:
    text = text.strip()
    in_latex = in_latex or _COMMAND.search(text) is not None
    latex = latex_of(text) if in_latex else braced(latex_of(text))
    spelled = plain(latex)
    if not folded(text).strip("$"):
        return Reading("unreadable", text)
    if (number := _number(spelled)) is not None and not (is_code(spelled) and not in_latex):
        return _of_number(text, number)
    if (option := gold_option(plain(text), in_latex and without_text(text).strip() != "")) is not None:
        return Reading("option", text, option=option, as_mathematics=in_latex)
    if (listed := _list(text, latex)) is not None:
        return listed
    if in_latex and _unbalanced(text):
        return Reading("unreadable", text)
    if _is_algebra(latex, in_latex) and is_expression(parsed := expressions.parse_latex(latex)):
        return Reading("latex", text, expression=parsed, unit=unit_behind(latex), as_mathematics=True)
    return Reading("text", text, as_mathematics=in_latex or not any(letter.isalpha() for letter in text))


def _forced(text: str, kind: GoldKind) -> Reading:
    """Read a gold as the kind that it is told to be."""
    latex, read = latex_of(text), Reading("unreadable", text)
    if kind == "text" and folded(text):
        read = Reading("text", text)
    elif kind == "number" and (number := _number(plain(latex))) is not None:
        read = _of_number(text, number)
    elif kind == "list":
        read = _list(text, latex) or read
    elif kind == "option" and (option := gold_option(plain(text), in_latex=False, told=True)) is not None:
        read = Reading("option", text, option=option)
    elif kind == "latex" and text and is_expression(parsed := expressions.parse_latex(latex)):
        read = Reading("latex", text, expression=parsed, unit=unit_behind(latex))
    return replace(read, as_mathematics=True)


def _number(spelled: str) -> PlainNumber | None:
    return read_number(_ABOUT.sub("", spelled.rstrip(".,;")))


def _of_number(text: str, number: PlainNumber) -> Reading:
    return Reading("number", text, number=number, as_mathematics=True)


def _latex_of(number: PlainNumber) -> str:
    value = number.value
    if not number.exact:
        digits = f"{Decimal(value.numerator) / Decimal(value.denominator):f}"
        return _percented(digits.rstrip("0").rstrip(".") if "." in digits else digits, number)
    sign, above = ("-" if value < 0 else ""), abs(value.numerator)
    return _percented(f"{sign}{above}" if value.denominator == 1 else rf"{sign}\frac{{{above}}}{{{value.denominator}}}", number)


def _percented(digits: str, number: PlainNumber) -> str:
    return rf"{digits}\%" if number.percent else digits


def _list(text: str, latex: str) -> Reading | None:
    """Read numbers and intervals with commas between. A comma before a group of three digits is none of these, unless a space follows one."""
    bracketed = _BRACKETED.fullmatch(latex.strip())
    inner = bracketed[2] if bracketed else latex
    parts = [part for part in _split(plain(inner.strip().replace("\n", ", "))) if part]
    if len(parts) < 2:
        return None
    numbers = [read_number(part) for part in parts]
    if any(number is None and not _is_short_algebra(part) for part, number in zip(parts, numbers, strict=True)):
        return None
    opening, closing = (bracketed[1], bracketed[3]) if bracketed else ("", "")
    latex = ", ".join(part if number is None else _latex_of(number) for part, number in zip(parts, numbers, strict=True))
    parsed = expressions.parse_latex(f"{opening}{latex}{closing}")
    if not is_expression(parsed):
        return None
    plainly = [number for number in numbers if number is not None]
    elements = tuple(plainly) if opening in ("", "\\{", "{") and len(plainly) == len(parts) else ()
    return Reading("list", text, elements=elements, expression=parsed, as_mathematics=True)


def _split(text: str) -> list[str]:
    """Split a list. Where something else than a bare comma separates, commas belong to the elements."""
    if "(" in text or "[" in text:
        return []
    return _SEPARATOR.split(text) if _SEPARATOR.search(text) else text.split(",")


def _is_short_algebra(part: str) -> bool:
    return len(part) <= 40 and _is_algebra(part, in_latex="\\" in part)


def _is_algebra(latex: str, in_latex: bool) -> bool:
    """Tell whether a text can be mathematics as a whole, so that its letters are variables and not words.

    Args:
        in_latex: it was written in LaTeX. Otherwise words of three letters, letters before digits (H2O) and digits that are no arithmetic
            (dates, times) speak against it.
    """
    if in_latex:
        outside = _COMMAND.sub(" ", without_text(latex))
        if not outside.strip("{} ") and not without_text(latex).strip():
            return False
        return _WORD.search(outside) is None or any(sign in outside for sign in "=+*/^<>0123456789(")
    outside = _COMMAND.sub("1", latex)
    if is_code(latex) or _ORDINAL.search(latex) or not _ALGEBRA.fullmatch(outside):
        return False
    runs = [run for run in _LETTERS.findall(outside) if len(run) > 1]
    calculates = any(sign in outside for sign in "0123456789=^")
    if (
        any(len(run) > 2 or run.lower() in _SMALL_WORDS for run in runs)
        or (runs and not calculates)
        or re.search(r"[A-Za-z]\d|[A-Z]_\{?\d+\}?[A-Z]", outside)
    ):
        return False
    return calculates or len(outside.strip()) == 1 or any(sign in outside for sign in "+-*/<>=")


def without_text(text: str) -> str:
    """The LaTeX without what its commands for text hold."""
    return re.sub(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}", " ", text)


def unit_behind(text: str) -> str:
    """The unit in a command for text at the end of an expression: `cm^2` of `2\\pi \\text{ cm}^2`."""
    found = _UNIT_COMMAND.search(text)
    return f"{found[1]}{(found[2] or '').replace(' ', '')}" if found and found.start() > 0 else ""


def is_code(text: str) -> bool:
    """Tell whether a text is digits that are no arithmetic: a date, a time, a version, a telephone number, a range."""
    return _CODE.fullmatch(text.strip()) is not None


def _unbalanced(text: str) -> bool:
    depth = 0
    for found in re.finditer(r"\\?[{}]", text):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth < 0:
            return True
    return depth != 0
