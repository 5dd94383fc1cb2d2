"""Data sets whose rows are all known -> a deterministic, resumable, validated stream of prompts.

    rows ── hold out, choose ── render by the chat template ── leave out what is too long ── shuffle anew every epoch ──► Prompt

Memory holds only the number and a digest of each row: a prompt is rendered again when it is drawn, so any prompt can be made
again from its id alone. The order depends on the seed, not on the platform. Larger data sets are streamed:
`actors.prompts.streamed`.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, cast

import numpy as np

from actors.prompts.decontamination import Contaminated
from actors.prompts.rendering import PromptMaker, template_warnings
from actors.prompts.selection import PromptCounts, columns_read, curriculum, select
from actors.rows.files import JsonValue, Row
from actors.rows.permutation import permutation
from actors.rows.sources import PartCount, notices, open_held_out_prompts, open_rows
from actors.rows.unused import first_values
from actors.rows.views import require_column
from configs.contracts.column_paths import value_at
from configs.contracts.errors import CheckpointError, DataError
from configs.contracts.records import Prompt, PromptId
from configs.schema.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

EVAL_EPOCH = -1
"""Epoch in the ids of held-out prompts, so that they never coincide with those of training."""


def render_demonstration(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, demonstration: str) -> tuple[list[int], list[int]]:
    """A supervised example: token ids of the prompt, and of the completion to imitate, which ends with the end token."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end token, so that a demonstration cannot end; set eos_token in its tokenizer_config.json")
    token_ids = tokenizer(demonstration, add_special_tokens=False, verbose=False)["input_ids"]
    return list(prompt.token_ids), [*token_ids, tokenizer.eos_token_id]  # type: ignore[list-item]


class IndexedCursor(TypedDict):
    """Position in the stream, as a checkpoint stores it."""

    drawn: int
    """Prompts drawn since the beginning, over all epochs."""
    data: str
    """The fingerprint of the prompts."""


