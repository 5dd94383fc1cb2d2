"""RolloutPool: all rollout workers of a run, behind one interface.

    slots:               keep one worker each (`actors.slots`)
    rollout:             choose the ready worker with the fewest tokens in hand ─► ask ──lost──► same prompt on another worker, attempt + 1
    broadcast:           install on every started worker at once; a worker that fails is lost, and its slot starts another

Whichever call first discovers that a worker is lost (a request, the watchdog, a broadcast) records it by `WorkerHandle.lose`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from actors.engine.adapter_folders import disk, remove_abandoned, run_folder, shared_memory
from actors.gang import assign_gangs
from actors.handle import WorkerHandle
from actors.slots import WorkerSlots
from actors.worker import WorkerStatus
from configs.contracts.errors import AdapterError, PoisonPromptError
from configs.contracts.records import AdapterManifest, AdapterRef, BodyRef, GroupSummary, PromptId, RolloutRequest, SyncReport
from configs.schema.run import RunConfig

logger = logging.getLogger(__name__)

CLOSE_S = 15.0
KILLED_GONE_S = 3.0
MAX_ENGINE_DEATHS = 2
"""Engines that may die with the same prompt in hand before it is blamed and no longer sampled."""


class RolloutPool:
    """All rollout workers of a run.

    Example::

        pool = RolloutPool.create(config, ray_options={"num_cpus": 1}, log_dir=run / "logs", run_name="run-7")
        await pool.start("/models/tiny")
        await pool.broadcast(adapter_ref)
        summary, body = await pool.rollout(RolloutRequest(prompt, sampling, seed=config.seed))
        await pool.close()
    """

    def __init__(self, config: RunConfig, spawn: Callable[[int], WorkerHandle], log_dir: Path, run_name: str) -> None:
        """See `create`. `spawn(index)` starts a worker's process and returns at once."""
        self._run_name = run_name
        self._slots = WorkerSlots(config.actors, spawn, log_dir)
        self._broadcasting = asyncio.Lock()
        self._gang_numbers = itertools.count()
        self._gang_workers: dict[str, WorkerHandle] = {}
        self._engine_deaths: Counter[PromptId] = Counter()
        self._warned = False

    @classmethod
    def create(cls, config: RunConfig, *, ray_options: Mapping[str, object], log_dir: Path, run_name: str) -> RolloutPool:
        """Spawn the workers' processes and return at once; they import vllm while the rest of the run is set up.

        Needs a running event loop, the one that will use the pool.

        Args:
            ray_options: Ray's actor options for every worker: num_cpus, num_gpus, label_selector, scheduling_strategy, …
            log_dir: folder for `rollout-<index>.log`.
            run_name: begins the name of the adapters' folder in shared memory; a random part makes it unique.
        """
        log_dir, run_name = log_dir.resolve(), f"{run_name}-{secrets.token_hex(4)}"
        spawn = partial(WorkerHandle.spawn, config, run_name=run_name, log_dir=log_dir, ray_options=ray_options)
        return cls(config, spawn, log_dir, run_name)

    async def start(self, model_path: str) -> None:
        """Load the model in every worker; returns when all have, or have been replaced by one that has.

        Raises:
            RolloutError: no worker could start.
        """
        await self._slots.start(model_path)

    @property
    def restarts(self) -> int:
        """Workers replaced so far."""
        return self._slots.restarts

    def assign(self, requests: Sequence[RolloutRequest]) -> list[RolloutRequest]:
        """Make the prompts of one synchronous step gangs, spread evenly over the ready workers.

        All of them must then be passed to `rollout` at once: a gang starts when its last member has arrived. Without a ready
        worker the requests are returned unchanged.
        """
        ready = self._slots.ready
        if not ready:
            return list(requests)
        assigned = assign_gangs(requests, len(ready), f"gang {next(self._gang_numbers)}")
        self._gang_workers = {request.gang.name: ready[number] for number, request in assigned if request.gang}
        return [request for _, request in assigned]

    async def rollout(self, request: RolloutRequest) -> tuple[GroupSummary, BodyRef]:
        """Sample one group; if the worker is lost, sample it again on another.

        Returns:
            The summary, and the reference of the body (`RolloutGroup.table`), owned by the caller.

        Raises:
            PoisonPromptError: no engine can sample this prompt, or two engines died with it in hand.
            RolloutError: no worker is left and none may be started.
        """
        for reissued in itertools.count():
            worker = await self._pick(request)
            result = await worker.rollout(request)
            if result is not None:
                return replace(result[0], reissued=reissued), result[1]
            self._count_engine_death(worker, request.prompt.id)
            request = replace(request, attempt=request.attempt + 1, gang=None)
        raise AssertionError  # count() does not end

    async def broadcast(self, adapter: AdapterRef, *, rewind: bool = False) -> SyncReport:
        """Install an adapter on every worker; returns when all live workers sample with it and have reproduced its canary.

        A worker that fails is replaced. Ray pulls the buffer once to each node.

        Args:
            rewind: accept an older version: the learner was restored from a checkpoint.

        Raises:
            AdapterError: the version is not newer than the one before.
            RolloutError: no worker is left and none may be started.
        """
        async with self._broadcasting:
            self._refuse_old(adapter, rewind)
            began = time.monotonic()
            self._slots.adapter = adapter
            await self._slots.announce()
            started = [worker for worker in self._slots.workers if worker.facts and not worker.lost.done()]
            await asyncio.gather(*(self._slots.install(worker) for worker in started))
            await self._slots.until(lambda: self.version == adapter.version)
            self._warn_of_full_memory()
            return self._report(adapter.manifest, time.monotonic() - began, [worker.name for worker in started if worker.lost.done()])

    @property
    def version(self) -> int:
        """The lowest version that a ready worker has confirmed; -1 if none is ready."""
        return min((worker.version for worker in self._slots.ready), default=-1)

    async def status(self) -> dict[str, WorkerStatus | None]:
        """Status of every worker, by name; None for one that is starting or does not answer within a second."""
        workers = self._slots.workers
        answers = await asyncio.gather(*(worker.status(1.0) for worker in workers))
        return {worker.name: answer for worker, answer in zip(workers, answers, strict=True)}

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that have started."""
        return [worker.facts.pid for worker in self._slots.workers if worker.facts]

    def engine_pids(self) -> list[int]:
        """Process ids of their engines."""
        return [pid for worker in self._slots.workers if worker.facts for pid in worker.facts.engine_pids]

    async def close(self) -> None:
        """End all workers and engines, and remove the adapters from shared memory. Takes at most about `CLOSE_S`."""
        await self._slots.close(CLOSE_S)
        await asyncio.to_thread(self._remove_adapters)

    def _warn_of_full_memory(self) -> None:
        note = next((worker.times.note for worker in self._slots.ready if worker.times and worker.times.note), "")
        if note and not self._warned:
            self._warned = True
            logger.warning("%s", note)

    def _report(self, manifest: AdapterManifest, total_s: float, failed: list[str]) -> SyncReport:
        times = [worker.times for worker in self._slots.ready if worker.times]
        return SyncReport(
            version=manifest.version,
            nbytes=manifest.nbytes,
            total_s=total_s,
            paused_s=max(time_.paused_s for time_ in times),
            canary_difference=max(time_.canary_difference for time_ in times),
            failed_workers=tuple(failed),
        )

    async def _pick(self, request: RolloutRequest) -> WorkerHandle:
        if request.gang and (worker := self._gang_workers.get(request.gang.name)) and worker.ready:
            return worker
        await self._slots.until(lambda: self._slots.ready)
        return min(self._slots.ready, key=lambda worker: worker.tokens_in_hand)

    def _count_engine_death(self, worker: WorkerHandle, prompt_id: PromptId) -> None:
        if not worker.engine_died:
            return
        self._engine_deaths[prompt_id] += 1
        if self._engine_deaths[prompt_id] >= MAX_ENGINE_DEATHS:
            raise PoisonPromptError(
                f"prompt {prompt_id} was in {MAX_ENGINE_DEATHS} engines when they died; it may be the cause, and is not sampled again"
            )

    def _refuse_old(self, adapter: AdapterRef, rewind: bool) -> None:
        current = self._slots.adapter
        if current and adapter.version <= current.version and not rewind:
            raise AdapterError(
                f"adapter {adapter.version} is not newer than {current.version}, which the workers have; versions only grow, except after "
                "the learner was restored from a checkpoint (rewind=True)"
            )

    def _remove_adapters(self) -> None:
        """Remove the adapters that killed workers of this node left; their locks end only when the processes are gone."""
        deadline = time.monotonic() + KILLED_GONE_S
        for root in (shared_memory(), disk()):
            while run_folder(root, self._run_name).exists() and time.monotonic() < deadline:
                remove_abandoned(root)
                time.sleep(0.05)
