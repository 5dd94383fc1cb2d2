"""RolloutWorker: one Ray process that holds one engine and samples groups.

    STALE ──start──► started ──install_adapter, canary agrees──► sampling ──canary disagrees──► STALE
                                                              └─ engine process gone ──► exits at once

A worker samples only with an adapter whose canary its engine reproduces. A canary is a fixed sequence with the log-probabilities that the
learner gives its tokens under that adapter. STALE means: the worker has no such adapter, and refuses to sample until it gets one.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from actors.engine.adapter_folders import AdapterStore, disk, keep_temporary_files_in, shared_memory
from actors.gang import GangBarrier
from configs.contracts.errors import AdapterError, PoisonPromptError, RollcastError, RolloutError
from configs.contracts.logs import redirect_output
from configs.contracts.metrics import BusyClock
from configs.contracts.records import AdapterManifest, Completion, GroupSummary, RolloutGroup, RolloutRequest
from configs.contracts.tasks import gather_or_cancel

if TYPE_CHECKING:
    import pyarrow as pa

    from actors.engine.vllm_engine import Engine, SamplingJob
    from configs.schema.run import RunConfig

GangMember = tuple[RolloutRequest, "asyncio.Future[list[Completion]]"]

WATCH_S = 0.2
EXIT_GRACE_S = 0.3
"""Time for the errors of pending calls to reach their callers before the process exits."""


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """Processes and node of a started worker."""

    pid: int
    engine_pids: tuple[int, ...]
    node: str
    start_s: float
    """Wall seconds from the process's own start to the engine's readiness."""


@dataclass(frozen=True, slots=True)
class AdapterTimes:
    """Wall seconds that one worker took to install an adapter."""

    version: int
    store_s: float
    """Time to verify the adapter and write it to shared memory, or to wait for another worker of this node that does."""
    drain_s: float
    """Time until the engine had read every submitted prompt; it goes on sampling meanwhile."""
    paused_s: float
    """Time that the engine stood still."""
    load_s: float
    """Part of the pause in which vLLM read the adapter."""
    canary_s: float
    """Time of the check with the canary."""
    canary_difference: float
    """Mean |engine - learner| log-probability over the canary's tokens, in nats; 0 without a canary."""
    note: str = ""
    """Why the adapter is not in shared memory; "" if it is."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """Current state of a worker."""

    version: int
    """Policy version that it samples with; -1 while STALE."""
    tokens: int
    """Tokens sampled since its start."""
    busy_s: float
    """Seconds since its start with at least one group in hand."""
    uptime_s: float
    in_flight: int
    """Completions that the engine is working on."""
    stalled_s: float
    """Seconds with work but without a new token, as seen by the calls of `status`."""


class RolloutWorker:
    """One rollout worker: a Ray actor with asyncio. `actors.handle` makes all calls to it."""

    def __init__(self, config: RunConfig, index: int, run_name: str, log_dir: Path) -> None:
        """Begin to import vllm in the background, which takes seconds.

        Args:
            index: number of the worker in its pool, and of its log `rollout-<index>.log`.
            run_name: names the adapters' folder in shared memory.
        """
        redirect_output(log_dir / f"rollout-{index}.log")
        self.name = f"rollout {index}"
        self.config = config
        self._seed = config.seed * 1009 + index
        self._run_name = run_name
        self._began = time.monotonic()
        self._engine_module: Future[ModuleType] = ThreadPoolExecutor(1, "import").submit(
            importlib.import_module, "actors.engine.vllm_engine"
        )
        self._engine: Engine | None = None
        self._store: AdapterStore | None = None
        self._updating = asyncio.Lock()
        self._stale = "it has no adapter yet"
        self._barriers: dict[str, GangBarrier[GangMember]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._clock = BusyClock()
        self._progress = (0, time.monotonic())

    async def start(self, model_path: str) -> WorkerFacts:
        """Load the model. The worker is STALE until `install_adapter`.

        Raises:
            RolloutError: vllm could not be imported or the engine could not start.
        """
        import ray

        try:
            module = await asyncio.wrap_future(self._engine_module)
        except Exception as error:
            raise RolloutError(f"vllm cannot be imported: {error}; install its dependencies", role=self.name) from None
        self._store = AdapterStore(shared_memory(), self._run_name, overflow=disk())
        keep_temporary_files_in(self._store.folder)
        self._engine = await module.Engine.start(self.config, model_path, seed=self._seed, sockets=self._store.folder)
        gc.collect()
        gc.freeze()  # otherwise a full collection walks over everything that vLLM imported, and calls wait meanwhile
        self._watcher = asyncio.create_task(self._exit_when_engine_dies())
        node = ray.get_runtime_context().get_node_id()
        return WorkerFacts(os.getpid(), tuple(self._started.pids), node, time.monotonic() - self._began)

    async def rollout(self, request: RolloutRequest) -> tuple[GroupSummary, pa.Table]:
        """Sample one group.

        Returns:
            The summary, and the body as a table of `ROLLOUT_SCHEMA`.

        Raises:
            PoisonPromptError: the prompt cannot be sampled; the engine never saw it.
            AdapterError: the worker is STALE.
            RolloutError: its engine died.
        """
        engine = self._started
        if not self._updating.locked():
            self._refuse_when_stale()
        try:
            engine.check_prompt(request.prompt.token_ids, request.sampling)
        except PoisonPromptError as error:
            self._leave_gang(request)
            raise PoisonPromptError(f"prompt {request.prompt.id}: {error.message}", role=self.name) from None
        began = time.monotonic()
        with self._clock.busy():
            completions_G = await (self._sample_in_gang(request) if request.gang else self._sample(request))
            async with self._updating:  # completions of an adapter that is being checked wait for the result
                self._refuse_when_stale()
        return summarize(request, completions_G, self.name, time.monotonic() - began), RolloutGroup.build(request, completions_G).table

    async def install_adapter(self, manifest: AdapterManifest, buffer: np.ndarray) -> AdapterTimes:
        """Store an adapter, load it, and check that the engine reproduces the learner's log-probabilities.

        Args:
            buffer: uint8 [manifest.nbytes].

        Raises:
            AdapterError: the adapter is damaged or refused, or the canary disagrees; the worker is then STALE.
            RolloutError: the engine died.
        """
        engine, store = self._started, self._store
        assert store is not None
        async with self._updating:
            try:
                began = time.monotonic()
                folder = await asyncio.to_thread(store.write, manifest, buffer)
                stored = time.monotonic()
                loaded = await engine.load_adapter(manifest.version, folder)
                loaded_at = time.monotonic()
                difference = await self._check_canary(manifest)
            except RollcastError as error:
                self._stale = error.message
                raise
            self._stale = ""
            canary_s = time.monotonic() - loaded_at
            return AdapterTimes(
                manifest.version, stored - began, loaded.drain_s, loaded.paused_s, loaded.load_s, canary_s, difference, store.note
            )

    def status(self) -> WorkerStatus:
        """Report the current state; `stalled_s` is as exact as the interval between calls."""
        engine, now = self._engine, time.monotonic()
        tokens, in_flight = (engine.tokens_sampled(), engine.in_flight) if engine else (0, 0)
        has_work = in_flight > 0 or (self._updating.locked() and engine is not None)
        if tokens != self._progress[0] or not has_work:
            self._progress = (tokens, now)
        version = -1 if self._stale or engine is None else engine.version
        return WorkerStatus(version, tokens, self._clock.total_s(), now - self._began, in_flight, now - self._progress[1])

    async def logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities of `token_ids[1:]` under the current adapter, at temperature 1: float64 [T - 1], in nats."""
        return await self._started.logprobs(token_ids)

    async def close(self) -> None:
        """End the engine and leave the adapter store."""
        if self._engine is not None:
            self._watcher.cancel()
            await self._engine.shutdown()
        if self._store is not None:
            self._store.close()

    @property
    def _started(self) -> Engine:
        if self._engine is None:
            raise RolloutError("it was asked to work before it was started; await start(model_path) first", role=self.name)
        return self._engine

    def _refuse_when_stale(self) -> None:
        if self._stale:
            raise AdapterError(f"it is STALE and does not sample: {self._stale}; install an adapter that it can reproduce", role=self.name)

    async def _check_canary(self, manifest: AdapterManifest) -> float:
        canary = manifest.canary
        if canary is None:
            return 0.0
        logprobs = await self._started.logprobs(canary.token_ids)
        difference = float(np.abs(logprobs - np.asarray(canary.logprobs)).mean())
        if not difference <= self.config.canary_tolerance:  # written so that nan is refused, too
            raise AdapterError(
                f"adapter {manifest.version} gives log-probabilities that differ from the learner's by {difference:.3g} nats on average, more "
                f"than {self.config.canary_tolerance:g}; engine and learner do not compute the same model",
                role=self.name,
            )
        return difference

    async def _sample(self, request: RolloutRequest) -> list[Completion]:
        engine, prompt = self._started, request.prompt
        seeds = [request.completion_seed(index) for index in range(request.sampling.num_generations)]
        return await gather_or_cancel([engine.sample(prompt.token_ids, request.sampling, seed) for seed in seeds])

    async def _sample_in_gang(self, request: RolloutRequest) -> list[Completion]:
        assert request.gang is not None
        completions: asyncio.Future[list[Completion]] = asyncio.get_running_loop().create_future()
        barrier = self._barriers.setdefault(request.gang.name, GangBarrier(request.gang.size))
        self._start_when_complete(request.gang.name, barrier.join((request, completions)))
        return await completions

    def _leave_gang(self, request: RolloutRequest) -> None:
        if request.gang is None:
            return
        barrier = self._barriers.setdefault(request.gang.name, GangBarrier(request.gang.size))
        self._start_when_complete(request.gang.name, barrier.leave())

    def _start_when_complete(self, name: str, members: list[GangMember] | None) -> None:
        if members is None:
            return
        del self._barriers[name]
        self._spawn(self._sample_gang(sorted(members, key=lambda member: member[0].prompt.id)))

    def _spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)  # the event loop holds tasks weakly
        task.add_done_callback(self._tasks.discard)

    async def _sample_gang(self, members: list[GangMember]) -> None:
        jobs = [job for request, _ in members for job in self._jobs(request)]
        try:
            running = await self._started.sample_together(jobs)
        except RollcastError as error:
            for _, completions in members:
                completions.set_exception(error)
            return
        start = 0
        for request, completions in members:
            end = start + request.sampling.num_generations
            self._spawn(settle(completions, gather_or_cancel(running[start:end])))
            start = end

    def _jobs(self, request: RolloutRequest) -> list[SamplingJob]:
        job = self._engine_module.result().SamplingJob
        seeds = [request.completion_seed(index) for index in range(request.sampling.num_generations)]
        return [job(request.prompt.token_ids, request.sampling, seed) for seed in seeds]

    async def _exit_when_engine_dies(self) -> None:
        while not self._started.dead:
            await asyncio.sleep(WATCH_S)
        # a dead engine cannot be revived in its process; pending calls have failed by now, and their errors leave first
        threading.Timer(EXIT_GRACE_S, os._exit, (1,)).start()


async def settle(future: asyncio.Future[list[Completion]], coroutine: Coroutine[object, object, list[Completion]]) -> None:
    """Set a future to the result of a coroutine, or to its error."""
    try:
        result = await coroutine
    except RollcastError as error:
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(result)


def summarize(request: RolloutRequest, completions_G: Sequence[Completion], worker: str, generate_s: float) -> GroupSummary:
    """Summarise a sampled group for the driver."""
    versions = [span.version for completion in completions_G for span in completion.spans]
    return GroupSummary(
        prompt_id=request.prompt.id,
        attempt=request.attempt,
        prompt_tokens=len(request.prompt.token_ids),
        completion_tokens_G=tuple(len(completion.token_ids) for completion in completions_G),
        truncated_G=tuple(completion.finish_reason == "length" for completion in completions_G),
        min_policy_version=min(versions),
        max_policy_version=max(versions),
        worker=worker,
        generate_s=generate_s,
    )
