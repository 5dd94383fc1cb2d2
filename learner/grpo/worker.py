"""LearnerWorker: one rank of the learner in one Ray process, which trains by GRPO. Heavy imports are inside, so that the driver can import the class."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray

from configs.contracts.errors import LearnerError
from configs.contracts.metrics import Sum, merge
from configs.contracts.records import AdapterManifest, RolloutGroup
from configs.schema.run import RunConfig
from learner.engine.rank import Rank, RankReport
from learner.engine.throughput import FlopCount, packing_metrics, speed_metrics
from learner.packing import Denominators, MicroBatch, TrainedGroup, pack, trained_group

if TYPE_CHECKING:
    from learner.engine.zero2_engine import LearnerEngine
    from learner.model.policy import Policy
    from learner.sft.trainer import SupervisedTrainer


class LearnerWorker(Rank[RunConfig]):
    """One rank of GRPO. Every method but `export_adapter` is collective too."""

    def __init__(self, config: RunConfig, rank: int, log_dir: Path) -> None:
        super().__init__(config, rank, log_dir)
        self._canary_token_ids: tuple[int, ...] = ()
        self._policy: Policy
        self._engine: LearnerEngine
        self._flops: FlopCount
        self._warm_start: SupervisedTrainer

    def begin_warm_start(self, model_path: str, demonstrations: pa.Table) -> None:
        """Load the model for supervised training of all its weights."""
        from configs.schema.learner import OptimizerSection
        from learner.engine.schedule import Schedule
        from learner.engine.zero2_engine import LearnerEngine
        from learner.sft.trainer import RowOrder, SupervisedTrainer

        settings = self._config.learner.warm_start
        if settings is None:
            raise LearnerError("learner.warm_start is not configured, but a warm start was asked for; set it")
        schedule = Schedule("linear", settings.learning_rate, warmup_steps=0, total_steps=settings.max_steps, min_rate=0.1)
        engine = LearnerEngine(self._load_policy(model_path, full=True), OptimizerSection(), schedule)
        order = RowOrder(len(demonstrations), settings.train_batch_size, self._config.seed)
        self._warm_start = SupervisedTrainer(engine, demonstrations, order, self._config.learner.token_budget)

    def warm_start_steps(self, first: int, last: int) -> list[float]:
        """Steps `first` to `last` (exclusive); this rank's parts of their losses."""
        return [self._warm_start.step(index).metrics["train/loss"].value for index in range(first, last)]

    def end_warm_start(self, model_path: str, out_folder: Path) -> None:
        """Save the model and free it."""
        from learner.model.end_token import copy_tokenizer

        if self._rank == 0:
            self._warm_start.policy.save_model(out_folder)
            copy_tokenizer(model_path, out_folder)
        self._warm_start.close()
        del self._warm_start

    def start(self, model_path: str, total_steps: int, resume_folder: Path | None, canary_token_ids: Sequence[int]) -> dict[str, int]:
        """Load base and adapter and make the engine, from a checkpoint if one is given. Returns what `save` was told to remember."""

        self._policy = self._load_policy(model_path, full=False)
        self._engine = self._make_engine(self._policy, total_steps)
        self._flops = FlopCount.of(self._policy)
        self._canary_token_ids = tuple(canary_token_ids)
        return {} if resume_folder is None else self._engine.load(resume_folder)

    def save_dequantised(self, folder: Path) -> None:
        """Write the base as this rank computes with it, for the engines to serve. Rank 0 writes."""
        from learner.model.end_token import copy_tokenizer
        from learner.model.quantised import save_dequantised

        if self._rank == 0:
            save_dequantised(self._policy.causal, folder)
            copy_tokenizer(self._policy.base_model, folder)

    def step(
        self, bodies: Sequence[Any], advantages_PG: Sequence[Sequence[float | None]], denominators: Denominators, step: int
    ) -> RankReport:
        """One step; `bodies` are references to this rank's groups. See `GrpoLearner.step`."""
        from learner.grpo.batch_loss import BatchLoss

        num_iterations, temperature = self._config.learner.num_iterations, self._config.actors.temperature
        batches = self._packed(trained_groups(bodies, advantages_PG))
        losses = [
            BatchLoss(self._policy, batch, self._config.learner, denominators, temperature=temperature, num_iterations=num_iterations)
            for batch in batches
        ]
        began = time.monotonic()
        outcome = self._engine.step(losses, num_iterations=num_iterations)
        computed = batches * outcome.updates
        speed = speed_metrics(computed, self._flops, time.monotonic() - began, self._config.learner.ranks, self._policy.device)
        self._count_nonfinite(outcome.applied, batches, step)
        metrics = merge(metrics for loss in losses for metrics in loss.metrics)
        # Sums over the micro-batches of one update: of several updates they are averaged.
        metrics = {name: Sum(m.value / outcome.updates) if isinstance(m, Sum) else m for name, m in metrics.items()}
        metrics |= packing_metrics(batches) | speed
        return RankReport(self._engine.steps_done, outcome.applied, outcome.grad_norm, outcome.learning_rate, metrics)

    def kl_sums(self, bodies: Sequence[Any], scored_PG: Sequence[Sequence[float | None]]) -> list[list[float]]:
        """Sums over each completion's tokens of log pi - log pi_ref, in nats, for this rank's groups: [P][G].

        The policy as it stands, without dropout, against the adapter-off model; 0 where `scored_PG` is None, or there is no token.
        """
        from learner.grpo.importance import sum_by_completion

        temperature = self._config.actors.temperature
        sums = np.zeros(sum(map(len, scored_PG)))
        for batch in self._packed(trained_groups(bodies, scored_PG)):
            packed = self._policy.tensors(batch)
            difference_N = self._policy.evaluated_logprobs(packed, temperature) - self._policy.reference_logprobs(packed, temperature)
            sums[batch.index_C] = sum_by_completion(difference_N.double(), packed.completion_N, packed.lengths_C).cpu().numpy()
        ends = np.cumsum([len(scored_G) for scored_G in scored_PG], dtype=np.int64)
        return [part.tolist() for part in np.split(sums, ends[:-1])] if len(ends) else []

    def export_adapter(self) -> tuple[AdapterManifest, np.ndarray]:
        """The adapter as it stands: two return values, so that the caller owns the buffer and it outlives this process."""
        adapter = self._policy.export(self._engine.steps_done, self._canary_token_ids)
        return adapter.manifest, adapter.buffer

    def save(self, folder: Path, facts: dict[str, int]) -> None:
        """Write the learner's state under `folder`, and `facts` with it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(folder, facts)

    def _packed(self, groups: Sequence[TrainedGroup]) -> list[MicroBatch]:
        return pack(groups, token_budget=self._config.learner.token_budget, attention_width=self._policy.attention_width)


def trained_groups(bodies: Sequence[Any], advantages_PG: Sequence[Sequence[float | None]]) -> list[TrainedGroup]:
    """The bodies that are referred to, each with its advantages; completions are numbered on through all of them."""
    starts = np.cumsum([0, *map(len, advantages_PG)])
    return [
        trained_group(RolloutGroup(table), advantages_G, first_index=int(start))
        for table, advantages_G, start in zip(ray.get(list(bodies)), advantages_PG, starts, strict=False)
    ]