class IndexedPrompts:
    """A `PromptSource` whose rows are all validated at the start, and whose epochs are each shuffled as a whole.

    Example: `source.next().id == PromptId(0, 4711)`; `restore(source.cursor())` on another source of the same data continues
    there; `source.prompt(PromptId(0, 4711))` makes that prompt again.

    Args:
        data: location of the rows, and how they are chosen and rendered.
        tokenizer: the trained model's, from `load_tokenizer`.
        seed: the run's seed.
        folder: for the rows of a `builtin:` data set.
        epochs: number of epochs, possibly fractional; None never ends.
        reward_names: the run's rewards, to warn if the chat template already writes a tag that they expect in the completion.

    Raises:
        DataError: the data are missing, empty or malformed, or no prompt is left to train on.
    """

    def __init__(
        self,
        data: DataSection,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        folder: Path,
        epochs: float | None = None,
        reward_names: Sequence[str] = (),
    ) -> None:
        self._data = data
        self._seed = seed % 2**64
        self._maker = PromptMaker.of(data, tokenizer)
        self._rows, parts = open_rows(data, folder, seed)
        require_column(self._rows, data.prompt_column, "data.prompt_column")
        apart = data.eval_samples and data.eval_path is not None
        self._eval_rows = open_held_out_prompts(data, data.prompt_column, folder, seed) if apart else self._rows
        chosen = select(data, self._rows, self._eval_rows, parts, self._maker, self._seed)
        self._train, self._eval = chosen.train, chosen.held_out
        self._curriculum = curriculum(data, self._rows, self._train, self._seed) if data.curriculum_column else None
        self.counts: PromptCounts = chosen.counts
        self.parts: tuple[PartCount, ...] = chosen.parts
        """The parts of a mixture."""
        self.contaminated: tuple[Contaminated, ...] = chosen.contaminated
        """The first rows that were left out because they share words with an evaluation set."""
        self.prompt_tokens: np.ndarray = chosen.tokens
        """int32 [prompts]: lengths of the training prompts in tokens."""
        order = b"" if self._curriculum is None else self._curriculum.astype("<i8").tobytes()
        facts = f"{self._seed}/{data.shuffle}".encode()
        self.fingerprint: str = hashlib.blake2b(b"".join(chosen.digests) + facts + order, digest_size=16).hexdigest()
        self._limit = None if epochs is None else math.ceil(epochs * len(self))
        self._drawn = 0
        self._order: tuple[int, np.ndarray] | None = None
        self.first_values: Mapping[str, JsonValue] = first_values(self._rows)
        self.columns_read: frozenset[str] = columns_read(data, self._maker)
        self.warnings: tuple[str, ...] = tuple(self._warnings(reward_names))
        """Warnings about the data, as they were logged."""
        for sentence in self.warnings:
            logger.warning("%s", sentence)

    def __len__(self) -> int:
        """Prompts in one epoch."""
        return len(self._train)

    def next(self) -> Prompt | None:
        """Draw the next prompt; None after the last epoch."""
        if self._limit is not None and self._drawn >= self._limit:
            return None
        epoch, position = divmod(self._drawn, len(self))
        self._drawn += 1
        return self.prompt(PromptId(epoch, int(self._epoch_order(epoch)[position])))

    def prompt(self, prompt_id: PromptId) -> Prompt:
        """Make the prompt with this id, the same each time. Does not move the stream."""
        rows = self._eval_rows if prompt_id.epoch == EVAL_EPOCH else self._rows
        if not 0 <= prompt_id.index < len(rows):
            raise DataError(f"prompt {prompt_id} is not in the data, which have {len(rows)} rows; resume with the data of the run")
        return self._maker.prompt(prompt_id, rows.row(prompt_id.index), rows.location(prompt_id.index))

    def row(self, index: int) -> Row:
        """All columns of a row, the prompt as the data set holds it."""
        return self._rows.row(index)

    def canary_prompt(self) -> Prompt:
        """A prompt of the training data, the same each time. Does not move the stream."""
        return self.prompt(PromptId(0, int(self._train[0])))

    def first_prompts(self, count: int) -> list[Prompt]:
        """Prompts in the order in which the first epoch draws them. Does not move the stream."""
        return [self.prompt(prompt_id) for prompt_id in self.first_ids(count)]

    def first_ids(self, count: int | None = None) -> list[PromptId]:
        """Ids in the order in which the first epoch draws them; all of them without a count."""
        return [PromptId(0, int(index)) for index in self._ordered(0)[:count]]

    def eval_prompts(self) -> list[Prompt]:
        """The held-out prompts, in the same order each time; their ids have the epoch `EVAL_EPOCH`."""
        return [self.prompt(PromptId(EVAL_EPOCH, index)) for index in self._eval]

    def demonstrations(self, column: str) -> list[tuple[list[int], list[int]]]:
        """Every training row as a supervised example: token ids of the prompt, and of the demonstration with its end token.

        Raises:
            DataError: there is no such column, or a row holds no text there.
        """
        require_column(self._rows, column, "learner.warm_start.demonstration_column")
        return [self._demonstration(int(index), column) for index in self._train]

    def cursor(self) -> IndexedCursor:
        """The position in the stream, as JSON."""
        return {"drawn": self._drawn, "data": self.fingerprint}

    def restore(self, cursor: Mapping[str, object]) -> None:
        """Continue at the position at which `cursor` was taken.

        Raises:
            CheckpointError: it was taken from other data, another order or another rendering.
        """
        if cursor["data"] != self.fingerprint:
            raise other_prompts(self._data.source)
        self._drawn = cast(IndexedCursor, cursor)["drawn"]

    def _demonstration(self, index: int, column: str) -> tuple[list[int], list[int]]:
        prompt = self.prompt(PromptId(0, index))
        demonstration = value_at(prompt.columns, column)
        if not isinstance(demonstration, str):
            raise DataError(f"{self._rows.location(index)}: column {column!r} holds {demonstration!r}; a demonstration is text")
        return render_demonstration(self._maker.renderer.tokenizer, prompt, demonstration)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._ordered(epoch))
        return self._order[1]

    def _ordered(self, epoch: int) -> np.ndarray:
        """Row numbers in the order of an epoch."""
        if self._curriculum is not None and (epoch == 0 or not self._data.shuffle):
            return self._train[self._curriculum]
        return self._train[permutation(len(self), self._seed, epoch)] if self._data.shuffle else self._train

    def _warnings(self, reward_names: Sequence[str]) -> list[str]:
        counts, found = self.counts, [*notices(self._data, self._rows), *(() if self._eval_rows is self._rows else self._eval_rows.notices)]
        if counts.too_long:
            found.append(
                f"{counts.too_long} prompts have more than data.max_prompt_length {self._data.max_prompt_length} tokens and are left out"
            )
        if counts.also_held_out:
            found.append(f"{counts.also_held_out} training prompts equal a held-out prompt and are left out")
        found += [f"{rows} training prompts share words with {name} and are left out" for name, rows in counts.contaminated.items() if rows]
        found += self._maker.notes.sentences()
        return [*found, *template_warnings(self._maker.renderer.tokenizer, self.canary_prompt(), reward_names)]


def other_prompts(source: str) -> CheckpointError:
    """The error for a cursor that does not belong to the prompts of `source`."""
    return CheckpointError(
        f"the checkpoint was made with other prompts than {source} gives now "
        "(data, seed, template or length limit changed); restore them, or start a new run in another out_dir"
    )
