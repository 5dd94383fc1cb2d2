"""Demonstrations as the ranks read them, and as rows are packed. No torch: the driver makes tables too.

Dimensions: `_T` tokens of a sequence, `_N` predictions of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from configs.contracts.errors import DataError
from configs.contracts.records import DEMONSTRATION_SCHEMA
from learner.packing import MicroBatch, TrainedCompletion, TrainedGroup, pack


def demonstrations(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> pa.Table:
    """A table of (prompt token ids, completion token ids), of which the completions are imitated.

    Raises:
        DataError: one of them is empty.
    """
    if not all(len(prompt_ids) and len(completion_ids) for prompt_ids, completion_ids in rows):
        raise DataError("a demonstration has an empty prompt or completion; remove it")
    trained = [[False] * len(prompt_ids) + [True] * len(completion_ids) for prompt_ids, completion_ids in rows]
    return pa.table([[[*prompt_ids, *completion_ids] for prompt_ids, completion_ids in rows], trained], schema=DEMONSTRATION_SCHEMA)


def open_demonstrations(path: Path) -> pa.Table:
    """The table in a file, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


@dataclass(frozen=True, slots=True)
class PackedDemonstrations:
    """A micro-batch of whole sequences, and what of it is imitated."""

    packed: MicroBatch
    """It predicts every token behind a sequence's first imitated one, the turns of others included."""
    imitated: MicroBatch
    """The same rows with the predictions that the loss is over."""


def pack_demonstrations(table: pa.Table, rows: Sequence[int], *, token_budget: int, attention_width: float) -> list[PackedDemonstrations]:
    """Pack these rows of a table, none of which sees another, as `learner.packing.pack` does."""
    sequences = [_sequence(table, row, index) for index, row in enumerate(rows)]
    batches = pack([group for group, _ in sequences], token_budget=token_budget, attention_width=attention_width)
    masks = [trained_T for _, trained_T in sequences]
    return [PackedDemonstrations(batch, _only(batch, masks)) for batch in batches]


def lengths(table: pa.Table, rows: Sequence[int]) -> list[int]:
    """Tokens of each of these rows."""
    return [len(table.column("token_ids")[row]) for row in rows]


def num_trained(table: pa.Table, rows: Sequence[int]) -> int:
    """Tokens of these rows that are imitated."""
    return sum(int(_numpy(table.column("trained")[row]).sum()) for row in rows)


def _sequence(table: pa.Table, row: int, index: int) -> tuple[TrainedGroup, np.ndarray]:
    """A row as a prompt and one completion, from its first imitated token to its last; and which of the completion's tokens are imitated."""
    token_ids_T, trained_T = _numpy(table.column("token_ids")[row]), _numpy(table.column("trained")[row])
    places = np.flatnonzero(trained_T)
    first, end = int(places[0]), int(places[-1]) + 1
    completion = TrainedCompletion(token_ids_T[first:end], np.zeros(end - first, np.float32), 1.0, index)
    return TrainedGroup(token_ids_T[:first], (completion,)), trained_T[first:end]


def _only(batch: MicroBatch, masks: Sequence[np.ndarray]) -> MicroBatch:
    """The predictions of imitated tokens alone; the head is not computed for others."""
    if not len(batch.index_C):
        return batch
    trained_N = np.concatenate([masks[index] for index in batch.index_C])
    return replace(
        batch,
        source_N=batch.source_N[trained_N],
        target_ids_N=batch.target_ids_N[trained_N],
        completion_N=batch.completion_N[trained_N],
        behaviour_logprobs_N=batch.behaviour_logprobs_N[trained_N],
    )


def _numpy(value: Any) -> np.ndarray:
    return value.values.to_numpy(zero_copy_only=False)
