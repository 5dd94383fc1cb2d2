"""The slots of a pool: each keeps one rollout worker alive, and starts another when it is lost.

    one task per slot:   spawn ─► start ─► install the current adapter ─► ready ─► watch ──lost──► kill, start again (bounded)

A slot outlives its workers. With two slots, and worker 1 lost at time t:

    slot 0   worker 0 ──────────────────────────────►
    slot 1   worker 1 ────────── lost at t, worker 1' ► its prompts are sampled again on worker 0, or on worker 1' when that is ready
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from actors.handle import WorkerHandle
from configs.contracts.errors import NoRoomError, RollcastError, RolloutError
from configs.contracts.logs import last_exception, tail
from configs.contracts.records import AdapterRef
from configs.schema.actors import ActorsSection

logger = logging.getLogger(__name__)

WATCH_S = 2.0

EQUAL_STARTUP_ERRORS = 2
"""Workers lost for the same reason before any could sample, after which another would be lost too."""

NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
"""What may differ in one error raised twice: addresses, ports, process ids."""


class WorkerSlots:
    """The workers of a pool, by the number of their slot. It supervises them; the pool gives them work."""

    def __init__(self, actors: ActorsSection, spawn: Callable[[int], WorkerHandle], log_dir: Path) -> None:
        """See `RolloutPool`. Every worker's process is spawned at once."""
        self._actors = actors
        self._spawn = spawn
        self._log_dir = log_dir
        self._workers = {index: spawn(index) for index in range(actors.num_workers)}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self._failure: RollcastError | None = None
        self._ever_started = self._ever_ready = False
        self._failed_starts = 0
        self._startup_errors: Counter[str] = Counter()
        """Causes, without the numbers in them, for which workers were lost before they could sample."""
        self.adapter: AdapterRef | None = None
        """The adapter that every worker should have."""
        self.restarts = 0
        """Workers replaced so far."""

    @property
    def workers(self) -> list[WorkerHandle]:
        """The workers that live, in the order of their slots."""
        return [self._workers[index] for index in sorted(self._workers)]

    @property
    def ready(self) -> list[WorkerHandle]:
        """The workers that sample with the current adapter or the one before it."""
        return [worker for worker in self.workers if worker.ready]

    async def start(self, model_path: str) -> None:
        """Load the model in every worker; returns when all have, or have been replaced by one that has.

        Raises:
            RolloutError: no worker could start.
        """
        self._tasks = [asyncio.create_task(self._keep(index, model_path)) for index in list(self._workers)]
        await self.until(lambda: all(worker.facts for worker in self._workers.values()))

    async def install(self, worker: WorkerHandle) -> None:
        """Give a worker the current adapter."""
        async with worker.installing:
            assert self.adapter is not None
            await worker.install(self.adapter)
        await self.announce()

    async def announce(self) -> None:
        """Wake everything that waits in `until`."""
        async with self._changed:
            self._changed.notify_all()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds.

        Raises:
            RolloutError: no worker is left and none may be started.
            NoRoomError: the last worker's node has no room for an adapter.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._failure is not None or condition())
        if self._failure is not None:
            raise self._failure

    async def close(self, limit_s: float) -> None:
        """End all workers and their engines within the limit."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        workers = self.workers
        self._workers.clear()
        self._failure = self._failure or RolloutError("the pool was closed before this work was done")
        await self.announce()
        await asyncio.gather(*(worker.close(limit_s) for worker in workers))

    async def _keep(self, index: int, model_path: str) -> None:
        """Keep one slot filled: start its worker, watch it, and replace it when it is lost, until no replacement is allowed."""
        try:
            while True:
                worker = self._workers[index]
                await self._bring_up(worker, model_path)
                if not worker.lost.done():
                    await self._watch(worker)
                worker.kill()
                cause = self._cause(worker)
                if not self._may_replace(worker, cause):
                    return await self._give_up(index, worker.lost.result(), cause)
                self.restarts += 1
                logger.warning("%s is lost and started again (%d of %d): %s", worker.name, self.restarts, self._actors.max_restarts, cause)
                self._workers[index] = self._spawn(index)
        except Exception as error:
            await self._give_up(index, RolloutError(f"{type(error).__name__}: {error}"), "")

    def _cause(self, worker: WorkerHandle) -> str:
        """The cause of a loss in one line: the exception that a library printed before the worker was ready, if there is one."""
        message = worker.lost.result().message.splitlines()[0]
        return message if worker.version >= 0 else last_exception(self._log(worker.index)) or message

    def _log(self, index: int) -> Path:
        return self._log_dir / f"rollout-{index}.log"

    def _may_replace(self, worker: WorkerHandle, cause: str) -> bool:
        if isinstance(worker.lost.result(), NoRoomError):
            logger.warning("%s is closed and not started again, since its engine is not to blame: %s", worker.name, cause)
            return False
        if worker.facts is None:
            self._failed_starts += 1
        if worker.version < 0 and not self._ever_ready:
            kind = NUMBERS.sub("0", cause)
            self._startup_errors[kind] += 1
            if self._startup_errors[kind] >= EQUAL_STARTUP_ERRORS:
                return False
        # if no worker has ever started, the configuration is wrong, and another try would only delay the error
        hopeless = not self._ever_started and self._failed_starts >= self._actors.num_workers
        return not hopeless and self.restarts < self._actors.max_restarts

    async def _bring_up(self, worker: WorkerHandle, model_path: str) -> None:
        await worker.start(model_path, self._actors.start_timeout_s)
        self._ever_started |= worker.facts is not None
        await self.announce()
        if not worker.lost.done():
            await self.until(lambda: self.adapter is not None)
            await self.install(worker)
            self._ever_ready |= worker.ready

    async def _watch(self, worker: WorkerHandle) -> None:
        """Ask the worker for its status until it is lost. It counts as lost if it does not answer, or has work but makes no token."""
        limit_s = self._actors.progress_timeout_s
        while not worker.lost.done():
            await asyncio.wait([worker.lost], timeout=min(WATCH_S, limit_s / 4))
            status = await worker.status(limit_s)
            if status is None:
                worker.lose(
                    RolloutError(f"it did not answer for {limit_s:g} s (actors.progress_timeout_s); it is replaced", role=worker.name),
                    engine_died=True,
                )
            elif status.stalled_s > limit_s:
                reason = (
                    f"its engine has work but sampled no token for {status.stalled_s:.1f} s (actors.progress_timeout_s); it is replaced"
                )
                worker.lose(RolloutError(reason, role=worker.name), engine_died=True)

    async def _give_up(self, index: int, error: RollcastError, cause: str) -> None:
        """Close a slot for good. Without any slot left, everything that waits in `until` fails, with the cause first."""
        del self._workers[index]
        if not self._workers and self._failure is None:
            if isinstance(error, NoRoomError):
                self._failure = error
                return await self.announce()
            log_tail = tail(self._log(index))
            reason = f"no rollout worker is left after {self.restarts} replacements (actors.max_restarts); the last one: {error.message}"
            if cause and cause not in error.message:
                reason = f"{cause}; {reason}"
            self._failure = RolloutError(reason, role=f"rollout {index}", log_tail=log_tail)
        await self.announce()
