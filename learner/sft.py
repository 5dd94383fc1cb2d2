"""Supervised warm start: cross-entropy on completions, every weight trained, on the same engine and the same packing as GRPO."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from cluster.errors import DataError
from configs.schema import WarmStartSection
from learner.batch import MicroBatch, TrainedCompletion, TrainedGroup, balance, pack
from learner.engine import LearnerEngine, OptimizerSettings
from learner.loss import sft_loss
from learner.policy import Policy
from learner.schedule import Schedule

Row = tuple[Sequence[int], Sequence[int]]
"""(prompt token ids, completion token ids)."""

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "chat_template*", "*.model")


class WarmStart:
    """One rank's supervised run. Steps are deterministic: the same rows, seed and number of ranks give the same model."""

    def __init__(self, policy: Policy, rows: Sequence[Row], settings: WarmStartSection, *, seed: int, token_budget: int) -> None:
        if not rows:
            raise DataError("the warm start has no rows to imitate; give demonstrations or remove learner.warm_start")
        schedule = Schedule("linear", settings.learning_rate, warmup_steps=0, total_steps=settings.max_steps, min_rate=0.1)
        self._policy = policy
        self._engine = LearnerEngine(policy, OptimizerSettings(), schedule)
        self._groups = [_imitated(row) for row in rows]
        self._batch_size = settings.train_batch_size
        self._seed = seed
        self._token_budget = token_budget

    def step(self, index: int) -> float:
        """Optimizer step `index`, 0-based. Returns this rank's part of the loss: the sum over ranks is nats per token."""
        groups = [self._groups[row] for row in self._rows_of_step(index)]
        num_tokens = sum(len(group.completions[0].token_ids_T) for group in groups)
        mine = balance([group.tokens for group in groups], self._engine.world_size)[self._engine.rank]
        batches = pack([groups[i] for i in mine], token_budget=self._token_budget, attention_width=self._policy.attention_width)
        losses: list[float] = []
        self._engine.step([partial(self._loss, batch, num_tokens, losses) for batch in batches])
        return sum(losses)

    def save(self, folder: Path, model_path: str) -> None:
        """Write a model folder that vLLM can serve: weights, configuration, and the tokenizer files of `model_path`. Rank 0 writes."""
        if self._engine.rank == 0:
            self._policy.save_model(folder)
            copy_tokenizer(model_path, folder)

    def close(self) -> None:
        self._engine.close()

    def _loss(self, batch: MicroBatch, num_tokens: int, losses: list[float], model: Policy) -> Tensor:
        logprobs_N, _ = model(self._policy.tensors(batch))
        loss, _ = sft_loss(logprobs_N, num_tokens=num_tokens)
        losses.append(float(loss.detach()))
        return loss

    def _rows_of_step(self, index: int) -> list[int]:
        """The next `train_batch_size` rows of an endless stream that is shuffled anew every epoch."""
        positions = range(index * self._batch_size, (index + 1) * self._batch_size)
        orders = {
            epoch: np.random.default_rng((self._seed, epoch)).permutation(len(self._groups))
            for epoch in {p // len(self._groups) for p in positions}
        }
        return [int(orders[p // len(self._groups)][p % len(self._groups)]) for p in positions]


def _imitated(row: Row) -> TrainedGroup:
    prompt_ids, completion_ids = row
    if not len(prompt_ids) or not len(completion_ids):
        raise DataError("a warm-start row has an empty prompt or completion; remove it")
    completion = TrainedCompletion(np.asarray(completion_ids, np.int64), np.zeros(len(completion_ids), np.float32), 1.0)
    return TrainedGroup(np.asarray(prompt_ids, np.int64), (completion,))


def copy_tokenizer(model_path: str, folder: Path) -> None:
    """Copy what a tokenizer is loaded from, out of a model folder or a hub id."""
    source = Path(model_path)
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        source = Path(snapshot_download(model_path, allow_patterns=list(TOKENIZER_FILES)))
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
