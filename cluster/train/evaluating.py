"""Evaluations while a run trains: the loop's rollout workers, which every so many steps are asked other prompts as well.

    broadcast of version v ──► due? ──► asynchronous run: a task beside training; requests go to the same engines, a few at a time, and
                                        what they measure may mix versions: it begins with v, and tells the last one
                                  └──► synchronous run: nothing is in flight; the loop sees v only when the evaluation has ended, and it
                                        measured v alone

An evaluation changes nothing of training: its prompts are not drawn from the stream, no group of it enters the window, its seeds and cached
prompts are its own. A worker that is lost with its requests is replaced, and they are sampled again, as rollouts are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.pool import RolloutPool
from actors.prompts.eval_sets import EvalSet
from cluster.evaluation.evaluate import evaluate, write_answers
from cluster.evaluation.measurement import Evaluation, metrics_of
from cluster.evaluation.plan import EvaluationPlan
from cluster.output.sinks import MetricSinks
from configs.contracts.records import AdapterRef, BodyRef, GroupSummary, RolloutRequest, SyncReport
from configs.schema.run import RunConfig
from rewards.pool import RewardPool

SHARE_OF_SEATS = 4
"""One in so many of the completions that the engines can sample at a time may be an evaluation's; training waits for the others."""


@dataclass
class EvaluatingRollouts:
    """`cluster.loop.loop.Rollouts` over a pool, which evaluates the adapters that are due.

    Args:
        folder: for `step-000050/<set>.parquet` and `summary.json`.
    """

    pool: RolloutPool
    rewards: RewardPool
    config: RunConfig
    sets: Sequence[EvalSet]
    folder: Path
    sinks: MetricSinks
    say: Callable[[str], None]
    _plan: EvaluationPlan = field(init=False)
    _running: asyncio.Task[None] | None = None
    _running_step: int = 0
    _version_before: int | None = None

    def __post_init__(self) -> None:
        plan = EvaluationPlan.of(self.config)
        self._plan = replace(plan, prompts_at_once=self._prompts_at_once(plan))

    @property
    def version(self) -> int:
        """The version that training may sample with: the one before while one is evaluated alone."""
        return self.pool.version if self._version_before is None else self._version_before

    def assign(self, requests: Sequence[RolloutRequest]) -> list[RolloutRequest]:
        return self.pool.assign(requests)

    async def rollout(self, request: RolloutRequest) -> tuple[GroupSummary, BodyRef]:
        return await self.pool.rollout(request)

    async def broadcast(self, adapter: AdapterRef) -> SyncReport:
        """Give every worker an adapter; in a synchronous run return when it is evaluated, if that is due.

        Raises:
            RollcastError: also what ended an evaluation since the broadcast before.
        """
        if self._running is not None and self._running.done():
            await self._running_done()
        if not self._due(adapter.version):
            return await self.pool.broadcast(adapter)
        if self._alone:
            return await self._broadcast_and_evaluate(adapter)
        report = await self.pool.broadcast(adapter)
        self._begin(adapter.version)
        return report

    async def catch_up(self, step: int) -> None:
        """Make up for the evaluation of the step that a run is resumed from, where it was due and did not end."""
        if self._due(step) and not self._summary(step).exists():
            if self._alone:
                await self._evaluate(step)
            else:
                self._begin(step)

    async def finish(self, step: int) -> None:
        """Wait for the evaluation that runs, and for that of the last step, where that is due and was left out."""
        await self._running_done()
        await self.catch_up(step)
        await self._running_done()

    async def cancel(self) -> None:
        """Give up the evaluation that runs; one that has failed already is not looked at."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    async def _running_done(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running

    @property
    def _alone(self) -> bool:
        return self.config.cluster.max_staleness == 0

    def _due(self, step: int) -> bool:
        every = self.config.evaluation.steps
        return every > 0 and step > 0 and step % every == 0

    def _summary(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}" / "summary.json"

    async def _broadcast_and_evaluate(self, adapter: AdapterRef) -> SyncReport:
        self._version_before = self.pool.version
        try:
            report = await self.pool.broadcast(adapter)
            await self._evaluate(adapter.version)
        finally:
            self._version_before = None
        return report

    def _begin(self, step: int) -> None:
        if self._running is not None and not self._running.done():
            self.say(
                f"the evaluation after step {step} is left out: that after step {self._running_step} still runs; raise evaluation.steps, or lower "
                "evaluation.max_prompts or num_generations"
            )
            return
        self._running, self._running_step = asyncio.create_task(self._evaluate(step)), step

    async def _evaluate(self, step: int) -> None:
        found = []
        for asked in self.sets:
            answers = await evaluate(self.pool, self.rewards, asked, self._plan, step)
            await asyncio.to_thread(write_answers, answers, self._summary(step).parent / f"{asked.name}.parquet")
            self.sinks.emit_evaluation(step, metrics_of(answers.evaluation))
            self.say(_told(step, answers.evaluation))
            found.append(answers.evaluation.model_dump(mode="json"))
        self._summary(step).write_text(json.dumps(found, indent=2) + "\n")

    def _prompts_at_once(self, plan: EvaluationPlan) -> int | None:
        if self._alone:
            return None
        actors = self.config.actors
        return max(1, actors.num_workers * actors.max_num_seqs // (SHARE_OF_SEATS * plan.sampling.num_generations))


def _told(step: int, found: Evaluation) -> str:
    versions = "" if found.version == str(step) else f" (sampled by versions {found.version})"
    if not found.prompts:
        return f"evaluation after step {step}, {found.name}: {found.judge} can judge none of the {found.unjudged} prompts"
    interval = f" [{found.interval[0]:.3f}, {found.interval[1]:.3f}]" if found.interval else ""
    passed = "".join(f", pass@{k} {estimate.value:.3f}" for k, estimate in found.pass_at.items())
    voted = f", maj@{found.num_generations} {found.majority.value:.3f}" if found.majority else ""
    return f"evaluation after step {step}, {found.name}: {found.judge} {found.accuracy:.3f}{interval}{passed}{voted}{versions}"
