"""Rewards for answers that are text, not mathematics: text_f1, rouge_l, contains_gold and choice."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Literal, get_args

from configs.contracts.errors import RewardError
from rewards.answers.golds import Kind, Reading
from rewards.answers.option_letters import LETTERS, read_option
from rewards.convention.group_input import Columns
from rewards.convention.parameters import one_of
from rewards.convention.per_completion import Grade, TextReward, choose_gold_column
from rewards.functions.overlap import Language, contains, folded, rouge_l, rouge_tokens, squad_tokens, token_f1
from rewards.functions.segmenter import require_jieba, segmenter

TextStyle = Literal["answer_tag", "text"]

UNREADABLE_GOLD = Grade(None, "unparsable_gold")
NO_ANSWER = Grade(0.0, "unparsable_answer")

_WRAPPED = re.compile(r"\\(?:boxed|fbox|text|textbf|mbox|mathrm)\s*\{([^{}]*)\}")
_TAGS = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.DOTALL)


def answers_of(text: str, style: TextStyle) -> list[str]:
    """The texts of a completion that are its answer: each `<answer>` block, or all that follows the reasoning; none within the reasoning.

    Reasoning ends with the last `</think>`. A text that opens `<think>` and never ends it has no answer. Of `\\boxed{}` the content is taken.
    """
    _, ended, after = text.rpartition("</think>")
    if not ended and "<think>" in text:
        return []
    found = [block.strip() for block in _TAGS.findall(after)] if style == "answer_tag" else []
    answers = [_unwrapped(answer).strip() for answer in found or [after]]
    return [answer for answer in answers if answer]


def _unwrapped(text: str) -> str:
    """Drop the LaTeX commands around text: `肺炎` of `\\boxed{\\text{肺炎}}`."""
    for _ in range(3):
        text = _WRAPPED.sub(r"\1", text)
    return text


class _GoldText(TextReward):
    """A reward with a gold that is text, or a list of texts."""

    _kind: Kind = "text"

    def __init__(self, answer_style: TextStyle, gold_column: str | None) -> None:
        one_of(self.__name__, "answer_style", answer_style, get_args(TextStyle))
        self._style: TextStyle = answer_style
        self._gold_column = gold_column

    def gold_column(self, columns: Collection[str]) -> str:
        """The one of these columns that holds the gold."""
        return choose_gold_column(self.__name__, self._gold_column, columns)

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return (self.gold_column(columns),)

    def gold_reading(self, columns: Columns) -> Reading | None:
        golds = self._golds(columns)
        return Reading(self._kind if golds else "unreadable", " | ".join(golds))

    def gold_as_answer(self, columns: Columns) -> str:
        """Write the gold, or the first of a list, as an answer."""
        gold = next(iter(self._golds(columns)), "")
        return f"<answer>{gold}</answer>" if gold and self._style == "answer_tag" else gold

    def check_columns(self, columns: Collection[str]) -> None:
        self.gold_column(columns)

    def check_row(self, columns: Columns) -> None:
        self._golds(columns)

    def _golds(self, columns: Columns) -> list[str]:
        """The golds of a row that say something: one text, or each of a list."""
        value = columns[self.gold_column(columns)]
        listed = value if isinstance(value, (list, tuple)) else [value]
        for gold in listed:
            if gold is not None and not isinstance(gold, (str, int, float)):
                raise RewardError(
                    f"{self.__name__}: the gold answer {value!r} is neither text nor a list of texts; set gold_column to another column"
                )
        return [text for gold in listed if gold is not None and self._says_something(text := _unwrapped(str(gold)))]

    def _says_something(self, gold: str) -> bool:
        """Tell whether a gold has anything to compare with."""
        return bool(folded(gold))


class _Compared(_GoldText):
    """A reward that compares the whole answer with each gold; the best counts."""

    def grade_text(self, text: str, columns: Columns) -> Grade:
        golds = self._golds(columns)
        if not golds:
            return UNREADABLE_GOLD
        answers = answers_of(text, self._style)
        return Grade(max(self._compare(answers[0], gold) for gold in golds), "scored") if answers else NO_ANSWER

    @abstractmethod
    def _compare(self, answer: str, gold: str) -> float:
        """The value of an answer under one gold."""


class _Overlap(_Compared):
    """A reward for the words that answer and gold have in common."""

    def __init__(self, language: Language, answer_style: TextStyle, gold_column: str | None) -> None:
        super().__init__(answer_style, gold_column)
        one_of(self.__name__, "language", language, get_args(Language))
        if language == "zh":
            require_jieba(self.__name__)
        self._language: Language = language

    def preload(self) -> None:
        if self._language == "zh":
            segmenter()
        self._compare("a b", "b c")


class TextF1(_Overlap):
    """2 P R / (P + R) of the tokens that answer and gold have in common, each as often as both have it: SQuAD's F1 (arXiv 1606.05250).

    P is the share of the answer's tokens, R that of the gold's. Before, texts are made lower case, and punctuation and the English articles
    are dropped, as SQuAD's script does; but the point and the sign of a number stay, so that 1.5 is not 15. Of several golds (a list in the
    column) the best counts. `rewards/functions/overlap.py` has the formulas.

    Args:
        language: what a token is. `auto`: a word between white space; a character of Chinese, Japanese or Korean. `en`: a word. `zh`: a word
            that jieba finds. `characters`: a character.
        answer_style: `answer_tag`: the answer is the first `<answer>` block after the reasoning, or all that follows the reasoning, if there
            is none. `text`: all that follows the reasoning. Reasoning ends with the last `</think>`.
        gold_column: column of the gold. Default: `solution`, or `answer` if there is no `solution`.

    Raises:
        ConfigError: a parameter has an unknown value, or jieba is not installed.
        RewardError: when called, a row lacks the gold column, or its gold is no text.
    """

    __name__ = "text_f1"

    def __init__(self, language: Language = "auto", answer_style: TextStyle = "answer_tag", gold_column: str | None = None) -> None:
        super().__init__(language, answer_style, gold_column)

    def _says_something(self, gold: str) -> bool:
        return bool(squad_tokens(gold, self._language))

    def _compare(self, answer: str, gold: str) -> float:
        return token_f1(squad_tokens(answer, self._language), squad_tokens(gold, self._language))


class RougeL(_Overlap):
    """2 P R / (P + R) of the longest common subsequence of the tokens: ROUGE-L (Lin 2004) as `rouge-score` computes it without stemming.

    Unlike `text_f1` it heeds the order of the words. A token is a run of letters and digits in lower case; punctuation is dropped.

    Args:
        language, answer_style, gold_column: as in `text_f1`.

    Raises:
        ConfigError, RewardError: as `text_f1`.
    """

    __name__ = "rouge_l"

    def __init__(self, language: Language = "auto", answer_style: TextStyle = "answer_tag", gold_column: str | None = None) -> None:
        super().__init__(language, answer_style, gold_column)

    def _says_something(self, gold: str) -> bool:
        return bool(rouge_tokens(gold, self._language))

    def _compare(self, answer: str, gold: str) -> float:
        return rouge_l(rouge_tokens(answer, self._language), rouge_tokens(gold, self._language))


class ContainsGold(_Compared):
    """1.0 if the gold occurs in the answer, else 0.0. Case, white space and the width of characters do not matter.

    Words and numbers count whole: the gold `5` is not in 15, 1.5 or -5, and `art` is not in `heart`. Chinese has no borders of words: 肺炎 is in
    支气管肺炎. It does not read what is said about the gold: "not pneumonia" contains `pneumonia`, and so does a list of all diseases. Of several
    golds (a list in the column) one is enough.

    Args:
        answer_style, gold_column: as in `text_f1`.

    Raises:
        ConfigError, RewardError: as `text_f1`.
    """

    __name__ = "contains_gold"

    def __init__(self, answer_style: TextStyle = "answer_tag", gold_column: str | None = None) -> None:
        super().__init__(answer_style, gold_column)

    def _compare(self, answer: str, gold: str) -> float:
        return float(contains(folded(answer), folded(gold)))


class Choice(_GoldText):
    """1.0 if the answer names the options of the gold and no others, else 0.0. `rewards/answers/option_letters.py` says how they are read.

    Read are `B`, `(b)`, `B. Pneumonia`, `\\boxed{B}`, "The answer is (B).", `答案：B`, `故选B`, and several as in `AC` or `A, C`. An answer that
    names two different options, or none, has the outcome `unparsable_answer` and 0.0. The gold is written in the same ways; or it is the text
    of an option, or its number, counted from 0, if the data have the options. Of a list of golds all must be named.

    Args:
        answer_style, gold_column: as in `text_f1`. If `<answer>` blocks name different options, nothing is read.
        options_column: column of the options: a list of their texts, or letter -> text. It is used if the data have it. Without it the options
            are A to J.

    Raises:
        ConfigError, RewardError: as `text_f1`.
    """

    __name__ = "choice"
    _kind = "option"

    def __init__(self, answer_style: TextStyle = "answer_tag", gold_column: str | None = None, options_column: str | None = None) -> None:
        super().__init__(answer_style, gold_column)
        self._options_column = options_column

    def gold_as_answer(self, columns: Columns) -> str:
        """Write all letters of the gold as an answer."""
        options = self._options(columns)
        letters = [_gold_letters(gold, options) for gold in self._golds(columns)]
        return "" if not letters or None in letters else f"<answer>{', '.join(sorted(set(''.join(filter(None, letters)))))}</answer>"

    def columns_read(self, columns: Columns) -> Collection[str]:
        return (*self.gold_columns(columns), self._options_column or "options")

    def check_columns(self, columns: Collection[str]) -> None:
        super().check_columns(columns)
        if self._options_column is not None and self._options_column not in columns:
            raise RewardError(
                f"{self.__name__} needs the column {self._options_column}, its options_column, but the data has "
                f"{', '.join(sorted(columns)) or 'no columns'}; correct options_column, or leave it out for the options A to J"
            )

    def grade_text(self, text: str, columns: Columns) -> Grade:
        options = self._options(columns)
        golds = [_gold_letters(gold, options) for gold in self._golds(columns)]
        if not golds or None in golds:
            return UNREADABLE_GOLD
        right = "".join(sorted(set("".join(filter(None, golds)))))
        named = {read_option(answer, options or LETTERS) for answer in answers_of(text, self._style)}
        letters = named.pop() if len(named) == 1 else None
        return NO_ANSWER if letters is None else Grade(float(letters == right), "scored")

    def _options(self, columns: Columns) -> Mapping[str, str]:
        """Letter -> text of the options of a row; empty if the data do not have them."""
        found = columns.get(self._options_column or "options")
        if isinstance(found, Mapping) and isinstance(found.get("label"), list) and isinstance(found.get("text"), list):  # as in ARC
            found = dict(zip(found["label"], found["text"], strict=False))
        if isinstance(found, Mapping):
            return {str(letter).upper(): str(of) for letter, of in found.items() if len(str(letter)) == 1 and of is not None}
        if isinstance(found, list) and 1 < len(found) <= 26:
            return {chr(ord("A") + number): _without_letter(str(of), number) for number, of in enumerate(found)}
        return {}


def _without_letter(option: str, number: int) -> str:
    """`Pneumonia` of the option `A. Pneumonia`, if it is the first."""
    return re.sub(rf"^\s*[(（]?{chr(ord('A') + number)}[)）.:：、．]\s*", "", option)


def _gold_letters(gold: str, options: Mapping[str, str]) -> str | None:
    """The letters of a gold: as an answer is read, or the letter of the option with this number."""
    letters = sorted(options)
    if gold.isascii() and gold.isdigit() and options and gold not in options.values():
        return letters[int(gold)] if int(gold) < len(letters) else None
    return read_option(gold, options or LETTERS)
