"""accuracy and reasoning_accuracy: compare the answer of a completion with the gold answer.

    the gold's text ──► what kind it is                           rewards/answers/golds.py
    the completion  ──► the place where its answer stands         rewards/answers/places.py
                        do they say the same?                     rewards/answers/comparison.py

Grading may take for ever (rewards/answers/expressions.py). The grader process has the deadline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Literal, Protocol, get_args

from configs.contracts.errors import ConfigError, RewardError
from rewards.answers import expressions, places
from rewards.answers.comparison import equal_values, same, same_option, same_text, units_agree
from rewards.answers.expressions import equal_expressions, is_expression
from rewards.answers.golds import GoldKind, Reading, is_code, read_gold, read_whole, unit_behind
from rewards.answers.numbers import equal_numbers, read_number
from rewards.answers.options import said_option
from rewards.answers.quantities import states
from rewards.answers.spelling import latex_of, plain, spaced, typed, without_markdown
from rewards.convention.group_input import Columns
from rewards.convention.parameters import one_of
from rewards.convention.per_completion import Grade, TextReward, choose_gold_column

AnswerStyle = Literal["latex", "answer_tag", "auto"]
OnUnparsableAnswer = Literal["zero", "skip"]
RIGHT, WRONG = Grade(1.0, "scored"), Grade(0.0, "scored")
UNPARSABLE_GOLD = Grade(None, "unparsable_gold")
NO_ANSWER = Grade(None, "unparsable_answer")

CACHED_CHARACTERS = 1024
"""Longer texts are not cached: they seldom repeat, and 16,384 of them would take too much memory."""

_INTEGER = re.compile(r"-?[1-9][0-9]{0,14}|0")
_BOXED_INTEGER = re.compile(rf"\\boxed\{{({_INTEGER.pattern})\}}")

_MALFORMED = re.compile(r"\\(?:[dtc]?frac|sqrt)\s*[^{\[\s\\a-zA-Z]|\\[dtc]?frac\s*\{[^{}]*\}\s*[^{\s]")
"""LaTeX that TeX reads and Open-R1's rule does not: `\\frac12`, `\\sqrt2`."""

LONGEST_ALONE = 400
"""Longer texts are prose: they are not tried as an answer that stands alone."""


