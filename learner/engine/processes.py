"""The processes of the ranks as their operating systems see them: which are stopped, and their end.

A stopped process answers nothing, not even Ray, so its state is read from outside: here for this node, by a small task on every other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

REMOTE_WITHIN_S = 30.0
"""Limit on a task on another node. A node that does not answer says nothing about its processes."""

CLOCK_S = 2.0
"""Tolerance of times of creation: they shift when the clock of the node is set."""

HALTED = frozenset({psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs. The time of its creation tells it from a later process with the same number."""

    pid: int
    created_s: float
    node_id: str

    @classmethod
    def here(cls) -> Place:
        """This process."""
        return cls(os.getpid(), psutil.Process().create_time(), ray.get_runtime_context().get_node_id())


async def stopped(places: Sequence[Place]) -> set[Place]:
    """Find those that a signal or a debugger holds: SIGSTOP, SIGTSTP."""
    nodes = {place.node_id for place in places}
    return set[Place]().union(
        *await asyncio.gather(*(_stopped_on(node, [place for place in places if place.node_id == node]) for node in nodes))
    )


def kill_here(places: Sequence[Place]) -> None:
    """End this node's processes with SIGKILL, which a stopped process obeys too. Ray does so on every node, but takes seconds."""
    for place in places:
        if place.node_id == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(psutil.NoSuchProcess):
                _process(place).kill()


async def _stopped_on(node_id: str, places: list[Place]) -> set[Place]:
    if node_id == ray.get_runtime_context().get_node_id():
        return _stopped(places)
    affinity = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    there = ray.remote(_stopped).options(num_cpus=0, max_retries=0, scheduling_strategy=affinity)
    with contextlib.suppress(TimeoutError, RayError):
        async with asyncio.timeout(REMOTE_WITHIN_S):
            return await there.remote(places)
    return set()


def _stopped(places: list[Place]) -> set[Place]:
    found = set[Place]()
    for place in places:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if _process(place).status() in HALTED:
                found.add(place)
    return found


def _process(place: Place) -> psutil.Process:
    """Find the process of a rank. Raises NoSuchProcess where it has ended, also if another one has its number now."""
    process = psutil.Process(place.pid)
    if abs(process.create_time() - place.created_s) > CLOCK_S:
        raise psutil.NoSuchProcess(place.pid)
    return process
