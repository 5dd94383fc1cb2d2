"""Ranks: all processes of a learner group, the only place that says `.remote` to all of them.

Each call goes to every rank; the first rank that fails ends the group: the others, which would wait for it, are killed within seconds, and a
LearnerError names the rank and quotes the end of its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from configs.contracts.errors import LearnerError, RollcastError, unwrapped
from configs.contracts.logs import tail
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from learner.engine.rank import Rank

BLAME_WAIT_S = 5.0
"""How long to wait for the other ranks' errors after the first: a dead rank is reported later than those that lost it."""


class Ranks:
    """The processes of one group. After a LearnerError it is dead: make another."""

    def __init__(self, workers: Sequence[Any], log_dir: Path) -> None:
        self._alive = list(workers)
        self._log_dir = log_dir
        self._joined = False

    @classmethod
    def create(cls, worker: type[Rank[Any]], config: RunConfig | SftConfig, *, ray_options: dict[str, Any], log_dir: Path) -> Ranks:
        """Start one actor a rank; their imports begin at once. `ray_options` say where (labels, placement group)."""
        learner = config.learner
        options = {
            "num_cpus": learner.cpus_per_rank,
            "num_gpus": learner.gpus_per_rank,
            "max_restarts": 0,
            "max_task_retries": 0,
        } | ray_options
        actor = ray.remote(worker).options(**options)
        return cls([actor.remote(config, rank, log_dir) for rank in range(learner.ranks)], log_dir)

    @property
    def workers(self) -> list[Any]:
        """Actor handles by rank."""
        if not self._alive:
            raise LearnerError("the learner group is closed; make another one")
        return self._alive

    async def join(self) -> None:
        """Make one process group of the ranks; once."""
        if self._joined:
            return
        address, port = (await self.settle([self.workers[0].rendezvous.remote()]))[0]
        await self.everywhere("join", address, port)
        self._joined = True

    async def everywhere(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method on every rank; its results by rank."""
        return await self.settle([getattr(worker, method).remote(*arguments) for worker in self.workers])

    async def pids(self) -> list[int]:
        """Process ids by rank."""
        return [pid for pid, _ in await self.everywhere("where")]

    async def close(self) -> None:
        """End all ranks. Safe to call twice, and after an error."""
        for worker in self._alive:
            ray.kill(worker)
        self._alive = []

    async def settle(self, references: Sequence[Any]) -> list[Any]:
        """Results by rank; on the first error the group is ended and the error that explains it raised."""
        futures = [asyncio.wrap_future(reference.future()) for reference in references]
        _, pending = await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        if any(future.done() and future.exception() for future in futures):
            if pending:
                await asyncio.wait(pending, timeout=BLAME_WAIT_S)
            errors = {rank: error for rank, future in enumerate(futures) if future.done() and (error := future.exception())}
            await self.close()
            raise self._explain(errors) from None
        return [future.result() for future in futures]

    def _explain(self, errors: dict[int, BaseException]) -> RollcastError:
        """A dead process explains the others' errors; then come our own errors, then any."""

        def weight(rank: int) -> tuple[int, int]:
            error = errors[rank]
            if isinstance(error, (ActorDiedError, ActorUnavailableError)):
                return 0, rank
            return (1 if isinstance(unwrapped(error), RollcastError) else 2), rank

        rank = min(errors, key=weight)
        error = unwrapped(errors[rank])
        if isinstance(error, RollcastError):
            return error
        died = isinstance(error, (ActorDiedError, ActorUnavailableError))
        message = "the process died" if died else f"{type(error).__name__}: {error}"
        return LearnerError(
            f"{message}; the group was ended and must be made again from the last checkpoint",
            role=f"learner rank {rank}",
            log_tail=tail(self._log_dir / f"learner-{rank}.log"),
        )