class Accuracy(TextReward):
    """1.0 if the answer equals the gold answer, else 0.0.

    Args:
        answer_style: where to look for the answer. `latex`: in LaTeX only, `\\boxed` first; malformed operators are not repaired, and a
            gold that is no mathematics gives None (Open-R1). `answer_tag`: in the first `<answer>…</answer>`, or in the whole text if
            there is none; there in a box, behind `####`, behind "the answer is", or alone (MedicalGPT, GSM8K). `auto`: a gold that is
            mathematics as `latex`, and if no answer is found, as `answer_tag`; another gold as `answer_tag`.
        gold_column: column of the gold answer, or a name that leads into one: `reward_model.ground_truth`. Default: `solution`, or `answer` if
            there is no `solution`. If a gold contains `####`, only the text after the first one counts.
        on_unparsable_answer: value of a completion without an answer: `zero` gives 0.0, `skip` gives None.
        gold_kind: how gold and answer are compared: as `latex`, `number`, `list`, `option` or `text`. `auto` decides for each gold, by the
            whole of it (rewards/answers/golds.py).

    Raises:
        ConfigError: a parameter has an unknown value.
        RewardError: when called, if a row lacks the gold column.
    """

    __name__ = "accuracy"
    can_hang = True

    def __init__(
        self,
        answer_style: AnswerStyle = "latex",
        gold_column: str | None = None,
        on_unparsable_answer: OnUnparsableAnswer = "zero",
        gold_kind: GoldKind = "auto",
    ) -> None:
        one_of(self.__name__, "answer_style", answer_style, get_args(AnswerStyle))
        one_of(self.__name__, "gold_kind", gold_kind, get_args(GoldKind))
        one_of(self.__name__, "on_unparsable_answer", on_unparsable_answer, get_args(OnUnparsableAnswer))
        self._style = answer_style
        self._gold_column = gold_column
        self._gold_kind: GoldKind = gold_kind
        self._no_answer = Grade(0.0 if on_unparsable_answer == "zero" else None, "unparsable_answer")

    def gold_column(self, columns: Collection[str]) -> str:
        """The one of these columns that holds the gold answer."""
        return choose_gold_column(self.__name__, self._gold_column, columns)

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return (self.gold_column(columns),)

    def check_columns(self, columns: Collection[str]) -> None:
        self.gold_column(columns)

    def check_row(self, columns: Columns) -> None:
        self._gold_text(columns[self.gold_column(columns)])

    def grade_text(self, text: str, columns: Columns) -> Grade:
        gold = self._gold_text(columns[self.gold_column(columns)])
        grade = NO_ANSWER
        if self._style == "latex" or (self._style == "auto" and self._reading(gold).mathematical):
            grade = _grade_latex(gold, self._gold_kind, text)
        malformed = grade == WRONG and _MALFORMED.search(text) is not None
        if self._style == "answer_tag" or (self._style == "auto" and (malformed or grade in (NO_ANSWER, UNPARSABLE_GOLD))):
            grade = _grade_tagged(gold, self._gold_kind, text)
        return self._no_answer if grade == NO_ANSWER else grade

    def gold_reading(self, columns: Columns) -> Reading | None:
        return self._reading(self._gold_or_nothing(columns))

    def gold_as_answer(self, columns: Columns) -> str:
        """Write the gold in a box or a tag, as `answer_style` has it."""
        reading = self._reading(self._gold_or_nothing(columns))
        if reading.kind == "unreadable":
            return ""
        return f"<answer>{reading.text}</answer>" if self._style == "answer_tag" else f"\\boxed{{{reading.text}}}"

    def _reading(self, gold: str) -> Reading:
        return read(gold, self._gold_kind, self._style == "latex")

    def _gold_or_nothing(self, columns: Columns) -> str:
        """The gold of a row; "" if it is of a type that no gold has, which `check_row` refuses."""
        gold = columns[self.gold_column(columns)]
        return str(gold).strip() if isinstance(gold, (str, int, float)) else ""

    def preload(self) -> None:
        preload()

    def _gold_text(self, gold: object) -> str:
        """The gold answer as text."""
        if gold is None:
            return ""
        if not isinstance(gold, (str, int, float)):
            raise RewardError(
                f"{self.__name__}: the gold answer {gold!r} is a {type(gold).__name__}, not text or a number; "
                f"set gold_column to another column"
            )
        return str(gold).strip()


class ReasoningAccuracy(Accuracy):
    """Accuracy of the text after the reasoning, that is, after the last occurrence of any delimiter (TRL).

    Without a delimiter the reasoning has not ended: the value is 0.0, whatever the gold and `on_unparsable_answer` are.

    Args:
        answer_style, gold_column, on_unparsable_answer, gold_kind: as in `accuracy`.
        reasoning_delimiters: texts that end the reasoning.

    Raises:
        ConfigError: a parameter has an unknown value, or there is no delimiter.
        RewardError: when called, if a row lacks the gold column.
    """

    __name__ = "reasoning_accuracy"

    def __init__(
        self,
        answer_style: AnswerStyle = "latex",
        gold_column: str | None = None,
        on_unparsable_answer: OnUnparsableAnswer = "zero",
        reasoning_delimiters: Sequence[str] = ("</think>",),
        gold_kind: GoldKind = "auto",
    ) -> None:
        super().__init__(answer_style, gold_column, on_unparsable_answer, gold_kind)
        listed = isinstance(reasoning_delimiters, (list, tuple)) and len(reasoning_delimiters) > 0
        if not listed or not all(isinstance(delimiter, str) and delimiter for delimiter in reasoning_delimiters):
            raise ConfigError(
                f"{self.__name__}: reasoning_delimiters {reasoning_delimiters!r} must be a list of texts; write it as [</think>]"
            )
        self._delimiters = tuple(reasoning_delimiters)
        self.gold_probe = self._delimiters[0]

    def gold_as_answer(self, columns: Columns) -> str:
        answer = super().gold_as_answer(columns)
        return f"{self._delimiters[0]}{answer}" if answer else ""

    def grade_text(self, text: str, columns: Columns) -> Grade:
        ends = [text.rindex(delimiter) + len(delimiter) for delimiter in self._delimiters if delimiter in text]
        return super().grade_text(text[max(ends) :], columns) if ends else Grade(0.0, "unparsable_answer")


