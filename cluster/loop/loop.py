"""Prompts -> rollouts -> scores -> optimizer steps -> adapters: the control flow of a run.

    prompts ──► _feed ──► _rollout_and_score (one task a group) ──► window ──► _learn ──► learner.step
                  ▲            waits for: an engine, a grader          ▲          │
                  │                                                    │          ├─► save_checkpoint, on_step (beside the next step)
                  │                                                    │          │
                  └──────── room in the window ◄── version confirmed ──┴──────────┴─► _sync: adapter ──► engines ──► on_new_adapter
                                                                                      (overlaps the next step)

    _feed                waits for room in the window; unblocked by a batch taken, a group filtered, or a version confirmed.
    _rollout_and_score   waits for an engine, then for a grader; ends with a group in the window.
    _learn               waits for `groups_per_step` groups; unblocked by a group added; then trains, saves, logs.
    _sync                waits for the broadcast before it: two adapters are never on their way at the same time.
    on_new_adapter       the caller's hook, called when every engine has the adapter. The version counts as confirmed, and makes room in
                         the window, only after the hook returns: in a synchronous run it may use the engines alone.

This file knows neither Ray nor any role. It knows the roles by what they do (`cluster.loop.roles`), so the whole flow runs under
small fakes in milliseconds; bodies pass through as opaque references.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field

from cluster.loop.adapter_sync import AdapterSync
from cluster.loop.roles import Cursor, Learner, Prompts, Rewards, Rollouts
from cluster.loop.sampling import sample_and_score
from cluster.loop.window import Window, WindowSnapshot
from configs.contracts.errors import PoisonPromptError
from configs.contracts.metrics import BusyClock
from configs.contracts.records import RolloutRequest, Sampling, ScoredGroup, StepReport, SyncReport


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """The settings that the loop needs of a run's configuration."""

    total_steps: int
    sampling: Sampling
    seed: int = 0
    sync_every_steps: int = 1
    save_steps: int = 0


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One finished step as the loop saw it. Seconds are wall time since the step before; writing a checkpoint counts to the next step."""

    step: int
    report: StepReport
    groups: list[ScoredGroup]
    step_s: float
    wait_s: float
    """Time that the learner waited for groups."""
    sync: SyncReport | None
    """The broadcast confirmed since the step before, if any."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the loop between two steps: a checkpoint holds it beside the learner's own state."""

    step: int
    cursor: Cursor
    window: WindowSnapshot
    ready: list[ScoredGroup]


