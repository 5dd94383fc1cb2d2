"""accuracy and reasoning_accuracy: compare the answer of a completion with the gold answer, by math-verify.

math-verify's own time limits are switched off. They use SIGALRM, which works on the main thread only, and not while C code runs. So grading
here may take for ever. The grader process has the deadline: rewards/grading/graders.py in a run, rewards/grading/direct.py outside.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol, TypeAlias, get_args

from configs.contracts.errors import ConfigError, RewardError
from rewards.functions.group_input import Columns
from rewards.functions.parameters import one_of
from rewards.functions.per_completion import Grade, TextReward

AnswerStyle = Literal["latex", "answer_tag", "auto"]
OnUnparsableAnswer = Literal["zero", "skip"]
Parsed: TypeAlias = tuple[object, ...]
"""Result of math-verify's parser: a SymPy expression and the string that it was read from; or the string only; or nothing."""

RIGHT, WRONG = Grade(1.0, "scored"), Grade(0.0, "scored")
UNPARSABLE_GOLD = Grade(None, "unparsable_gold")
NO_ANSWER = Grade(None, "unparsable_answer")

CACHED_CHARACTERS = 1024
"""Longer texts are not cached: they seldom repeat, and 16,384 of them would take too much memory."""

_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_INTEGER = re.compile(r"-?[1-9][0-9]{0,14}|0")
_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:[.,]\d+)?\s*(?:\\?%|percent)?")
_DELIMITED = re.compile(r"\$|\\boxed|\\fbox|\\\(|\\\[")
_COMMAND = re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^}]*\}|\\[a-zA-Z]+")
_TEXT_COMMAND = re.compile(r"\\(?:text|mbox)\s*\{([^}]*)\}")
_BOXED_INTEGER = re.compile(rf"\\boxed\{{({_INTEGER.pattern})\}}")
_WORD = re.compile(r"[^\W\d_]{2,}")


class Accuracy(TextReward):
    """1.0 if the answer equals the gold answer, else 0.0.

    Args:
        answer_style: where to look for the answer. `latex`: in LaTeX only, `\\boxed` first; malformed operators are not repaired
            (Open-R1). `answer_tag`: in the first `<answer>…</answer>`, or in the whole text if there is none; plain numbers and words
            count too (MedicalGPT, GSM8K). `auto`: as `latex`, and if no answer is found, as `answer_tag`.
        gold_column: column of the gold answer, or a name that leads into one: `reward_model.ground_truth`. Default: `solution`, or `answer` if
            there is no `solution`. If a gold contains `####`, only the text after the first one counts.
        on_unparsable_answer: value of a completion without an answer: `zero` gives 0.0, `skip` gives None.

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
    ) -> None:
        one_of(self.__name__, "answer_style", answer_style, get_args(AnswerStyle))
        one_of(self.__name__, "on_unparsable_answer", on_unparsable_answer, get_args(OnUnparsableAnswer))
        self._style = answer_style
        self._gold_column = gold_column
        self._no_answer = Grade(0.0 if on_unparsable_answer == "zero" else None, "unparsable_answer")

    def gold_column(self, columns: Collection[str]) -> str:
        """The one of these columns that holds the gold answer."""
        candidates = (self._gold_column,) if self._gold_column else ("solution", "answer")
        for name in candidates:
            if name in columns:
                return name
        raise RewardError(
            f"{self.__name__} needs the column {' or '.join(candidates)}, but the data has {', '.join(sorted(columns)) or 'no columns'}; "
            f"set gold_column in its params"
        )

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return (self.gold_column(columns),)

    def check_columns(self, columns: Collection[str]) -> None:
        self.gold_column(columns)

    def check_row(self, columns: Columns) -> None:
        self._gold_text(columns[self.gold_column(columns)])

    def grade_text(self, text: str, columns: Columns) -> Grade:
        gold = self._gold_text(columns[self.gold_column(columns)])
        grade = NO_ANSWER
        if self._style != "answer_tag":
            grade = _grade_latex(gold, text)
        if self._style == "answer_tag" or (self._style == "auto" and grade in (NO_ANSWER, UNPARSABLE_GOLD)):
            grade = _grade_tagged(gold, text)
        return self._no_answer if grade == NO_ANSWER else grade

    def preload(self) -> None:
        preload()

    def _gold_text(self, gold: object) -> str:
        """The gold answer as text. GSM8K's golds end in `#### 72`."""
        if gold is None:
            return ""
        if not isinstance(gold, (str, int, float)):
            raise RewardError(
                f"{self.__name__}: the gold answer {gold!r} is a {type(gold).__name__}, not text or a number; "
                f"set gold_column to another column"
            )
        before, mark, after = str(gold).partition("####")
        return (after if mark else before).strip()


