"""Room for a learner group. Other work may have it when the run starts; a group that is made again may have lost its node, and another may come.

spawn ─► ranks wait for room, or die with the lost node (spawn again) ─► all ranks run
              └─ every 30 s: what is missing                  └─ nothing after `cluster.lost_resources_wait_s`: PlacementError
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cluster.placement import Role
from configs.contracts.errors import LearnerError, PlacementError

SAY_EVERY_S = 30.0
FIRST_WAIT_S = 900.0
"""Limit on the first search of a run, when the ranks read their libraries from cold disks: as long as rollout workers have by default."""
SPAWN_AGAIN_S = 2.0
"""Pause after ranks that died at once: Ray places them on a lost node until it knows of the loss."""


class Group(Protocol):
    """A learner group. Its ranks need room before they have process ids."""

    async def worker_pids(self) -> list[int]: ...

    async def close(self) -> None: ...


AnyGroup = TypeVar("AnyGroup", bound=Group)


@dataclass
class Room:
    """One search for room.

    Args:
        role: what the learner's ranks ask for.
        wait_s: limit on the search.
        shortage: says what the cluster lacks at this moment, or nothing where it has enough.
    """

    role: Role
    wait_s: float
    shortage: Callable[[], str]
    say: Callable[[str], None]
    _began_s: float = field(default_factory=time.monotonic)

    async def spawned(self, spawn: Callable[[], AnyGroup]) -> AnyGroup:
        """Spawn a group, and return it when its ranks run. They are spawned again if they die before that.

        Raises:
            PlacementError: the cluster had no room in all that time.
            LearnerError: it had room, and the ranks died all the same.
        """
        while True:
            group = spawn()
            try:
                await self.started(group)
                return group
            except LearnerError:
                if self._left_s <= 0 and not self.shortage():
                    raise
            except BaseException:
                await group.close()
                raise
            await asyncio.sleep(SPAWN_AGAIN_S)

    @property
    def _left_s(self) -> float:
        return self._began_s + self.wait_s - time.monotonic()

    async def started(self, group: Group) -> None:
        """Wait until the ranks of this group run, and say every `SAY_EVERY_S` what is missing.

        Raises:
            PlacementError: the cluster had no room in all that time.
            LearnerError: a rank died.
        """
        starting = asyncio.ensure_future(group.worker_pids())
        try:
            while not (await asyncio.wait({starting}, timeout=max(0.0, min(SAY_EVERY_S, self._left_s))))[0]:
                if self._left_s <= 0:
                    raise PlacementError(f"{self._missing()}; cluster.lost_resources_wait_s {self.wait_s:g} is over")
                self.say(f"waiting for room for the learner, {self._left_s:.0f} s more at most: {self._missing()}")
            await starting
        finally:
            starting.cancel()

    def _missing(self) -> str:
        asked = f"the learner asks for {self.role.count} x ({self.role.gpus:g} GPUs, {self.role.cpus:g} CPU cores)"
        return f"{asked}: {self.shortage() or 'the cluster is large enough, but other processes have its room'}"