@dataclass(slots=True)
class TrainLoop:
    """One run's flow of groups. `await run()` returns the reason for which it ended."""

    prompts: Prompts
    rollouts: Rollouts
    rewards: Rewards
    learner: Learner
    window: Window
    settings: LoopSettings
    on_step: Callable[[StepRecord], Coroutine[None, None, None]]
    on_new_adapter: Callable[[int], Awaitable[None]]
    """Called with each policy version that every engine has confirmed."""
    save_checkpoint: Callable[[Snapshot], Awaitable[None]]
    on_filtered: Callable[[ScoredGroup], None] = lambda _group: None
    """Called with each group that the window keeps from training."""
    adapter_sync: AdapterSync = field(init=False)
    learner_clock: BusyClock = field(default_factory=BusyClock)
    waited_s: float = 0.0
    """Time that the learner waited for groups, over the run."""
    elapsed_s: float = 0.0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    _rollout_tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _reporting: asyncio.Task[None] | None = None
    _exhausted: bool = False
    _stop_reason: str = ""
    _stopping: asyncio.Future[None] | None = None

    def __post_init__(self) -> None:
        self.adapter_sync = AdapterSync(self.rollouts, self.on_new_adapter, self._notify)

    async def run(self) -> str:
        """Train until the steps are done, the data ends, or `stop` is called; then save a checkpoint. Errors of any part end the run."""
        started = time.monotonic()
        try:
            async with self._tasks:
                feeding = self._tasks.create_task(self._feed())
                reason = await self._learn()
                feeding.cancel()
                await self.adapter_sync.confirm()
                for task in self._rollout_tasks:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            self.elapsed_s += time.monotonic() - started
        return reason

    def stop(self, reason: str) -> None:
        """End after the step that runs now; prompts in flight are recorded in the last checkpoint."""
        self._stop_reason = reason
        self._stopping = asyncio.ensure_future(self._notify())

    async def _feed(self) -> None:
        while True:
            requests = self._admit()
            if self.window.max_staleness == 0:
                requests = self.rollouts.assign(requests)
            for request in requests:
                task = self._tasks.create_task(self._rollout_and_score(request))
                self._rollout_tasks.add(task)
                task.add_done_callback(self._rollout_tasks.discard)
            async with self._changed:
                await self._changed.wait_for(self._may_admit)

    def _may_admit(self) -> bool:
        return self.window.room(self.adapter_sync.engine_version) > 0 and (not self._exhausted or self.window.to_reissue() is not None)

    def _admit(self) -> list[RolloutRequest]:
        """Draw as many prompts as the window has room for; prompts to be sampled again come first."""
        requests: list[RolloutRequest] = []
        for _ in range(self.window.room(self.adapter_sync.engine_version)):
            again = self.window.to_reissue()
            prompt = self.prompts.prompt(again[0]) if again else self.prompts.next()
            if prompt is None:
                self._exhausted = True
                break
            attempt = self.window.admit(prompt.id)
            requests.append(RolloutRequest(prompt, self.settings.sampling, attempt, self.settings.seed))
        return requests

    async def _rollout_and_score(self, request: RolloutRequest) -> None:
        try:
            group = await sample_and_score(self.rollouts, self.rewards, request, lambda: self.window.steps_taken)
            if self.window.add(group) and self.window.filters(group):
                self.on_filtered(group)
        except PoisonPromptError:
            self.window.drop(request.prompt.id, "poison_prompt")
        await self._notify()

    async def _learn(self) -> str:
        last = time.monotonic()
        while self.window.steps_taken < self.settings.total_steps:
            waiting = time.monotonic()
            groups = await self._next_batch()
            waited_s = time.monotonic() - waiting
            self.waited_s += waited_s
            if groups is None:
                break
            with self.learner_clock.busy():
                report = await self.learner.step(groups, self.window.steps_taken - 1)
            self.window.finish_step()
            step = self.window.steps_taken
            snapshot = self._snapshot() if self._checkpoint_due(step) else None
            if step % self.settings.sync_every_steps == 0:
                await self._sync()
            now = time.monotonic()
            await self._report(StepRecord(step, report, groups, now - last, waited_s, self.adapter_sync.take_report()))
            last = now
            if snapshot:
                await self._confirm_report()
                await self.save_checkpoint(snapshot)
        await self._confirm_report()
        if not self._saved_last:
            await self.save_checkpoint(self._snapshot())
        return self._stop_reason or self._end_reason()

    def _end_reason(self) -> str:
        if self.window.steps_taken >= self.settings.total_steps:
            return "finished"
        return "every group was filtered" if self.window.filters_in_vain else "data exhausted"

    async def _next_batch(self) -> list[ScoredGroup] | None:
        """Wait for a batch. None when the run was stopped, when no more groups can come, or when every group is filtered."""
        async with self._changed:
            while not self._stop_reason:
                groups = self.window.take()
                # Taking makes room; giving up stale groups makes prompts to sample again. `_feed` must see either.
                self._changed.notify_all()
                if groups is not None:
                    return groups
                if self.window.filters_in_vain or (self._exhausted and self.window.in_flight == 0 and not self.window.to_reissue()):
                    return None
                await self._changed.wait()
        return None

    def _checkpoint_due(self, step: int) -> bool:
        return step == self.settings.total_steps or (self.settings.save_steps > 0 and step % self.settings.save_steps == 0)

    def _snapshot(self) -> Snapshot:
        return Snapshot(self.window.steps_taken, self.prompts.cursor(), self.window.snapshot(), self.window.ready_groups())

    @property
    def _saved_last(self) -> bool:
        return self.window.steps_taken > 0 and self._checkpoint_due(self.window.steps_taken)

    async def _sync(self) -> None:
        """Start to broadcast the adapter; it overlaps the next step."""
        await self.adapter_sync.confirm()
        with self.learner_clock.busy():
            adapter = await self.learner.export_adapter()
        self.adapter_sync.begin(adapter, self._tasks)

    async def _report(self, record: StepRecord) -> None:
        """Log a step beside the next one, in order. Steps that a checkpoint covers are logged before it: a resumed run never misses a line."""
        await self._confirm_report()
        self._reporting = self._tasks.create_task(self.on_step(record))

    async def _confirm_report(self) -> None:
        if self._reporting is not None:
            await self._reporting
            self._reporting = None

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Find the first error that is not a group: the others are its consequences."""
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
