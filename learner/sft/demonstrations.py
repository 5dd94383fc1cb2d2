"""Demonstrations: the table that ranks read, and its rows packed into micro-batches. No torch: the driver makes tables too.

Dimensions: `_T` tokens of a sequence, `_N` predictions of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from configs.contracts.errors import DataError
from configs.contracts.records import DEMONSTRATION_SCHEMA
from learner.packing import MicroBatch, TrainedCompletion, TrainedGroup, pack


def demonstrations(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> pa.Table:
    """Make a table of rows (prompt token ids, completion token ids) whose completions are imitated.

    Raises:
        DataError: a prompt or a completion is empty.
    """
    if not all(len(prompt_ids) and len(completion_ids) for prompt_ids, completion_ids in rows):
        raise DataError("a demonstration has an empty prompt or completion; remove it")
    trained = [[False] * len(prompt_ids) + [True] * len(completion_ids) for prompt_ids, completion_ids in rows]
    return pa.table([[[*prompt_ids, *completion_ids] for prompt_ids, completion_ids in rows], trained], schema=DEMONSTRATION_SCHEMA)


def open_demonstrations(path: Path) -> pa.Table:
    """Map the table of a file into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


@dataclass(frozen=True, slots=True)
class PackedDemonstrations:
    """A micro-batch of whole sequences, with all predictions and with those that count."""

    packed: MicroBatch
    """Predicts every token from a sequence's first imitated one to its last, including other speakers' turns between them."""
    imitated: MicroBatch
    """The same rows with only the predictions of imitated tokens, which the loss is computed from."""


def pack_demonstrations(table: pa.Table, rows: Sequence[int], *, token_budget: int, attention_width: float) -> list[PackedDemonstrations]:
    """Pack rows of a table as `learner.packing.pack` does. No row sees another."""
    sequences = [_sequence(table, row, index) for index, row in enumerate(rows)]
    batches = pack([group for group, _ in sequences], token_budget=token_budget, attention_width=attention_width)
    masks = [trained_T for _, trained_T in sequences]
    return [PackedDemonstrations(batch, _only(batch, masks)) for batch in batches]


def lengths(table: pa.Table, rows: Sequence[int]) -> list[int]:
    """Number of tokens of each of these rows."""
    return [len(table.column("token_ids")[row]) for row in rows]


def num_trained(table: pa.Table, rows: Sequence[int]) -> int:
    """Number of imitated tokens in these rows."""
    return sum(int(_numpy(table.column("trained")[row]).sum()) for row in rows)


def _sequence(table: pa.Table, row: int, index: int) -> tuple[TrainedGroup, np.ndarray]:
    """Split a row into a prompt and one completion, and return which tokens of the completion are imitated.

    tokens       u u A A u A A u       u: a user's, A: imitated
    prompt       u u
    completion       A A u A A         its mask: 1 1 0 1 1. The last u is dropped, as nothing after it is imitated.
    """
    token_ids_T, trained_T = _numpy(table.column("token_ids")[row]), _numpy(table.column("trained")[row])
    imitated = np.flatnonzero(trained_T)
    first, end = int(imitated[0]), int(imitated[-1]) + 1
    completion = TrainedCompletion(token_ids_T[first:end], np.zeros(end - first, np.float32), 1.0, index)
    return TrainedGroup(token_ids_T[:first], (completion,)), trained_T[first:end]


def _only(batch: MicroBatch, masks: Sequence[np.ndarray]) -> MicroBatch:
    """Keep only the predictions of imitated tokens, so that the head is not computed for others."""
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


def _numpy(value: pa.ListScalar) -> np.ndarray:
    return value.values.to_numpy(zero_copy_only=False)