def _grade_latex(gold: str, kind: GoldKind, text: str) -> Grade:
    return _call(_verify_latex, gold, kind, _lone_box(text) or text)


def _grade_tagged(gold: str, kind: GoldKind, text: str) -> Grade:
    body = places.in_tag(text)
    return _call(_verify_tagged, gold, kind, text.strip() if body is None else body)


class _Verifier(Protocol):
    """A comparison of gold and answer, wrapped by `lru_cache`."""

    @property
    def __wrapped__(self) -> Callable[[str, GoldKind, str], Grade]: ...
    def __call__(self, gold: str, kind: GoldKind, answer: str, /) -> Grade: ...


def _call(verify: _Verifier, gold: str, kind: GoldKind, answer: str) -> Grade:
    """Compare gold and answer. Short texts go through the cache: the completions of a group often have the same answer."""
    short = len(gold) + len(answer) <= CACHED_CHARACTERS
    return verify(gold, kind, answer) if short else verify.__wrapped__(gold, kind, answer)


def _lone_box(text: str) -> str | None:
    """The only box of `text`, if math-verify certainly reads nothing else of the text; otherwise None.

    math-verify prefers boxes, LaTeX between delimiters that contains a box, and "final answer is ... I hope". In a text without delimiters
    and this phrase only the box is left, and of a single balanced box math-verify reads only the content.
    """
    if "$" in text or "[" in text or "\\(" in text or "\\fbox" in text or "I hope" in text or text.count("\\boxed") != 1:
        return None
    start = text.index("\\boxed")
    if not text.startswith("{", start + 6):
        return None
    depth = 0
    for end in range(start + 6, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start : end + 1] if text[start + 7 : end].strip() else None
    return None


@lru_cache(maxsize=4096)
def read(gold: str, kind: GoldKind, prose_latex: bool) -> Reading:
    """Read a gold; the reading is cached, since all completions of a group need it."""
    return read_gold(gold, kind, prose_latex)


@lru_cache(maxsize=16_384)
def _verify_latex(gold: str, kind: GoldKind, answer: str) -> Grade:
    """Compare the gold with what LaTeX in the answer says, by Open-R1's rules. A gold that is no mathematics gives None."""
    boxed = _BOXED_INTEGER.fullmatch(answer)
    if boxed and kind == "auto" and _INTEGER.fullmatch(gold):
        return RIGHT if gold == boxed.group(1) else WRONG
    reading = read(gold, kind, True)
    if not (reading.mathematical or reading.as_mathematics) or reading.kind == "unreadable":
        return UNPARSABLE_GOLD
    answer = typed(answer)
    if reading.mathematical:
        return _verify_mathematics(reading, answer)
    place = places.in_latex(answer)
    if place is None or not expressions.parse(answer, latex_only=True):  # it stands in no box, nor behind "answer"
        return NO_ANSWER
    if same(reading, read_whole(place)):
        return RIGHT
    if kind != "auto" or not any(letter.isalpha() for letter in reading.text):
        return WRONG
    written = expressions.parse(f"${reading.text}$")
    return _graded(bool(written) and equal_expressions(written, expressions.parse(answer, latex_only=True)))


