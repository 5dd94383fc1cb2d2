"""Rewards for the format of a completion: format, think_format, tag_count, reasoning_steps, code_format. They need no data column."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from configs.contracts.errors import ConfigError, RewardError
from rewards.convention.group_input import Columns
from rewards.convention.parameters import one_of
from rewards.convention.per_completion import Grade, TextReward

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

LAYOUTS = {
    "block": re.compile(r"<think>\n.*\n</think>\n<answer>\n.*\n</answer>\n?", re.DOTALL),
    "inline": re.compile(r"<think>.*</think><answer>.*</answer>\n?", re.DOTALL),
}


class Format(TextReward):
    """1.0 if the whole text is a think block followed by an answer block, and each tag occurs once; else 0.0.

    Args:
        layout: `block`: each tag on a line of its own (Open-R1). `inline`: `<think>…</think><answer>…</answer>` (MedicalGPT).
    """

    __name__ = "format"

    def __init__(self, layout: Literal["block", "inline"] = "block") -> None:
        one_of(self.__name__, "layout", layout, tuple(LAYOUTS))
        self._pattern = LAYOUTS[layout]

    def grade_text(self, text: str, columns: Columns) -> Grade:
        one_of_each = all(text.count(tag) == 1 for tag in TAGS)
        return Grade(float(one_of_each and self._pattern.fullmatch(text) is not None), "scored")


class ThinkFormat(TextReward):
    """1.0 if the text starts with `<think>`, and has one `</think>` and no second `<think>`; else 0.0."""

    __name__ = "think_format"

    def grade_text(self, text: str, columns: Columns) -> Grade:
        return Grade(float(text.startswith("<think>") and text.count("<think>") == text.count("</think>") == 1), "scored")


class TagCount(TextReward):
    """0.25 for each of the four tags that occurs exactly once with the line feeds of the block layout around it."""

    __name__ = "tag_count"

    MARKS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")

    def grade_text(self, text: str, columns: Columns) -> Grade:
        return Grade(0.25 * sum(text.count(mark) == 1 for mark in self.MARKS), "scored")


class ReasoningSteps(TextReward):
    """min(1, n / 3), where n is the number of marks of a reasoning step (Open-R1).

    Marks are, anywhere: `Step 1:` with any number, `First,`, `Second,`, `Next,` and `Finally,`. At the start of a line: a number with a
    full stop. (Open-R1 counts it only at the start of the text.) After a line feed: `-` and `*`, so that `- a\\n- b\\n- c` has two of them.
    """

    __name__ = "reasoning_steps"

    MARK = re.compile(r"Step \d+:|^\d+\.|(?<=\n)[-*]|First,|Second,|Next,|Finally,", re.MULTILINE)

    def grade_text(self, text: str, columns: Columns) -> Grade:
        return Grade(min(1.0, len(self.MARK.findall(text)) / 3), "scored")


class CodeFormat(Format):
    """1.0 if `format` in its block layout is 1.0 and the answer block has a fenced block of the language; else 0.0.

    A fence opens with three backticks and exactly the language, alone on a line. It must be closed within the answer block.

    Args:
        language: the language, as it is written after the backticks. A value in a row's column `language` overrules it.

    Raises:
        ConfigError: `language` is not text.
        RewardError: when called, if a row's `language` is not text.
    """

    __name__ = "code_format"

    def __init__(self, language: str = "python") -> None:
        super().__init__()
        if not isinstance(language, str) or not language:
            raise ConfigError(
                f"{self.__name__}: language {language!r} is not the text after the backticks of a fence; use one such as python"
            )
        self._language = language

    def columns_read(self, columns: Columns) -> Collection[str]:
        return ("language",)

    def grade_text(self, text: str, columns: Columns) -> Grade:
        language = columns.get("language") or self._language
        if not isinstance(language, str):
            raise RewardError(f"{self.__name__}: the column language holds {language!r}, a {type(language).__name__}; make it text or null")
        answer = text.partition("<answer>")[2].partition("</answer>")[0]
        fence = re.search(rf"```{re.escape(language)}[ \t]*\n.*?```", answer, re.DOTALL)
        return super().grade_text(text, columns) if fence else Grade(0.0, "scored")
