"""The driver's handle on all ranks of the learner that trains by GRPO.

start ─► step ─► step ─► ...          each call goes to every rank; the first rank that fails ends all (`learner.engine.ranks`)
           └► export_adapter (rank 0)
           └► save
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray

from configs.contracts.errors import LearnerError
from configs.contracts.metrics import Max, Mean, Metric, merge, values
from configs.contracts.records import AdapterRef, ScoredGroup, StepReport
from configs.schema.run import RunConfig
from learner.engine.rank import RankReport
from learner.engine.ranks import Ranks
from learner.grpo.advantage import Advantages, computed_advantages, step_advantages
from learner.grpo.batch_metrics import batch_metrics
from learner.grpo.worker import LearnerWorker
from learner.packing import Denominators, balance
from learner.sft.demonstrations import demonstrations

PROGRESS_STEPS = 10
"""Warm-start steps between two calls of `on_progress`."""


@dataclass(frozen=True, slots=True)
class WarmStartProgress:
    """Progress of a warm start. `loss` is the mean over the steps since the last report, in nats per token."""

    step: int
    total_steps: int
    loss: float


class GrpoLearner:
    """All ranks of the learner. Make one with `create`, then `start` it. After a LearnerError it is dead: make another.

    Example: `learner = GrpoLearner.create(config, ray_options={}, log_dir=run / "logs")`, `await learner.start(path, 100)`,
    `report = await learner.step(groups, step=0)`, `adapter = await learner.export_adapter()`, `await learner.close()`.
    """

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        self._num_tokens = 0

    @classmethod
    def create(cls, config: RunConfig, *, ray_options: Mapping[str, object], log_dir: Path) -> GrpoLearner:
        """Start one actor per rank, placed by `ray_options` (labels, placement group). Their imports begin at once."""
        return cls(config, Ranks.create(LearnerWorker, config, ray_options=ray_options, log_dir=log_dir))

    async def warm_start(
        self,
        model_path: str,
        rows: Sequence[tuple[Sequence[int], Sequence[int]]],
        out_folder: Path,
        on_progress: Callable[[WarmStartProgress], None],
    ) -> None:
        """Train every weight of `model_path` on rows of (prompt ids, completion ids), and save model and tokenizer in `out_folder`."""
        settings = self._config.learner.warm_start
        if settings is None:
            raise LearnerError("learner.warm_start is not configured, but a warm start was asked for; set it")
        await self._ranks.join()
        table_ref = ray.put(demonstrations(rows))  # stored once, for all ranks
        await self._ranks.each(LearnerWorker.begin_warm_start, [(model_path, table_ref)] * len(self._ranks.workers))
        for first in range(0, settings.max_steps, PROGRESS_STEPS):
            last = min(first + PROGRESS_STEPS, settings.max_steps)
            losses_RS = await self._ranks.everywhere(LearnerWorker.warm_start_steps, first, last)
            on_progress(WarmStartProgress(last, settings.max_steps, sum(map(sum, losses_RS)) / (last - first)))
        await self._ranks.everywhere(LearnerWorker.end_warm_start, model_path, out_folder)

    async def start(
        self, model_path: str, total_steps: int, resume_folder: Path | None = None, *, canary_token_ids: Sequence[int] = ()
    ) -> None:
        """Load the model with its adapter on every rank; continue from `resume_folder` (written by `save`) if given.

        Raises:
            CheckpointError: the folder cannot be read, or was written by another model.
            ConfigError: the learner cannot train this model.
            LearnerError: a rank failed.
        """
        await self._ranks.join()
        facts = await self._ranks.everywhere(LearnerWorker.start, model_path, total_steps, resume_folder, tuple(canary_token_ids))
        self._num_tokens = facts[0].get("num_tokens", 0)

    async def save_dequantised(self, folder: Path) -> None:
        """Write the NF4 base, as the ranks compute with it, as a model folder in `model.dtype` with its tokenizer. Call `start` first."""
        await self._ranks.everywhere(LearnerWorker.save_dequantised, folder)

    async def step(self, groups: Sequence[ScoredGroup], step: int) -> StepReport:
        """Take one step on whole groups: `num_iterations` optimizer updates. The order of the groups changes nothing, bit for bit on the CPU.

        Args:
            groups: scored groups; each rank fetches the bodies of its own.
            step: steps done so far, from which staleness is counted.

        Raises:
            NonFiniteError: loss or gradient was not finite in too many steps in a row.
            LearnerError: a rank failed; this learner is dead.
        """
        if not groups:
            raise LearnerError(f"step {step} was given no groups, and a step trains on at least one")
        started = time.monotonic()
        groups = sorted(groups, key=lambda group: (group.summary.prompt_id, group.summary.attempt))
        penalties_PG, kl = await self._kl_penalties(groups) if self._config.learner.kl_in_reward else (None, {})
        advantages_PG = self._advantages(groups, penalties_PG)
        computed_advantages_PG, denominators = self._computed(groups, advantages_PG)
        parts = self._split(groups, computed_advantages_PG)
        reports = await self._ranks.each(
            LearnerWorker.step,
            [([groups[i].body for i in part], [computed_advantages_PG[i] for i in part], denominators, step) for part in parts],
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
                for group, advantages_G in zip(groups, advantages_PG, strict=True)
            },
        )

    async def export_adapter(self) -> AdapterRef:
        """Export the adapter as it is after the last step. Its buffer outlives the ranks.

        Raises:
            AdapterError: the adapter has values that are not finite.
        """
        # Two return values: Ray then makes the caller the owner of the buffer's reference.
        manifest_ref, buffer_ref = self._ranks.workers[0].export_adapter.options(num_returns=2).remote()
        return AdapterRef((await self._ranks.settle([manifest_ref], "export_adapter"))[0], buffer_ref)

    async def save(self, folder: Path) -> None:
        """Write everything that `start(resume_folder=folder)` needs: adapter (a PEFT folder), master weights, moments, random states."""
        await self._ranks.everywhere(LearnerWorker.save, folder, {"num_tokens": self._num_tokens})

    async def worker_pids(self) -> list[int]:
        """Process ids by rank."""
        return [each.pid for each in await self._ranks.processes()]

    async def close(self) -> None:
        """End all ranks. May be called twice, and after an error."""
        await self._ranks.close()

    async def _kl_penalties(self, groups: Sequence[ScoredGroup]) -> tuple[list[list[float]], dict[str, Metric]]:
        """Compute the penalty on each completion's reward, beta x sum_t (log pi_old - log pi_ref), and the divergence's mean over tokens.

        As in RLOO (arXiv:2402.14740) and TRL's RLOOTrainer: a completion has one reward, so it has one penalty.
        """
        # Advantages do not exist yet; a 0 marks the completions to compute.
        scored_PG = [[None if reward is None else 0.0 for reward in group.scores.rewards_G] for group in groups]
        parts = self._split(groups, scored_PG)
        sums_RPG = await self._ranks.each(
            LearnerWorker.kl_sums, [([groups[i].body for i in part], [scored_PG[i] for i in part]) for part in parts]
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

    def _advantages(self, groups: Sequence[ScoredGroup], penalties_PG: Sequence[Sequence[float]] | None = None) -> Advantages:
        learner = self._config.learner
        return step_advantages(groups, learner.scale_rewards, estimator=learner.advantage_estimator, penalties_PG=penalties_PG)

    def _computed(self, groups: Sequence[ScoredGroup], advantages_PG: Advantages) -> tuple[Advantages, Denominators]:
        """Advantages with None where a completion need not be computed, and the counts that the loss is divided by."""
        learner = self._config.learner
        masked_PG = [group.summary.truncated_G for group in groups] if learner.mask_truncated_completions else _nothing_masked(groups)
        denominators = Denominators.of(
            [group.summary.completion_tokens_G for group in groups], advantages_PG, masked_PG, self._config.actors.max_completion_length
        )
        return computed_advantages(advantages_PG, masked_PG, keep_zeros=learner.weighs_every_completion), denominators

    def _split(self, groups: Sequence[ScoredGroup], advantages_PG: Sequence[Sequence[float | None]]) -> list[list[int]]:
        """Indices of the groups that each rank computes."""
        costs = [_cost(group, advantages_G) for group, advantages_G in zip(groups, advantages_PG, strict=True)]
        return balance(costs, len(self._ranks.workers))

    def _metrics(self, groups: Sequence[ScoredGroup], reports: Sequence[RankReport], step: int, kl: dict[str, Metric]) -> dict[str, float]:
        merged = merge([*(report.metrics for report in reports), batch_metrics(groups, step), kl])
        merged["train/learning_rate"] = Mean(reports[0].learning_rate, 1.0)
        merged["train/grad_norm"] = Mean(reports[0].grad_norm, 1.0)
        merged["num_tokens"] = Max(self._num_tokens)
        return values(merged)


def _cost(group: ScoredGroup, advantages_G: Sequence[float | None]) -> int:
    """Tokens that a rank computes for this group: the prompt once, and the completions with an advantage."""
    kept = (length for length, advantage in zip(group.summary.completion_tokens_G, advantages_G, strict=True) if advantage is not None)
    return group.summary.prompt_tokens + sum(kept)


def _nothing_masked(groups: Sequence[ScoredGroup]) -> list[tuple[bool, ...]]:
    return [(False,) * len(group.summary.completion_tokens_G) for group in groups]
