"""Adapters on their way to the engines, one at a time, beside the next step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cluster.loop.roles import Rollouts
from configs.contracts.records import AdapterRef, SyncReport


@dataclass(slots=True)
class AdapterSync:
    """Broadcasts of one run.

    Example::

        sync = AdapterSync(rollouts, on_new_adapter, on_confirmed)
        await sync.confirm()                # the broadcast before has ended
        sync.begin(adapter, tasks)          # returns at once
        sync.engine_version                 # the version before, until `on_new_adapter` has returned
        sync.take_report()                  # the report of a broadcast that has ended since the last call
    """

    rollouts: Rollouts
    on_new_adapter: Callable[[int], Awaitable[None]]
    on_confirmed: Callable[[], Awaitable[None]]
    """Called when the new version makes room in the window."""
    reports: list[SyncReport] = field(default_factory=list)
    _task: asyncio.Task[None] | None = None
    _held_version: int | None = None
    """The version before the one that is being broadcast, while it is."""
    _unreported: SyncReport | None = None

    @property
    def engine_version(self) -> int:
        """The version that training may sample with."""
        return self.rollouts.version if self._held_version is None else self._held_version

    def begin(self, adapter: AdapterRef, tasks: asyncio.TaskGroup) -> None:
        """Start to broadcast, as a task of the group. `confirm` the broadcast before it first."""
        self._task = tasks.create_task(self._broadcast(adapter))

    async def confirm(self) -> None:
        """Wait for the broadcast that is on its way, if one is."""
        if self._task is not None:
            await self._task
            self._task = None

    def take_report(self) -> SyncReport | None:
        """The report of the last broadcast, once."""
        report, self._unreported = self._unreported, None
        return report

    async def _broadcast(self, adapter: AdapterRef) -> None:
        # Hold the version before the engines change theirs: whatever wakes the feed meanwhile must not see the new one.
        self._held_version = self.rollouts.version
        try:
            report = await self.rollouts.broadcast(adapter)
            await self.on_new_adapter(report.version)
        finally:
            self._held_version = None
        self.reports.append(report)
        self._unreported = report
        await self.on_confirmed()
