"""GrpoLearner: the handle on all ranks of the learner that trains by GRPO.

start ─► step ─► step ─► ...          each call goes to every rank, and the first rank that fails ends the group (`learner.engine.ranks`)
           └► adapter (rank 0)
           └► save
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from configs.contracts.errors import LearnerError
from configs.contracts.metrics import Max, Mean, Metric, merge, values
from configs.contracts.records import AdapterRef, ScoredGroup, StepReport
from configs.schema.run import RunConfig
from learner.engine.rank import RankReport
from learner.engine.ranks import Ranks
from learner.grpo.advantage import step_advantages, without_masked, without_zeros
from learner.grpo.batch_metrics import batch_metrics
from learner.grpo.worker import LearnerWorker
from learner.packing import Denominators, balance
from learner.sft.demonstrations import demonstrations

PROGRESS_STEPS = 10
"""Warm-start steps between two calls of `on_progress`."""


@dataclass(frozen=True, slots=True)
class WarmStartProgress:
    """`loss` is the mean of the last steps, in nats per token."""

    step: int
    total_steps: int
    loss: float


class GrpoLearner:
    """All ranks of the learner. Make one with `create`, then `start` it. After a LearnerError it is dead: make another.

    Example: `group = GrpoLearner.create(config, ray_options={}, log_dir=run / "logs")`, `await group.start(path, 100)`,
    `report = await group.step(groups, step=0)`, `adapter_ref = await group.export_adapter()`, `await group.close()`.
    """

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        self._num_tokens = 0

    @classmethod
    def create(cls, config: RunConfig, *, ray_options: dict[str, Any], log_dir: Path) -> GrpoLearner:
        """Start one actor a rank; their imports begin at once. `ray_options` say where (labels, placement group)."""
        return cls(config, Ranks.create(LearnerWorker, config, ray_options=ray_options, log_dir=log_dir))

    async def warm_start(
        self,
        model_path: str,
        rows: Sequence[tuple[Sequence[int], Sequence[int]]],
        out_folder: Path,
        on_progress: Callable[[WarmStartProgress], None],
    ) -> None:
        """Train every weight of `model_path` on rows of (prompt ids, completion ids); save model and tokenizer in `out_folder`."""
        settings = self._config.learner.warm_start
        if settings is None:
            raise LearnerError("learner.warm_start is not configured, but a warm start was asked for; set it")
        await self._ranks.join()
        await self._ranks.everywhere("begin_warm_start", model_path, ray.put(demonstrations(rows)))
        for first in range(0, settings.max_steps, PROGRESS_STEPS):
            last = min(first + PROGRESS_STEPS, settings.max_steps)
            losses_RS = await self._ranks.everywhere("warm_start_steps", first, last)
            on_progress(WarmStartProgress(last, settings.max_steps, sum(map(sum, losses_RS)) / (last - first)))
        await self._ranks.everywhere("end_warm_start", model_path, out_folder)

    async def start(
        self, model_path: str, total_steps: int, resume_folder: Path | None = None, *, canary_token_ids: Sequence[int] = ()
    ) -> None:
        """Load the model with its adapter on every rank; go on from `resume_folder` (written by `save`) if given.

        Raises:
            CheckpointError: the folder cannot be read, or was written by another model.
            ConfigError: the model is not one that can be trained.
            LearnerError: a rank failed.
        """
        await self._ranks.join()
        facts = await self._ranks.everywhere("start", model_path, total_steps, resume_folder, tuple(canary_token_ids))
        self._num_tokens = facts[0].get("num_tokens", 0)

    async def save_dequantised(self, folder: Path) -> None:
        """Write the NF4 base of a started group as a model folder in `model.dtype`, tokenizer included: the weights it computes with."""
        await self._ranks.everywhere("save_dequantised", folder)

    async def step(self, groups: Sequence[ScoredGroup], step: int) -> StepReport:
        """One step on whole groups: `num_iterations` optimizer updates. The same groups in any order give the same step, bit for bit on the CPU.

        Args:
            groups: their bodies are pulled by the ranks, each its own.
            step: steps done so far, from which staleness is counted.

        Raises:
            NonFiniteError: too many steps in a row were not finite.
            LearnerError: a rank failed; the group is dead.
        """
        if not groups:
            raise LearnerError(f"step {step} was given no groups; a step trains on at least one")
        started = time.monotonic()
        groups = sorted(groups, key=lambda group: (group.summary.prompt_id, group.summary.attempt))
        penalties_PG, kl = await self._kl_penalties(groups) if self._config.learner.kl_in_reward else (None, {})
        estimated_PG = self._estimated(groups, penalties_PG)
        advantages_PG, denominators = self._advantages(groups, estimated_PG)
        parts = self._split(groups, advantages_PG)
        reports: list[RankReport] = await self._ranks.settle(
            [
                worker.step.remote([groups[i].body for i in part], [advantages_PG[i] for i in part], denominators, step)
                for worker, part in zip(self._ranks.workers, parts, strict=True)
            ]
        )
        tokens = sum(group.tokens for group in groups)
        self._num_tokens += tokens
        return StepReport(
            policy_version=reports[0].policy_version,
            skipped=not reports[0].applied,
            metrics=self._metrics(groups, reports, step, kl),
            train_s=time.monotonic() - started,
            tokens=tokens,
            advantages={
                (group.summary.prompt_id, group.summary.attempt): advantages_G
                for group, advantages_G in zip(groups, estimated_PG, strict=True)
            },
        )

    async def export_adapter(self) -> AdapterRef:
        """The adapter of the last step. The caller owns the buffer.

        Raises:
            AdapterError: it has values that are not finite.
        """
        manifest_ref, buffer_ref = self._ranks.workers[0].export_adapter.options(num_returns=2).remote()
        return AdapterRef((await self._ranks.settle([manifest_ref]))[0], buffer_ref)

    async def save(self, folder: Path) -> None:
        """Write everything that `start(resume_folder=folder)` needs: adapter (a PEFT folder), master weights, moments, random states."""
        await self._ranks.everywhere("save", folder, {"num_tokens": self._num_tokens})

    async def worker_pids(self) -> list[int]:
        """Process ids by rank."""
        return await self._ranks.pids()

    async def close(self) -> None:
        """End all ranks. Safe to call twice, and after an error."""
        await self._ranks.close()

    async def _kl_penalties(self, groups: Sequence[ScoredGroup]) -> tuple[list[list[float]], dict[str, Metric]]:
        """Compute the penalty that the divergence takes off each completion's reward, beta x sum_t (log pi_old - log pi_ref), and its mean over tokens.

        As in RLOO (arXiv:2402.14740) and TRL's RLOOTrainer; the reward is one number for the completion, so is the penalty.
        """
        scored_PG = [[None if reward is None else 0.0 for reward in group.scores.rewards_G] for group in groups]
        parts = self._split(groups, scored_PG)
        sums_RPG: list[list[list[float]]] = await self._ranks.settle(
            [
                worker.kl_sums.remote([groups[i].body for i in part], [scored_PG[i] for i in part])
                for worker, part in zip(self._ranks.workers, parts, strict=True)
            ]
        )
        sums_by_group = {i: sums_G for part, sums_PG in zip(parts, sums_RPG, strict=True) for i, sums_G in zip(part, sums_PG, strict=True)}
        sums_PG = [sums_by_group[i] for i in range(len(groups))]
        tokens = Denominators.of(
            [group.summary.completion_tokens_G for group in groups],
            scored_PG,
            _nothing_masked(groups),
            self._config.actors.max_completion_length,
        ).num_tokens
        beta = self._config.learner.beta
        return [[beta * value for value in sums_G] for sums_G in sums_PG], {"kl": Mean(sum(map(sum, sums_PG)), float(tokens))}

    def _estimated(
        self, groups: Sequence[ScoredGroup], penalties_PG: Sequence[Sequence[float]] | None = None
    ) -> list[tuple[float | None, ...]]:
        learner = self._config.learner
        return step_advantages(groups, learner.scale_rewards, estimator=learner.advantage_estimator, penalties_PG=penalties_PG)

    def _advantages(
        self, groups: Sequence[ScoredGroup], advantages_PG: Sequence[tuple[float | None, ...]]
    ) -> tuple[list[tuple[float | None, ...]], Denominators]:
        """Advantages, None where a completion need not be computed, and the counts that the loss is divided by."""
        learner = self._config.learner
        masked_PG = [group.summary.truncated_G for group in groups] if learner.mask_truncated_completions else _nothing_masked(groups)
        denominators = Denominators.of(
            [group.summary.completion_tokens_G for group in groups], advantages_PG, masked_PG, self._config.actors.max_completion_length
        )
        kept_PG = [without_masked(advantages_G, masked_G) for advantages_G, masked_G in zip(advantages_PG, masked_PG, strict=True)]
        if not learner.weighs_every_completion:
            kept_PG = [without_zeros(advantages_G) for advantages_G in kept_PG]
        return kept_PG, denominators

    def _split(self, groups: Sequence[ScoredGroup], advantages_PG: Sequence[Sequence[float | None]]) -> list[list[int]]:
        """Which groups each rank computes."""
        return balance(
            [_cost(group, advantages_G) for group, advantages_G in zip(groups, advantages_PG, strict=True)], len(self._ranks.workers)
        )

    def _metrics(self, groups: Sequence[ScoredGroup], reports: Sequence[RankReport], step: int, kl: dict[str, Metric]) -> dict[str, float]:
        merged = merge([*(report.metrics for report in reports), batch_metrics(groups, step), kl])
        merged["train/learning_rate"] = Mean(reports[0].learning_rate, 1.0)
        merged["train/grad_norm"] = Mean(reports[0].grad_norm, 1.0)
        merged["num_tokens"] = Max(self._num_tokens)
        return values(merged)


def _cost(group: ScoredGroup, advantages_G: Sequence[float | None]) -> int:
    """Tokens that a rank computes for this group: the prompt once, and the completions that have an advantage."""
    kept = (length for length, advantage in zip(group.summary.completion_tokens_G, advantages_G, strict=True) if advantage is not None)
    return group.summary.prompt_tokens + sum(kept)


def _nothing_masked(groups: Sequence[ScoredGroup]) -> list[tuple[bool, ...]]:
    return [(False,) * len(group.summary.completion_tokens_G) for group in groups]