def _verify_mathematics(gold: Reading, answer: str) -> Grade:
    """Compare with what math-verify reads in LaTeX. Numbers and units are read in the place itself, of which it reads only a part.

    Of several pieces between dollars only math-verify knows which one it takes. A number that is alone in the only box needs no parser.
    """
    sure = len(places.boxes(answer)) > 0 or len(places.delimited(answer)) == 1
    place = places.in_latex(answer) if sure else None
    spelled = plain(latex_of(place)) if place is not None else ""
    number = read_number(spelled)
    if gold.number is not None and number is not None and answer.startswith("\\boxed{"):
        return _graded(equal_numbers(gold.number, number))
    readable = answer if answer.isascii() or not answer.startswith("\\boxed{") else latex_of(answer)
    parsed = expressions.parse(readable, latex_only=True)
    if not parsed:
        return NO_ANSWER
    if gold.number is not None and number is not None:
        return _graded(equal_numbers(gold.number, number))
    if gold.number is not None and is_code(spelled):
        return WRONG
    if place is not None and not units_agree(gold, Reading("latex", place, expression=parsed, unit=unit_behind(place))):
        return WRONG
    return _graded(equal_values(gold, parsed))


@lru_cache(maxsize=16_384)
def _verify_tagged(gold: str, kind: GoldKind, answer: str) -> Grade:
    """Compare the gold with the body of an answer tag, or with a whole text."""
    if not gold:
        return UNPARSABLE_GOLD
    if not answer:
        return NO_ANSWER
    if kind == "auto" and _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return RIGHT if gold == answer else WRONG
    reading = read(gold, kind, False)
    if reading.kind == "unreadable":
        return UNPARSABLE_GOLD
    answer = typed(answer)
    if reading.option is not None:
        return _verify_option(reading, answer)
    return _verify_said(reading, answer) if reading.mathematical else _verify_text(reading, answer)


def _verify_said(gold: Reading, answer: str) -> Grade:
    """Compare a mathematical gold with the first place of the answer that holds mathematics and nothing else, or with what math-verify finds."""
    for place in _places(answer):
        said = read_whole(place) if len(place) <= LONGEST_ALONE else None
        if said is not None and (said.mathematical or is_code(said.text)):
            return _graded(same(gold, said))
    parsed = expressions.parse(spaced(without_markdown(answer)))
    if not is_expression(parsed):
        return NO_ANSWER
    if places.denied(answer):
        return WRONG
    stated = states(answer, gold)
    return _graded(equal_values(gold, parsed) if stated is None else stated)


def _verify_option(gold: Reading, answer: str) -> Grade:
    assert gold.option is not None
    option = said_option(answer)
    if option is not None:
        return _graded(same_option(gold.option, Reading("option", answer, option=option)))
    said = any(same_text(gold.option.label, place) for place in _places(answer))
    return RIGHT if gold.option.label and said else NO_ANSWER


def _verify_text(gold: Reading, answer: str) -> Grade:
    """Compare whole with whole: the text itself, or what follows its reasoning, "the answer is" or `####`; of an answer with boxes, these alone."""
    if places.boxes(answer):
        return _graded(same_text(gold.text, places.in_latex(answer) or ""))
    wholes = (*_places(answer), places.after_reasoning(answer))
    return _graded(any(same_text(gold.text, whole) or same_text(gold.text, places.whole_delimited(whole) or "") for whole in wholes))


def _places(answer: str) -> list[str]:
    """Where an answer can stand in a text, the surest place first."""
    if places.boxes(answer):
        return [places.in_latex(answer) or ""]
    said = places.anchored(answer)
    return [*places.marked(answer), *([said] if said else []), answer]


def _graded(right: bool) -> Grade:
    return RIGHT if right else WRONG


def preload() -> None:
    expressions.preload()
