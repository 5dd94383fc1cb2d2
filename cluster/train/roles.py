"""The processes of one GRPO run: made, started together, replaced, closed.

spawn rollout workers and learner ranks (they import while the driver goes on) ─► warm start, if there is one
    ─► engines, learner and graders load at once ─► adapter 0 ─► every engine
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.pool import RolloutPool
from cluster.output.display import RunDisplay
from cluster.placement import roles
from cluster.session import RaySession
from cluster.train.prepare import Prepared
from cluster.train.room import FIRST_WAIT_S, Room
from configs.contracts.tasks import gather_or_cancel
from configs.schema.run import RunConfig
from learner.grpo.learner import GrpoLearner
from rewards.pool import RewardPool

CANARY_TOKENS = 64
"""Most tokens of the sequence by which engines prove that they computed with a new adapter as the learner does."""

Close = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class RoleMaker:
    """Makes the roles of one run."""

    config: RunConfig
    prepared: Prepared
    session: RaySession
    log_dir: Path
    total_steps: int

    def spawn_rollouts(self) -> RolloutPool:
        options = self.session.placement().rollouts.ray_options()
        return RolloutPool.create(self.config, ray_options=options, log_dir=self.log_dir, run_name=self.session.namespace)

    def spawn_learner(self) -> GrpoLearner:
        return GrpoLearner.create(self.config, ray_options=roles(self.config).learners.ray_options(), log_dir=self.log_dir)

    async def respawn_learner(self, say: Callable[[str], None]) -> GrpoLearner:
        """Spawn the ranks again, and wait until they run."""
        return await self._room(self.config.cluster.lost_resources_wait_s, say).spawned(self.spawn_learner)

    async def await_learner(self, learner: GrpoLearner, say: Callable[[str], None]) -> None:
        """Wait until the ranks of the first group run. The cluster is large enough for them, but other work may have their room."""
        await self._room(FIRST_WAIT_S, say).started(learner)

    def _room(self, wait_s: float, say: Callable[[str], None]) -> Room:
        return Room(roles(self.config).learners, wait_s, self.session.shortage, say)

    async def start_rewards(self) -> RewardPool:
        return await RewardPool.start(self.config, ray_options=self.session.placement().rewards.ray_options(), log_dir=self.log_dir)

    async def load_learner(self, learner: GrpoLearner, resume_folder: Path | None) -> None:
        """Load the model in every rank, at a checkpoint where one is given."""
        await learner.start(
            self.prepared.model_path,
            total_steps=self.total_steps,
            canary_token_ids=self.prepared.canary_token_ids[:CANARY_TOKENS],
            resume_folder=resume_folder,
        )

    async def load_models(self, rollouts: RolloutPool, learner: GrpoLearner, resume_folder: Path | None) -> None:
        """Load learner and engines at once, unless the engines serve a model that the learner must write first."""
        prepared = self.prepared
        if prepared.needs_served_model:
            await self.load_learner(learner, resume_folder)
            await prepared.write_served_model(learner)
            await rollouts.start(prepared.served_path)
        else:
            await gather_or_cancel([rollouts.start(prepared.served_path), self.load_learner(learner, resume_folder)])


@dataclass
class Roles:
    """The started roles of a run."""

    rollouts: RolloutPool
    rewards: RewardPool
    learner: GrpoLearner
    _maker: RoleMaker
    _closing: list[Close]

    async def restore_learner(self, resume_folder: Path | None, say: Callable[[str], None]) -> None:
        """Make the learner group again, and give the engines its adapter, which may be older than theirs.

        Raises:
            PlacementError: the group's node is lost, and no other one has had room for it in time.
            LearnerError: the new group was lost too.
        """
        await self.learner.close()
        self.learner = await self._maker.respawn_learner(say)
        self._closing.append(self.learner.close)
        await self._maker.load_learner(self.learner, resume_folder)
        await self.rollouts.broadcast(await self.learner.export_adapter(), rewind=True)


@asynccontextmanager
async def started_roles(maker: RoleMaker, resume_folder: Path | None, display: RunDisplay) -> AsyncIterator[Roles]:
    """Start every role, and give the engines the learner's adapter. All are closed at the end, whatever happens."""
    closing: list[Close] = []
    try:
        rollouts = maker.spawn_rollouts()
        closing.append(rollouts.close)
        learner = maker.spawn_learner()
        closing.append(learner.close)
        if maker.prepared.needs_warm_start:
            with display.phase("supervised warm start"):
                await maker.await_learner(learner, display.say)
                await maker.prepared.run_warm_start(learner, display)
        with display.phase("starting engines, learner and graders"):
            grading = asyncio.ensure_future(_start_rewards(maker, closing))
            running = maker.await_learner(learner, display.say)
            await gather_or_cancel([running, maker.load_models(rollouts, learner, resume_folder), grading])
            await rollouts.broadcast(await learner.export_adapter())
        yield Roles(rollouts, grading.result(), learner, maker, closing)
    finally:
        await asyncio.gather(*(close() for close in closing), return_exceptions=True)


async def _start_rewards(maker: RoleMaker, closing: list[Close]) -> RewardPool:
    rewards = await maker.start_rewards()
    closing.append(rewards.close)
    return rewards
