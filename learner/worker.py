"""LearnerWorker: one rank of the learner in one Ray process. Heavy imports are inside, so that the driver can import the class."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from cluster.errors import LearnerError, NonFiniteError
from cluster.logs import redirect_output
from cluster.metrics import Metric, Sum, merge
from cluster.records import AdapterManifest, RolloutGroup
from configs.schema import RunConfig
from learner.batch import Denominators, MicroBatch, TrainedGroup, pack, trained_group

if TYPE_CHECKING:
    from learner.engine import LearnerEngine
    from learner.loss import Objective
    from learner.policy import Policy
    from learner.sft import Row, WarmStart


@dataclass(frozen=True, slots=True)
class RankReport:
    """One rank's part of a step. Metrics are not divided yet; the rest is the same on every rank."""

    policy_version: int
    applied: bool
    grad_norm: float
    learning_rate: float
    metrics: dict[str, Metric]


class LearnerWorker:
    """One rank. Every method but `rendezvous`, `where` and `adapter` is collective: the group calls it on all ranks at once."""

    def __init__(self, config: RunConfig, rank: int, log_dir: Path) -> None:
        redirect_output(log_dir / f"learner-{rank}.log")
        self._config = config
        self._rank = rank
        self._log_dir = log_dir
        self._on_gpu = config.learner.gpus_per_rank > 0
        self._canary_token_ids: tuple[int, ...] = ()
        self._nonfinite_in_row = 0
        self._policy: Policy
        self._engine: LearnerEngine
        self._objective: Objective
        self._warm_start: WarmStart
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        _import_heavy(self._on_gpu, max(1, int(config.learner.cpus_per_rank)))

    def where(self) -> tuple[int, str]:
        """Process id, and address of the node."""
        return os.getpid(), ray.util.get_node_ip_address()

    def rendezvous(self) -> tuple[str, int]:
        """Address of this node, and a port that is free now, where the ranks can meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def join(self, address: str, port: int) -> None:
        """Become a rank of the process group."""
        from learner.engine import join_process_group

        join_process_group(
            rank=self._rank,
            world_size=self._config.learner.ranks,
            address=address,
            port=port,
            on_gpu=self._on_gpu,
            timeout_s=self._config.learner.process_group_timeout_s,
        )

    def begin_warm_start(self, model_path: str, rows: Sequence[Row]) -> None:
        """Load the model for supervised training of all its weights."""
        from learner.sft import WarmStart

        settings = self._config.learner.warm_start
        if settings is None:
            raise LearnerError("learner.warm_start is not configured, but a warm start was asked for; set it")
        policy = self._load_policy(model_path, full=True)
        self._warm_start = WarmStart(policy, rows, settings, seed=self._config.seed, token_budget=self._config.learner.token_budget)

    def warm_start_steps(self, first: int, last: int) -> list[float]:
        """Steps `first` to `last` (exclusive); this rank's parts of their losses."""
        return [self._warm_start.step(index) for index in range(first, last)]

    def end_warm_start(self, model_path: str, out_folder: Path) -> None:
        """Save the model and free it."""
        self._warm_start.save(out_folder, model_path)
        self._warm_start.close()
        del self._warm_start

    def start(self, model_path: str, total_steps: int, resume_folder: Path | None, canary_token_ids: Sequence[int]) -> dict[str, int]:
        """Load base and adapter and make the engine, from a checkpoint if one is given. Returns what `save` was told to remember."""
        from learner.engine import LearnerEngine, OptimizerSettings
        from learner.loss import Objective
        from learner.schedule import Schedule

        learner = self._config.learner
        self._policy = self._load_policy(model_path, full=False)
        settings = OptimizerSettings(**{field.name: getattr(learner, field.name) for field in fields(OptimizerSettings)})
        self._objective = Objective(**{field.name: getattr(learner, field.name) for field in fields(Objective)})
        self._engine = LearnerEngine(self._policy, settings, Schedule.of(learner, total_steps))
        self._canary_token_ids = tuple(canary_token_ids)
        return {} if resume_folder is None else self._engine.load(resume_folder)

    def save_dequantised(self, folder: Path) -> None:
        """Write the base as this rank computes with it, for the engines to serve. Rank 0 writes."""
        from learner.quantised import save_dequantised
        from learner.sft import copy_tokenizer

        if self._rank == 0:
            save_dequantised(self._policy.causal, folder)
            copy_tokenizer(self._policy.base_model, folder)

    def step(
        self, bodies: Sequence[Any], advantages_PG: Sequence[Sequence[float | None]], denominators: Denominators, step: int
    ) -> RankReport:
        """One step; `bodies` are references to this rank's groups. See `LearnerGroup.step`."""
        from learner.batch_loss import BatchLoss

        num_iterations, temperature = self._config.learner.num_iterations, self._config.actors.temperature
        batches = self._packed(trained_groups(bodies, advantages_PG))
        losses = [
            BatchLoss(self._policy, batch, self._objective, denominators, temperature=temperature, num_iterations=num_iterations)
            for batch in batches
        ]
        outcome = self._engine.step(losses, num_iterations=num_iterations)
        self._count_nonfinite(outcome.applied, batches, step)
        metrics = merge(metrics for loss in losses for metrics in loss.metrics)
        # Sums over the micro-batches of one update: of several updates they are averaged.
        metrics = {name: Sum(m.value / outcome.updates) if isinstance(m, Sum) else m for name, m in metrics.items()}
        return RankReport(self._engine.steps_done, outcome.applied, outcome.grad_norm, outcome.learning_rate, metrics)

    def kl_sums(self, bodies: Sequence[Any], scored_PG: Sequence[Sequence[float | None]]) -> list[list[float]]:
        """Sums over each completion's tokens of log pi - log pi_ref, in nats, for this rank's groups: [P][G].

        The policy as it stands, without dropout, against the adapter-off model; 0 where `scored_PG` is None, or there is no token.
        """
        from learner.importance import sum_by_completion

        temperature = self._config.actors.temperature
        sums = np.zeros(sum(map(len, scored_PG)))
        for batch in self._packed(trained_groups(bodies, scored_PG)):
            packed = self._policy.tensors(batch)
            difference_N = self._policy.evaluated_logprobs(packed, temperature) - self._policy.reference_logprobs(packed, temperature)
            sums[batch.index_C] = sum_by_completion(difference_N.double(), packed.completion_N, packed.lengths_C).cpu().numpy()
        ends = np.cumsum([len(scored_G) for scored_G in scored_PG], dtype=np.int64)
        return [part.tolist() for part in np.split(sums, ends[:-1])] if len(ends) else []

    def adapter(self) -> tuple[AdapterManifest, np.ndarray]:
        """The adapter as it stands: two return values, so that the caller owns the buffer and it outlives this process."""
        adapter = self._policy.export(self._engine.steps_done, self._canary_token_ids)
        return adapter.manifest, adapter.buffer

    def save(self, folder: Path, facts: dict[str, int]) -> None:
        """Write the learner's state under `folder`, and `facts` with it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(folder, facts)

    def _load_policy(self, model_path: str, *, full: bool) -> Policy:
        from learner.policy import Policy

        return Policy.load(
            self._config.model,
            model_path,
            full=full,
            device="cuda" if self._on_gpu else "cpu",
            seed=self._config.seed,
            gradient_checkpointing=self._config.learner.gradient_checkpointing,
        )

    def _packed(self, groups: Sequence[TrainedGroup]) -> list[MicroBatch]:
        return pack(groups, token_budget=self._config.learner.token_budget, attention_width=self._policy.attention_width)

    def _count_nonfinite(self, applied: bool, batches: Sequence[MicroBatch], step: int) -> None:
        if applied:
            self._nonfinite_in_row = 0
            return
        self._nonfinite_in_row += 1
        stem = self._log_dir / f"nonfinite-step-{step:06d}-rank-{self._rank}"
        for index, batch in enumerate(batches):
            np.savez_compressed(f"{stem}-{index}.npz", **{field.name: getattr(batch, field.name) for field in fields(MicroBatch)})  # type: ignore[arg-type]
        limit = self._config.learner.max_nonfinite_steps
        if self._nonfinite_in_row >= limit:
            raise NonFiniteError(
                f"loss or gradient was not finite in {self._nonfinite_in_row} steps in a row, and learner.max_nonfinite_steps is {limit}; "
                f"the batches are in {stem}-*.npz; lower learner.learning_rate or look for what is wrong with them",
                role=f"learner rank {self._rank}",
            )


def trained_groups(bodies: Sequence[Any], advantages_PG: Sequence[Sequence[float | None]]) -> list[TrainedGroup]:
    """The bodies that are referred to, each with its advantages; completions are numbered on through all of them."""
    starts = np.cumsum([0, *map(len, advantages_PG)])
    return [
        trained_group(RolloutGroup(table), advantages_G, first_index=int(start))
        for table, advantages_G, start in zip(ray.get(list(bodies)), advantages_PG, starts, strict=False)
    ]


def _import_heavy(on_gpu: bool, threads: int) -> None:
    """Import what `start` will need, so that the group's ranks do it while the rollout engines start."""
    from learner.engine import import_deepspeed

    import_deepspeed(on_gpu=on_gpu)
    for module in ("peft", "learner.sft"):
        importlib.import_module(module)
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
