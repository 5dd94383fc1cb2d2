"""The processes of the ranks as their operating systems see them: which are stopped, and their end.

A stopped process answers nothing, not even Ray, so its state is read from outside: here for this node, by a small task on every other.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterable, Sequence
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
class RankProcess:
    """The process of a rank. Its time of creation tells it from a later process with the same number."""

    pid: int
    created_s: float
    node_id: str

    @classmethod
    def here(cls) -> RankProcess:
        """This process."""
        return cls(os.getpid(), psutil.Process().create_time(), ray.get_runtime_context().get_node_id())


async def stopped_among(processes: Sequence[RankProcess]) -> set[RankProcess]:
    """Find those that a signal or a debugger holds: SIGSTOP, SIGTSTP."""
    nodes = {each.node_id for each in processes}
    return set[RankProcess]().union(
        *await asyncio.gather(*(_stopped_on(node, [each for each in processes if each.node_id == node]) for node in nodes))
    )


def stopped_here(processes: Sequence[RankProcess]) -> set[RankProcess]:
    """Find this node's processes that a signal or a debugger holds."""
    return _stopped([each for each in processes if each.node_id == ray.get_runtime_context().get_node_id()])


def kill_here(processes: Iterable[RankProcess]) -> None:
    """End this node's processes with SIGKILL, which a stopped process obeys too. Ray does so on every node, but takes seconds."""
    for each in processes:
        if each.node_id == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(psutil.NoSuchProcess):
                _process(each).kill()


async def _stopped_on(node_id: str, processes: list[RankProcess]) -> set[RankProcess]:
    if node_id == ray.get_runtime_context().get_node_id():
        return _stopped(processes)
    affinity = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    there = ray.remote(_stopped).options(num_cpus=0, max_retries=0, scheduling_strategy=affinity)
    with contextlib.suppress(TimeoutError, RayError):
        async with asyncio.timeout(REMOTE_WITHIN_S):
            return await there.remote(processes)
    return set()


def _stopped(processes: list[RankProcess]) -> set[RankProcess]:
    found = set[RankProcess]()
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if _process(each).status() in HALTED:
                found.add(each)
    return found


def _process(each: RankProcess) -> psutil.Process:
    """Find the process of a rank. Raises NoSuchProcess where it has ended, also if another one has its number now."""
    process = psutil.Process(each.pid)
    if abs(process.create_time() - each.created_s) > CLOCK_S:
        raise psutil.NoSuchProcess(each.pid)
    return process
