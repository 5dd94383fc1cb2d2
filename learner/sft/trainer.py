"""Supervised fine-tuning: cross-entropy of the imitated tokens, on the same engine and the same packing as GRPO.

The policy decides whether an adapter or every weight is trained. The warm start of a run and `rollcast sft` both train here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from configs.contracts.errors import DataError
from configs.contracts.metrics import Mean, Metric, Sum, merge
from learner.engine.throughput import FlopCount, packing_fill, speed_metrics
from learner.engine.zero2_engine import LearnerEngine, StepOutcome
from learner.model.policy import Policy
from learner.packing import MicroBatch, balance
from learner.sft.demonstrations import PackedDemonstrations, lengths, num_trained, pack_demonstrations

EVALUATED_AT_ONCE = 64
"""Demonstrations that a rank packs together when it measures the held-out loss: enough to fill rows well."""


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Rows of each step. Every epoch has every row once, in its own order.

    Raises:
        DataError: there are no rows.
    """

    rows: int
    batch_size: int
    seed: int
    limit: int | None = None
    """Total number of rows, so that the last step may have fewer; None repeats epochs for ever."""
    shuffle: bool = True

    def __post_init__(self) -> None:
        if not self.rows:
            raise DataError("there are no demonstrations to imitate; add some, or remove learner.warm_start")

    def of_step(self, index: int) -> list[int]:
        """The rows of step `index`, 0-based."""
        first, end = index * self.batch_size, (index + 1) * self.batch_size
        positions = range(first, end if self.limit is None else min(end, self.limit))
        orders = {epoch: self._epoch(epoch) for epoch in {position // self.rows for position in positions}}
        return [int(orders[position // self.rows][position % self.rows]) for position in positions]

    def _epoch(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed % 2**64, epoch)).permutation(self.rows) if self.shuffle else np.arange(self.rows)


@dataclass(frozen=True, slots=True)
class SupervisedStep:
    """One rank's part of a step. `train/loss`, summed over ranks, is in nats per imitated token."""

    outcome: StepOutcome
    batches: list[MicroBatch]
    metrics: dict[str, Metric]


class SupervisedTrainer:
    """One rank's supervised run. Steps are deterministic: the same rows, order and number of ranks give the same model."""

    def __init__(self, engine: LearnerEngine, token_budget: int) -> None:
        self.engine = engine
        self._token_budget = token_budget
        self._flops = FlopCount.of(self.policy)

    @property
    def policy(self) -> Policy:
        return self.engine.policy

    def step(self, table: pa.Table, rows: Sequence[int]) -> SupervisedStep:
        """Take an optimizer step on the mean over all imitated tokens of these rows, the same on every rank."""
        mine = balance(lengths(table, rows), self.engine.world_size)[self.engine.rank]
        batches = self._packed(table, [rows[i] for i in mine])
        num_tokens = num_trained(table, rows)
        found: list[dict[str, Metric]] = []
        began = time.monotonic()
        outcome = self.engine.step([partial(self._loss, batch.imitated, num_tokens, found) for batch in batches])
        seconds = time.monotonic() - began
        imitated = [batch.imitated for batch in batches]
        speed = speed_metrics(imitated, self._flops, seconds, self.engine.world_size, self.policy.device)
        metrics = merge(found) | packing_fill([batch.packed for batch in batches]) | speed
        metrics["tokens"] = Sum(sum(batch.packed.tokens for batch in batches))
        return SupervisedStep(outcome, imitated, metrics)

    def evaluate(self, table: pa.Table) -> dict[str, Metric]:
        """Measure this rank's part of the loss on held-out rows, without dropout, in nats per imitated token."""
        mine = balance(lengths(table, range(len(table))), self.engine.world_size)[self.engine.rank]
        found: list[dict[str, Metric]] = []
        for start in range(0, len(mine), EVALUATED_AT_ONCE):
            batches = self._packed(table, mine[start : start + EVALUATED_AT_ONCE])
            found += [self._evaluated(batch.imitated) for batch in batches]
        return merge(found)

    def close(self) -> None:
        """Free the engine, so that this process can make another."""
        self.engine.close()

    def _packed(self, table: pa.Table, rows: Sequence[int]) -> list[PackedDemonstrations]:
        return pack_demonstrations(table, rows, token_budget=self._token_budget, attention_width=self.policy.attention_width)

    def _loss(self, batch: MicroBatch, num_tokens: int, found: list[dict[str, Metric]], model: Policy) -> Tensor:
        predicted = model(self.policy.tensors(batch))
        loss, metrics = sft_loss(predicted.logprobs_N, num_tokens=num_tokens)
        found.append(metrics | {"train/mean_token_accuracy": _mean(predicted.is_likeliest_N), "entropy": _mean(predicted.entropies_N)})
        return loss

    def _evaluated(self, batch: MicroBatch) -> dict[str, Metric]:
        with torch.no_grad(), self.policy.evaluating():
            predicted = self.policy(self.policy.tensors(batch))
        return {"eval/loss": _mean(-predicted.logprobs_N), "eval/mean_token_accuracy": _mean(predicted.is_likeliest_N)}


def sft_loss(logprobs_N: Tensor, *, num_tokens: int) -> tuple[Tensor, dict[str, Metric]]:
    """Compute the cross-entropy of a micro-batch's imitated tokens, divided by all `num_tokens` of the step. Returns (scalar, metrics)."""
    loss = -logprobs_N.sum() / num_tokens
    return loss, {"train/loss": Sum(loss.item())}


def _mean(values_N: Tensor) -> Mean:
    return Mean(float(values_N.double().sum()), float(len(values_N)))
