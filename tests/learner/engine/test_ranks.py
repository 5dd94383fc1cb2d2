"""Ranks that hang, as real processes without a model: the group ends, stopped processes too, and the error names the rank."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import ray

from configs.contracts.errors import LearnerError
from learner.engine.processes import RankProcess
from learner.engine.ranks import Ranks
from learner.engine.watchdog import CallLimits

STOPPED_S = 2.0


class Still:
    """A rank whose step never ends, as that of a rank that waits for another."""

    def where(self) -> RankProcess:
        return RankProcess.here()

    def step(self) -> None:
        time.sleep(3600.0)


@pytest.mark.usefixtures("ray_local")
def test_a_stopped_rank_ends_the_group_and_is_named(tmp_path: Path) -> None:
    async def scene() -> list[int]:
        actor = ray.remote(Still).options(num_cpus=0.1)
        ranks = Ranks([actor.remote(), actor.remote()], tmp_path, CallLimits(), STOPPED_S)
        pids = [each.pid for each in await ranks.processes()]
        os.kill(pids[1], signal.SIGSTOP)
        try:
            with pytest.raises(LearnerError, match=r"learner rank 1: the process was stopped for 2 s \(learner.process_group_timeout_s\)"):
                await asyncio.wait_for(ranks.everywhere(Still.step), 60)
        finally:
            await ranks.close()
        with pytest.raises(LearnerError, match="were closed"):
            await ranks.everywhere(Still.step)
        return pids

    pids = asyncio.run(scene())
    deadline = time.monotonic() + 20
    while (left := [pid for pid in pids if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, "SIGKILL ends a stopped process too"
