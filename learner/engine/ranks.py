"""All ranks of the learner as one group. Calls to all of them go through here.

Each call goes to every rank. The first rank that fails ends the group: the others, which would wait for it for ever, are killed within
seconds, and a LearnerError names the failed rank and quotes the end of its log. A call that hangs ends the group too (`learner.engine.watchdog`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError

from configs.contracts.errors import LearnerError, RollcastError, unwrapped
from configs.contracts.logs import tail
from learner.engine.processes import RankProcess, kill_here, stopped_among, stopped_here
from learner.engine.rank import Config, Rank
from learner.engine.watchdog import CallLimits, Watchdog

BLAME_WAIT_S = 5.0
"""Time to wait for the other ranks' errors after the first: Ray reports a dead rank later than the ranks that lost their connection to it."""

Actor: TypeAlias = Any
"""Ray's handle of one rank. Ray adds its remote methods at run time, so that they have no static types."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Ranks:
    """The processes of one group. After a LearnerError it is dead: make another."""

    def __init__(self, workers: Sequence[Actor], log_dir: Path, limits: CallLimits, stopped_timeout_s: float) -> None:
        """Take over actors of `Rank`, in the order of their ranks. Calls that exceed `limits`, and stopped ranks, end the group."""
        self._alive = list(workers)
        self._log_dir = log_dir
        self._joined = False
        self._processes: list[RankProcess] = []
        self._watchdog = Watchdog(limits, stopped_timeout_s, self._stopped)

    @classmethod
    def create(cls, worker: type[Rank[Config]], config: Config, *, ray_options: Mapping[str, object], log_dir: Path) -> Ranks:
        """Start one actor per rank, whose imports begin at once.

        Args:
            ray_options: placement of the actors: labels, placement group.
        """
        learner = config.learner
        options: dict[str, object] = {
            "num_cpus": learner.cpus_per_rank,
            "num_gpus": learner.gpus_per_rank,
            "max_restarts": 0,
            "max_task_retries": 0,
            **ray_options,
        }
        actor = ray.remote(worker).options(**options)
        workers = [actor.remote(config, rank, log_dir) for rank in range(learner.ranks)]
        return cls(workers, log_dir, CallLimits(learner.step_timeout_s), learner.process_group_timeout_s)

    @property
    def workers(self) -> list[Actor]:
        """Actor handles by rank."""
        if not self._alive:
            raise LearnerError("the learner's ranks were closed; create a new learner")
        return self._alive

    async def join(self) -> None:
        """Make one process group of the ranks. Later calls do nothing."""
        if self._joined:
            return
        await self.processes()
        address, port = (await self.settle([remote(self.workers[0], Rank.rendezvous)], "rendezvous"))[0]
        await self.everywhere(Rank.join, address, port)
        self._joined = True

    async def everywhere(
        self, method: Callable[Concatenate[Any, Arguments], Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> list[Result]:
        """Call a method with the same arguments on every rank; returns the results by rank. Example: `everywhere(Rank.where)`."""
        return await self.settle([remote(worker, method, *arguments, **named) for worker in self.workers], method.__name__)

    async def each(self, method: Callable[..., Result], arguments_R: Sequence[Sequence[object]]) -> list[Result]:
        """Call a method on every rank with that rank's own arguments; returns the results by rank."""
        return await self.settle(
            [remote(worker, method, *own) for worker, own in zip(self.workers, arguments_R, strict=True)], method.__name__
        )

    async def processes(self) -> list[RankProcess]:
        """The processes of the ranks, by rank. Waits until all have started."""
        if not self._processes:
            self._processes = await self.everywhere(Rank.where)
        return self._processes

    async def close(self) -> None:
        """End all ranks, stopped ones too. Safe to call twice, and after an error."""
        alive, self._alive = self._alive, []
        for worker in alive:
            ray.kill(worker)
        if alive:
            kill_here(stopped_here(self._processes))  # Ray reports one that ends before Ray has ended it as a crash

    async def settle(self, references: Sequence[ray.ObjectRef[Result]], call: str) -> list[Result]:
        """Await the results of one call. On the first error, or when the call hangs, end the group and raise the error that explains it."""
        futures = [asyncio.wrap_future(reference.future()) for reference in references]
        hang = await self._watchdog.wait(call, futures)
        if hang is not None:
            await self.close()
            raise LearnerError(
                f"{hang.reason}; all ranks were ended, resume from the last checkpoint",
                role=hang.role,
                log_tail=tail(self._log_dir / f"learner-{hang.ranks[0]}.log"),
            )
        pending = [future for future in futures if not future.done()]
        if any(future.done() and future.exception() for future in futures):
            if pending:
                await asyncio.wait(pending, timeout=BLAME_WAIT_S)
            errors = {rank: error for rank, future in enumerate(futures) if future.done() and (error := future.exception())}
            await self.close()
            raise self._explain(errors) from None
        return [future.result() for future in futures]

    async def _stopped(self) -> set[int]:
        stopped = await stopped_among(self._processes)
        return {rank for rank, each in enumerate(self._processes) if each in stopped}

    def _explain(self, errors: dict[int, BaseException]) -> RollcastError:
        """The error to raise: a dead process explains the others' errors, then come our own errors, then any other."""

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
            f"{message}; all ranks were ended, resume from the last checkpoint",
            role=f"learner rank {rank}",
            log_tail=tail(self._log_dir / f"learner-{rank}.log"),
        )


def remote(worker: Actor, method: Callable[..., Result], *arguments: object, **named: object) -> ray.ObjectRef[Result]:
    """Call `method` of the actor's class on `worker`, in its process."""
    return getattr(worker, method.__name__).remote(*arguments, **named)
