"""RewardWorker: one Ray process that scores groups with grader processes of its own."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from configs.contracts.errors import RewardError
from configs.contracts.logs import redirect_output
from configs.contracts.metrics import BusyClock
from configs.contracts.records import RolloutGroup, Scores
from configs.schema.rewards import RewardsSection

if TYPE_CHECKING:
    import pyarrow as pa

    from rewards.grading.graders import Graders


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker's process, node and graders: `WorkerFacts(pid=4242, node="10.0.0.7", grader_pids=(4250,))`."""

    pid: int
    node: str
    grader_pids: tuple[int, ...]
    """The warden's process id. All graders are below the warden."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The answer to one group: its scores, and the worker's counts."""

    scores: Scores
    busy_s: float
    """Wall seconds, since the worker's start, in which it was scoring at least one group."""
    graders_replaced: int


class RewardWorker:
    """An asynchronous Ray actor; the pool makes it one. Scoring the same group twice gives the same scores and does no harm.

    Args:
        section: the rewards of the run.
        log_path: file that its output and its graders' goes to; it takes effect on the node that the worker runs on.
        cwd: folder of the driver, from which relative paths of users' functions start, where this node has it.
    """

    def __init__(self, section: RewardsSection, log_path: Path, cwd: Path) -> None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves it unset for an actor without GPUs, and a reward could take one
        redirect_output(log_path)
        self._section = section
        self._cwd = cwd if cwd.is_dir() else Path.cwd()
        self._clock = BusyClock()
        self._graders: Graders | None = None

    async def start(self) -> WorkerFacts:
        """Start the graders. Raises RewardError, with the node, if a reward cannot be loaded here."""
        import ray

        from rewards.grading.graders import Graders

        node = ray.util.get_node_ip_address()
        try:
            self._graders = await Graders.start(
                [(spec.name, spec.params) for spec in self._section.functions],
                count=self._section.graders_per_worker,
                timeout_s=self._section.timeout_s,
                memory_limit_bytes=self._section.memory_limit_bytes,
                cwd=self._cwd,
            )
        except RewardError as error:
            raise RewardError(error.message, node=node) from error
        self._graders.lost.add_done_callback(lambda _: _die())
        return WorkerFacts(os.getpid(), node, tuple(self._graders.pids()))

    async def score(self, table: pa.Table, step: int) -> WorkerReport:
        """Score one group.

        Args:
            table: the group's body. The caller passes a reference, and Ray fetches the table.
            step: optimizer steps done; functions see it as `trainer_state.global_step`.
        """
        from rewards.grading.scoring import aggregate, as_input

        assert self._graders is not None, "start comes before score"
        started_s = time.monotonic()
        with self._clock.busy():
            group = RolloutGroup(table)
            reports = await self._graders.grade(as_input(group, step, self._graders.need_token_ids))
            scores = aggregate(self._section, group, reports, time.monotonic() - started_s)
        return WorkerReport(scores, self._clock.total_s(), self._graders.replaced)

    async def ping(self) -> None:
        """Return at once. A worker that does not answer hangs; one whose gradings take long answers."""

    async def close(self) -> None:
        """End the graders, and return when their processes have ended."""
        if self._graders:
            await self._graders.close()


def _die() -> None:
    """End this process: without a warden it can grade nothing. The pool starts another worker."""
    print("the warden of the graders is gone; this reward worker ends", flush=True)
    os._exit(1)
