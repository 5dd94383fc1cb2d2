"""The prompts of a run: the protocol that the indexed and the streamed prompts satisfy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from actors.prompts.decontamination import Contaminated
from actors.prompts.selection import PromptCounts
from actors.rows.files import JsonValue, Row
from actors.rows.sources import PartCount
from configs.contracts.records import Prompt, PromptId


class PromptSource(Protocol):
    """A deterministic, resumable stream of prompts: `IndexedPrompts`, or `StreamedPrompts` under `data.streaming`."""

    prompt_tokens: np.ndarray
    """int32 [prompts]: lengths in tokens of the training prompts; for a stream, of its first ones."""
    warnings: tuple[str, ...]
    """Warnings about the data, as they were logged."""
    first_values: Mapping[str, JsonValue]
    """Every column of the data with its first value."""
    columns_read: frozenset[str]
    """The columns that prompts, their filters and their order read."""

    @property
    def counts(self) -> PromptCounts:
        """Numbers of rows used, and left out by reason; for a stream, among the rows read so far."""
        ...

    @property
    def parts(self) -> tuple[PartCount, ...]:
        """The parts of a mixture; empty without one."""
        ...

    @property
    def contaminated(self) -> tuple[Contaminated, ...]:
        """The first rows that were left out because they share words with an evaluation set."""
        ...

    @property
    def fingerprint(self) -> str:
        """Digest of the data, their order and their rendering: prompts of the same fingerprint have the same ids."""
        ...

    def next(self) -> Prompt | None:
        """Draw the next prompt; None after the last epoch."""
        ...

    def prompt(self, prompt_id: PromptId) -> Prompt:
        """Make the prompt with this id, the same each time. Does not move the stream."""
        ...

    def row(self, index: int) -> Row:
        """All columns of a row, with the prompt as the data set holds it."""
        ...

    def canary_prompt(self) -> Prompt:
        """A prompt of the training data, the same each time. Does not move the stream."""
        ...

    def first_prompts(self, count: int) -> list[Prompt]:
        """Prompts in the order in which the first epoch draws them. Does not move the stream."""
        ...

    def first_ids(self, count: int | None = None) -> list[PromptId]:
        """Ids in the order in which the first epoch draws them; all of that epoch without a count. Does not move the stream."""
        ...

    def eval_prompts(self) -> list[Prompt]:
        """The held-out prompts, in the same order each time; their ids have the epoch `EVAL_EPOCH`."""
        ...

    def demonstrations(self, column: str) -> list[tuple[list[int], list[int]]]:
        """Every training row as a supervised example: token ids of the prompt, and of the demonstration with its end token.

        Raises:
            DataError: there is no such column, a row holds no text there, or the data are a stream.
        """
        ...

    def cursor(self) -> Mapping[str, object]:
        """The position in the stream, as JSON."""
        ...

    def restore(self, cursor: Mapping[str, object]) -> None:
        """Continue at the position at which `cursor` was taken.

        Raises:
            CheckpointError: it was taken from other data, another order or another rendering.
        """
        ...
