"""Rewards for the shape of a completion: format, think_format, tag_count. Text in, no data column needed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from cluster.errors import ConfigError
from rewards.per_completion import Grade, TextReward

TAGS = ("<think>", "</think>", "<answer>", "</answer>")

LAYOUTS = {
    "block": re.compile(r"<think>\n.*\n</think>\n<answer>\n.*\n</answer>\n?", re.DOTALL),
    "inline": re.compile(r"<think>.*</think><answer>.*</answer>\n?", re.DOTALL),
}


class Format(TextReward):
    """1.0 where the whole text is a think block and an answer block, with exactly one of each tag; else 0.0.

    Args:
        layout: `block` has each tag on a line of its own (Open-R1); `inline` is `<think>…</think><answer>…</answer>` (MedicalGPT).
    """

    __name__ = "format"

    def __init__(self, layout: Literal["block", "inline"] = "block") -> None:
        if layout not in LAYOUTS:
            raise ConfigError(f"format: layout {layout!r} is unknown; use one of {', '.join(LAYOUTS)}")
        self._pattern = LAYOUTS[layout]

    def grade_text(self, text: str, columns: Mapping[str, Any]) -> Grade:
        one_of_each = all(text.count(tag) == 1 for tag in TAGS)
        return Grade(float(one_of_each and self._pattern.fullmatch(text) is not None), "scored")


class ThinkFormat(TextReward):
    """1.0 where the text starts with `<think>` and has one `</think>` later and no second `<think>`; else 0.0."""

    __name__ = "think_format"

    def grade_text(self, text: str, columns: Mapping[str, Any]) -> Grade:
        return Grade(float(text.startswith("<think>") and text.count("<think>") == text.count("</think>") == 1), "scored")


class TagCount(TextReward):
    """0.25 for each of the four tags, with the line feeds of the block layout around it, that occurs exactly once."""

    __name__ = "tag_count"

    MARKS = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>")

    def grade_text(self, text: str, columns: Mapping[str, Any]) -> Grade:
        return Grade(0.25 * sum(text.count(mark) == 1 for mark in self.MARKS), "scored")
