"""One process of the learner, called a rank, whatever it trains. Heavy imports are inside functions, so that the driver can import the class."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import ray

from configs.contracts.errors import NonFiniteError
from configs.contracts.logs import redirect_output
from configs.contracts.metrics import Metric
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from learner.engine.processes import RankProcess
from learner.packing import MicroBatch

if TYPE_CHECKING:
    from learner.engine.zero2_engine import LearnerEngine, StepOutcome
    from learner.model.policy import Policy

Config = TypeVar("Config", RunConfig, SftConfig)


@dataclass(frozen=True, slots=True)
class RankReport:
    """One rank's part of a step. `metrics` are not divided yet; the other fields are the same on every rank."""

    policy_version: int
    applied: bool
    grad_norm: float
    learning_rate: float
    metrics: dict[str, Metric]

    @classmethod
    def of(cls, policy_version: int, outcome: StepOutcome, metrics: dict[str, Metric]) -> RankReport:
        return cls(policy_version, outcome.applied, outcome.grad_norm, outcome.learning_rate, metrics)


class Rank(Generic[Config]):
    """One rank. Every method but `rendezvous` and `where` is collective: all ranks are called at once."""

    def __init__(self, config: Config, rank: int, log_dir: Path) -> None:
        redirect_output(log_dir / f"learner-{rank}.log")
        self._config = config
        self._rank = rank
        self._log_dir = log_dir
        self._on_gpu = config.learner.gpus_per_rank > 0
        self._nonfinite_in_row = 0
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        _import_heavy(self._on_gpu, max(1, int(config.learner.cpus_per_rank)))

    def where(self) -> RankProcess:
        """Return where this rank runs."""
        return RankProcess.here()

    def rendezvous(self) -> tuple[str, int]:
        """Return this node's address and a port that is free now, for the ranks to meet at."""
        address = ray.util.get_node_ip_address()
        with socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            return address, probe.getsockname()[1]

    def join(self, address: str, port: int) -> None:
        """Enter the process group, and wait for the other ranks."""
        from learner.engine.zero2_engine import join_process_group

        learner = self._config.learner
        join_process_group(
            rank=self._rank,
            world_size=learner.ranks,
            address=address,
            port=port,
            on_gpu=self._on_gpu,
            timeout_s=learner.process_group_timeout_s,
        )

    def _load_policy(self, model_path: str, *, full: bool) -> Policy:
        from learner.model.policy import Policy

        return Policy.load(
            self._config.model,
            model_path,
            full=full,
            device="cuda" if self._on_gpu else "cpu",
            seed=self._config.seed,
            gradient_checkpointing=self._config.learner.gradient_checkpointing,
        )

    def _make_engine(self, policy: Policy, total_steps: int) -> LearnerEngine:
        from learner.engine.schedule import Schedule
        from learner.engine.zero2_engine import LearnerEngine

        learner = self._config.learner
        return LearnerEngine(policy, learner, Schedule.of(learner, total_steps), offload=learner.offload_optimizer)

    def _count_nonfinite(self, applied: bool, batches: Sequence[MicroBatch], step: int) -> None:
        """Save the batches of a skipped step; too many such steps in a row raise NonFiniteError."""
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
                f"loss or gradient was not finite in {self._nonfinite_in_row} steps in a row, and learner.max_nonfinite_steps is {limit}. "
                f"Lower learner.learning_rate, or inspect the batches in {stem}-*.npz",
                role=f"learner rank {self._rank}",
            )


def _import_heavy(on_gpu: bool, threads: int) -> None:
    """Import the libraries that `start` needs early, while the rollout engines start."""
    from learner.engine.zero2_engine import import_deepspeed

    import_deepspeed(on_gpu=on_gpu)
    for module in ("peft", "learner.sft.trainer"):
        importlib.import_module(module)
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
