"""Rollout and reward workers without a learner, for commands that sample and score but do not train.

with RaySession(config, logs, namespace="evaluate", learner=False) as session:
    asyncio.run(main(session.placement()))

async with serving(config, model_path, placement, log_dir=logs, run_name="evaluate") as served:
    await served.install(None)                      # the base model
    summary, body = await served.rollouts.rollout(request)
    scores = await served.rewards.score(body, summary, step=0)
    await served.install(Path("runs/x/adapter"))    # the same engines, from now on with this adapter
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.pool import RolloutPool
from cluster.models.peft_folders import read_adapter, zero_adapter
from cluster.placement import Placement
from configs.contracts.records import AdapterRef, SyncReport
from configs.schema.run import RunConfig
from rewards.pool import RewardPool


@dataclass
class Serving:
    """Started rollout and reward workers. Call `install` before sampling."""

    config: RunConfig
    model_path: str
    rollouts: RolloutPool
    rewards: RewardPool
    _installed: int = 0

    async def install(self, adapter: Path | None) -> SyncReport:
        """Load the adapter of a PEFT folder into the engines, or the base model for None, as the next policy version (from 0).

        Completions that are being sampled go on with the new weights; await them first if they must not.

        Raises:
            ConfigError: the adapter is for another base model, or cannot be served.
            AdapterError: the adapter's values are not finite.
            RolloutError: no worker is left.
        """
        import ray

        version = self._installed
        found = zero_adapter(self.config, self.model_path, version) if adapter is None else read_adapter(self.config, adapter, version)
        self._installed += 1
        return await self.rollouts.broadcast(AdapterRef(found.manifest, ray.put(found.buffer)))


@asynccontextmanager
async def serving(config: RunConfig, model_path: str, placement: Placement, *, log_dir: Path, run_name: str) -> AsyncIterator[Serving]:
    """Start the workers of a run except its learner, and close them at the end, whatever happens.

    Args:
        config: the run's settings, from `able_to_serve` for the adapters that will be installed.
        model_path: the base model that the engines load.
        placement: the processes of the run; learners in it are ignored.
        log_dir: folder for the workers' logs.
        run_name: unique among the runs on a node.

    Raises:
        RolloutError: no engine could start.
        RewardError: a reward cannot be loaded.
        ConfigError: a reward's name or parameter is wrong.
    """
    rollouts = RolloutPool.create(config, ray_options=placement.rollouts.ray_options(), log_dir=log_dir, run_name=run_name)
    grading = asyncio.ensure_future(RewardPool.start(config, ray_options=placement.rewards.ray_options(), log_dir=log_dir))
    try:
        await asyncio.gather(rollouts.start(model_path), grading)
        yield Serving(config, model_path, rollouts, grading.result())
    finally:
        await asyncio.gather(rollouts.close(), _close_when_started(grading), return_exceptions=True)


async def _close_when_started(grading: asyncio.Future[RewardPool]) -> None:
    """Close the reward pool. If it is still starting, the cancellation makes it close itself; a started pool ignores that, and is closed here."""
    grading.cancel()
    rewards = await grading
    await rewards.close()
