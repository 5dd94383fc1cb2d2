"""The state of the ranks' processes, read from outside. Plain sleeping processes stand for ranks, and a fixed name for this node: no Ray."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest

from learner.engine.processes import RankProcess, kill_here, stopped_among

HERE = "this node"


@pytest.fixture
def sleeping(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RankProcess]]:
    """Two processes of this node."""
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: HERE))
    children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(2)]
    yield [RankProcess(child.pid, psutil.Process(child.pid).create_time(), HERE) for child in children]
    for child in children:
        child.kill()
        child.wait()


async def stopped_soon(processes: list[RankProcess]) -> set[RankProcess]:
    deadline = time.monotonic() + 20
    while not (found := await stopped_among(processes)) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return found


async def test_a_stopped_process_is_found_and_ended(sleeping: list[RankProcess]) -> None:
    assert await stopped_among(sleeping) == set()
    psutil.Process(sleeping[1].pid).send_signal(signal.SIGSTOP)
    assert await stopped_soon(sleeping) == {sleeping[1]}
    kill_here(sleeping)
    ended = [psutil.Process(each.pid) for each in sleeping]
    assert len(psutil.wait_procs(ended, timeout=20)[0]) == 2


async def test_a_later_process_with_the_same_number_is_neither_found_nor_ended(sleeping: list[RankProcess]) -> None:
    psutil.Process(sleeping[0].pid).send_signal(signal.SIGSTOP)
    assert await stopped_soon(sleeping) == {sleeping[0]}
    earlier = replace(sleeping[0], created_s=sleeping[0].created_s - 60)
    assert await stopped_among([earlier]) == set()
    kill_here([earlier, replace(sleeping[1], node_id="another node")])
    assert all(psutil.pid_exists(each.pid) and psutil.Process(each.pid).status() != psutil.STATUS_ZOMBIE for each in sleeping)
