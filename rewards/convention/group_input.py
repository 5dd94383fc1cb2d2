"""A group as rewards see it. It has plain values only, because it goes to a grader as JSON. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from configs.contracts.column_paths import RowColumns

Columns: TypeAlias = Mapping[str, object]
"""The row of a prompt in the data set, without the prompt: column -> JSON value. Those of a group are `RowColumns`: names may lead into a column."""


Completion: TypeAlias = str | Sequence[Mapping[str, str]]
"""A completion as rewards get it: text, or chat messages of which the last one is the assistant's."""


@dataclass(frozen=True, slots=True)
class GroupInput:
    """The completions of one prompt.

    Example: `GroupInput("2+2?", ["4", "5"], [[52], [53]], {"solution": "4"}, step=3)`.
    """

    prompt: object
    """Text, or the chat messages of a conversational prompt."""
    texts_G: list[str]
    token_ids_G: list[list[int]]
    """Empty if no reward of the run reads token ids."""
    columns: Columns
    step: int
    """Optimizer steps done."""

    def __post_init__(self) -> None:
        if isinstance(self.columns, dict):
            object.__setattr__(self, "columns", RowColumns(self.columns))

    @property
    def completions_G(self) -> list[Completion]:
        if isinstance(self.prompt, str):
            return list(self.texts_G)
        return [[{"role": "assistant", "content": text}] for text in self.texts_G]


def completion_text(completion: Completion) -> str:
    """The text of a completion: itself, or the content of its last chat message."""
    return completion if isinstance(completion, str) else completion[-1]["content"]
