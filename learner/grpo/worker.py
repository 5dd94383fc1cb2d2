"""One rank of the learner that trains by GRPO. Heavy imports are inside functions, so that the driver can import the class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import ray

from configs.contracts.errors import LearnerError
from configs.contracts.metrics import Sum, merge, values
from configs.contracts.records import AdapterManifest, RolloutGroup
from configs.schema.learner import OptimizerSection
from configs.schema.run import RunConfig
from learner.engine.rank import Rank, RankReport
from learner.engine.throughput import FlopCount, packing_metrics, speed_metrics
from learner.packing import Denominators, MicroBatch, TrainedGroup, pack, trained_group

if TYPE_CHECKING:
    from learner.engine.zero2_engine import LearnerEngine
    from learner.grpo.micro_batch_loss import MicroBatchLoss
    from learner.model.policy import Policy
    from learner.sft.trainer import RowOrder, SupervisedTrainer


class LearnerWorker(Rank[RunConfig]):
    """One rank of GRPO. Every method but `export_adapter` is collective."""

    def __init__(self, config: RunConfig, rank: int, log_dir: Path) -> None:
        super().__init__(config, rank, log_dir)
        self._canary_token_ids: tuple[int, ...] = ()
        self._policy: Policy
        self._engine: LearnerEngine
        self._flops: FlopCount
        self._warm_start: SupervisedTrainer
        self._demonstrations: pa.Table
        self._warm_order: RowOrder

    def begin_warm_start(self, model_path: str, demonstrations: pa.Table) -> None:
        """Load the model for supervised training of all its weights."""
        from learner.engine.schedule import Schedule
        from learner.engine.zero2_engine import LearnerEngine
        from learner.sft.trainer import RowOrder, SupervisedTrainer

        settings = self._config.learner.warm_start
        if settings is None:
            raise LearnerError("learner.warm_start is not configured, but a warm start was asked for; set it")
        schedule = Schedule("linear", settings.learning_rate, warmup_steps=0, total_steps=settings.max_steps, min_rate=0.1)
        engine = LearnerEngine(self._load_policy(model_path, full=True), OptimizerSection(), schedule)
        self._warm_order = RowOrder(len(demonstrations), settings.train_batch_size, self._config.seed)
        self._demonstrations = demonstrations
        self._warm_start = SupervisedTrainer(engine, self._config.learner.token_budget)

    def warm_start_steps(self, first: int, last: int) -> list[float]:
        """Take steps `first` to `last` (exclusive). Returns this rank's parts of their losses."""
        steps = (self._warm_start.step(self._demonstrations, self._warm_order.of_step(index)) for index in range(first, last))
        return [values(step.metrics)["train/loss"] for step in steps]

    def end_warm_start(self, model_path: str, out_folder: Path) -> None:
        """Save the model and free it."""
        from learner.model.end_token import copy_tokenizer

        if self._rank == 0:
            self._warm_start.policy.save_model(out_folder)
            copy_tokenizer(model_path, out_folder, self._config.model.revision)
        self._warm_start.close()
        del self._warm_start, self._demonstrations

    def start(self, model_path: str, total_steps: int, resume_folder: Path | None, canary_token_ids: Sequence[int]) -> dict[str, int]:
        """Load base and adapter and make the engine, from a checkpoint if one is given. Returns the facts given to `save`, or none."""
        self._policy = self._load_policy(model_path, full=False)
        self._engine = self._make_engine(self._policy, total_steps)
        self._flops = FlopCount.of(self._policy)
        self._canary_token_ids = tuple(canary_token_ids)
        return {} if resume_folder is None else self._engine.load(resume_folder)

    def save_dequantised(self, folder: Path) -> None:
        """Write the base, as the ranks compute with it, for the engines to serve. Rank 0 writes."""
        from learner.model.end_token import copy_tokenizer
        from learner.model.quantised import save_dequantised

        if self._rank == 0:
            save_dequantised(self._policy.causal, folder)
            copy_tokenizer(self._policy.base_model, folder, self._config.model.revision)

    def step(
        self,
        bodies: Sequence[ray.ObjectRef[pa.Table]],
        advantages_PG: Sequence[Sequence[float | None]],
        denominators: Denominators,
        step: int,
    ) -> RankReport:
        """Take one step on this rank's groups, given by references of their bodies. See `GrpoLearner.step`.

        Args:
            advantages_PG: None where a completion need not be computed.
            denominators: counts of all ranks' groups.
        """
        batches = self._packed(trained_groups(bodies, advantages_PG))
        losses = self._losses(batches, denominators)
        began = time.monotonic()
        outcome = self._engine.step(losses, num_iterations=self._config.learner.num_iterations)
        seconds = time.monotonic() - began
        speed = speed_metrics(batches * outcome.updates, self._flops, seconds, self._config.learner.ranks, self._policy.device)
        self._count_nonfinite(outcome.applied, batches, step)
        metrics = merge(metrics for loss in losses for metrics in loss.metrics)
        # A Sum adds up the micro-batches of one update; over several updates it is averaged.
        metrics = {name: Sum(m.value / outcome.updates) if isinstance(m, Sum) else m for name, m in metrics.items()}
        metrics |= packing_metrics(batches) | speed
        return RankReport.of(self._engine.steps_done, outcome, metrics)

    def kl_sums(self, bodies: Sequence[ray.ObjectRef[pa.Table]], scored_PG: Sequence[Sequence[float | None]]) -> list[list[float]]:
        """Sum log pi - log pi_ref over each completion's tokens, for this rank's groups: [P][G], in nats.

        Both are computed without dropout; pi_ref is the model with its adapter switched off. The sum is 0 if `scored_PG` is None or the
        completion has no token.
        """
        from learner.grpo.importance import Completions

        temperature = self._config.actors.temperature
        sums = np.zeros(sum(map(len, scored_PG)))
        for batch in self._packed(trained_groups(bodies, scored_PG)):
            packed = self._policy.tensors(batch)
            difference_N = self._policy.evaluated_logprobs(packed, temperature) - self._policy.reference_logprobs(packed, temperature)
            completions = Completions(packed.completion_N, packed.lengths_C)
            sums[batch.index_C] = completions.sums(difference_N.double()).cpu().numpy()
        ends = np.cumsum([len(scored_G) for scored_G in scored_PG], dtype=np.int64)
        return [part.tolist() for part in np.split(sums, ends[:-1])] if len(ends) else []

    def export_adapter(self) -> tuple[AdapterManifest, np.ndarray]:
        """Export the present adapter. Called with two return values, so that the caller owns the buffer, which then outlives this process."""
        from learner.model.adapters import export_adapter

        adapter = export_adapter(self._policy, self._engine.steps_done, self._canary_token_ids)
        return adapter.manifest, adapter.buffer

    def save(self, folder: Path, facts: dict[str, int]) -> None:
        """Write the learner's state and `facts` under `folder`."""
        self._engine.save(folder, facts)

    def _losses(self, batches: Sequence[MicroBatch], denominators: Denominators) -> list[MicroBatchLoss]:
        from learner.grpo.micro_batch_loss import MicroBatchLoss

        learner, temperature = self._config.learner, self._config.actors.temperature
        return [
            MicroBatchLoss(self._policy, batch, learner, denominators, temperature=temperature, num_iterations=learner.num_iterations)
            for batch in batches
        ]

    def _packed(self, groups: Sequence[TrainedGroup]) -> list[MicroBatch]:
        return pack(groups, token_budget=self._config.learner.token_budget, attention_width=self._policy.attention_width)


def trained_groups(bodies: Sequence[ray.ObjectRef[pa.Table]], advantages_PG: Sequence[Sequence[float | None]]) -> list[TrainedGroup]:
    """Fetch the bodies and give each its advantages. Completions are numbered through all groups: 4 and 4 of them get 0-3 and 4-7."""
    starts = np.cumsum([0, *map(len, advantages_PG)])
    return [
        trained_group(RolloutGroup(table), advantages_G, first_index=int(start))
        for table, advantages_G, start in zip(ray.get(list(bodies)), advantages_PG, starts, strict=False)
    ]