class ReasoningAccuracy(Accuracy):
    """Accuracy of the text after the reasoning, that is, after the last occurrence of any delimiter (TRL).

    Without a delimiter the reasoning has not ended: the value is 0.0, whatever the gold and `on_unparsable_answer` are.

    Args:
        answer_style, gold_column, on_unparsable_answer: as in `accuracy`.
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
    ) -> None:
        super().__init__(answer_style, gold_column, on_unparsable_answer)
        listed = isinstance(reasoning_delimiters, (list, tuple)) and len(reasoning_delimiters) > 0
        if not listed or not all(isinstance(delimiter, str) and delimiter for delimiter in reasoning_delimiters):
            raise ConfigError(
                f"{self.__name__}: reasoning_delimiters {reasoning_delimiters!r} must be a list of texts; write it as [</think>]"
            )
        self._delimiters = tuple(reasoning_delimiters)
        self.gold_probe = self._delimiters[0]

    def grade_text(self, text: str, columns: Columns) -> Grade:
        ends = [text.rindex(delimiter) + len(delimiter) for delimiter in self._delimiters if delimiter in text]
        return super().grade_text(text[max(ends) :], columns) if ends else Grade(0.0, "unparsable_answer")


def _grade_latex(gold: str, text: str) -> Grade:
    return _call(_verify_latex, gold, _lone_box(text) or text)


def _grade_tagged(gold: str, text: str) -> Grade:
    body = _ANSWER_TAG.search(text)
    return _call(_verify_tagged, gold, body.group(1).strip() if body else text.strip())


class _Verifier(Protocol):
    """A comparison of gold and answer, wrapped by `lru_cache`."""

    @property
    def __wrapped__(self) -> Callable[[str, str], Grade]: ...
    def __call__(self, gold: str, answer: str, /) -> Grade: ...


def _call(verify: _Verifier, gold: str, answer: str) -> Grade:
    """Compare gold and answer. Short texts go through the cache: the completions of a group often have the same answer."""
    return verify(gold, answer) if len(gold) + len(answer) <= CACHED_CHARACTERS else verify.__wrapped__(gold, answer)


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


@lru_cache(maxsize=16_384)
def _verify_latex(gold: str, answer: str) -> Grade:
    boxed = _BOXED_INTEGER.fullmatch(answer)
    if boxed and _INTEGER.fullmatch(gold):
        return RIGHT if gold == boxed.group(1) else WRONG
    gold_parsed = _parse_gold(gold)
    if not gold_parsed:
        return UNPARSABLE_GOLD
    answer_parsed = _parse(answer, latex_only=True)
    return _verify(gold_parsed, answer_parsed) if answer_parsed else NO_ANSWER


@lru_cache(maxsize=16_384)
def _verify_tagged(gold: str, answer: str) -> Grade:
    if not gold:
        return UNPARSABLE_GOLD
    if not answer:
        return NO_ANSWER
    if _folded(gold) == _folded(answer):
        return RIGHT
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(answer):
        return WRONG
    gold_parsed, answer_parsed = _parse_tagged(gold), _parse_tagged(answer)
    if not _is_expression(gold_parsed):
        return WRONG
    return _verify(gold_parsed, answer_parsed) if _is_expression(answer_parsed) else NO_ANSWER


def _folded(text: str) -> str:
    """Normalise text for a comparison: drop `\\text{}`, apply Unicode NFKC, fold to lower case, and collapse white space."""
    return " ".join(unicodedata.normalize("NFKC", _TEXT_COMMAND.sub(r"\1", text)).lower().split())


def _is_expression(parsed: Parsed) -> bool:
    return bool(parsed) and not isinstance(parsed[0], str)


@lru_cache(maxsize=4096)
def _parse_gold(gold: str) -> Parsed:
    """Parse a gold. Bare LaTeX is put between dollars, without which math-verify reads `2\\sqrt{3}` as 2. Prose is first tried as it is."""
    if _DELIMITED.search(gold) or _NUMBER.fullmatch(gold):
        return _parse(gold)
    as_is, wrapped = (_parse(gold), lambda: _parse(f"${gold}$")) if _has_words(gold) else (_parse(f"${gold}$"), lambda: _parse(gold))
    return as_is if _is_expression(as_is) else wrapped() or as_is


@lru_cache(maxsize=4096)
def _parse_tagged(text: str) -> Parsed:
    """Parse like a gold, but never read words as products of letters."""
    return _parse(text) if _has_words(text) and not _DELIMITED.search(text) else _parse_gold(text)


def _has_words(text: str) -> bool:
    """Tell whether a text is prose: it has two letters in a row outside LaTeX commands."""
    return _WORD.search(_COMMAND.sub(" ", text)) is not None


def _parse(text: str, latex_only: bool = False) -> Parsed:
    library = _math_verify()
    extraction = {"extraction_config": library.latex_only} if latex_only else {}
    return tuple(library.parse(text, extraction_mode="first_match", parsing_timeout=None, **extraction))


def _verify(gold: Parsed, answer: Parsed) -> Grade:
    """Compare two parsed answers. The order matters: math-verify's comparison is not symmetric."""
    return RIGHT if _math_verify().verify(list(gold), list(answer), timeout_seconds=None) else WRONG


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
    _parse("\\boxed{1}", latex_only=True)
    _parse("1")
