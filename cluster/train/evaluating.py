"""Evaluations while a run trains: every so many steps the rollout workers of the run are asked other prompts as well.

    new adapter v ──► due? ──► asynchronous run: a task beside training. Its requests go to the same engines, a few at a time, and
                      │        it may span several policy versions; the range is reported
                      └──► synchronous run: nothing else is in flight. Training goes on when the evaluation has ended, and it
                           measured v alone

An evaluation changes nothing of training: its prompts are not drawn from the stream, no group of it enters the window, and it has its own
seeds and its own part of the prefix cache. Requests of a worker that is lost are sampled again, as rollouts are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.prompts.eval_sets import EvalSet
from cluster.evaluation.evaluate import evaluate, write_answers
from cluster.evaluation.measurement import Evaluation, metrics_of
from cluster.evaluation.plan import EvaluationPlan
from cluster.files.whole_files import write_whole
from cluster.loop.roles import Rewards, Rollouts
from cluster.output.sinks import MetricSinks
from configs.schema.run import RunConfig

EVAL_CAPACITY_FRACTION = 0.25
"""Fraction of the completions that the engines sample at a time which an evaluation beside training may take."""


@dataclass
class TrainingEvaluations:
    """The evaluations of one run, begun by `on_new_adapter`, the loop's hook.

    Args:
        folder: for `step-000050/<set>.parquet` and `summary.json`.
    """

    rollouts: Rollouts
    rewards: Rewards
    config: RunConfig
    sets: Sequence[EvalSet]
    folder: Path
    sinks: MetricSinks
    say: Callable[[str], None]
    _plan: EvaluationPlan = field(init=False)
    _running: asyncio.Task[None] | None = None
    _running_step: int = 0

    def __post_init__(self) -> None:
        plan = EvaluationPlan.of(self.config)
        self._plan = replace(plan, prompts_at_once=self._prompts_at_once(plan))

    async def on_new_adapter(self, version: int) -> None:
        """Evaluate the adapter that every engine has confirmed, if that is due. In a synchronous run, return when it is evaluated.

        Raises:
            RollcastError: also what ended an evaluation that began earlier.
        """
        if self._running is not None and self._running.done():
            await self._running_done()
        if not self._due(version):
            return
        if self._synchronous:
            await self._evaluate(version)
        else:
            self._begin(version)

    async def catch_up(self, step: int) -> None:
        """Make up for the evaluation of the step that a run is resumed from, where it was due and did not end."""
        if not self._summary(step).exists():
            await self.on_new_adapter(step)

    async def finish(self, step: int) -> None:
        """Wait for the evaluation that runs, and for that of the last step, where that is due and was left out."""
        await self._running_done()
        await self.catch_up(step)
        await self._running_done()

    async def cancel(self) -> None:
        """Give up the evaluation that runs; an error that has ended it already is ignored."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    async def _running_done(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running

    @property
    def _synchronous(self) -> bool:
        return self.config.cluster.max_staleness == 0

    def _due(self, step: int) -> bool:
        every = self.config.evaluation.steps
        return every > 0 and step > 0 and step % every == 0

    def _summary(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}" / "summary.json"

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
            answers = await evaluate(self.rollouts, self.rewards, asked, self._plan, step)
            with self._going_on():
                self.folder.mkdir(exist_ok=True)
                await asyncio.to_thread(write_answers, answers, self._summary(step).parent / f"{asked.name}.parquet")
            self.sinks.emit_evaluation(step, metrics_of(answers.evaluation))
            self.say(_told(step, answers.evaluation))
            found.append(answers.evaluation.model_dump(mode="json"))
        with self._going_on():
            write_whole(self._summary(step), json.dumps(found, indent=2) + "\n")

    def _going_on(self) -> AbstractContextManager[None]:
        return self.sinks.going_on(str(self.folder), "what that fails for is missing there")

    def _prompts_at_once(self, plan: EvaluationPlan) -> int | None:
        """Prompts in hand at a time beside training; None takes all together."""
        if self._synchronous:
            return None
        completions = self.config.actors.num_workers * self.config.actors.max_num_seqs * EVAL_CAPACITY_FRACTION
        return max(1, int(completions // plan.sampling.num_generations))


def _told(step: int, found: Evaluation) -> str:
    versions = "" if found.version == str(step) else f" (sampled by versions {found.version})"
    if found.accuracy is None:
        return f"evaluation after step {step}, {found.name}: {found.judge} can judge none of the {found.unjudged} prompts"
    interval = f" [{found.interval[0]:.3f}, {found.interval[1]:.3f}]" if found.interval else ""
    passed = "".join(f", pass@{k} {estimate.value:.3f}" for k, estimate in found.pass_at.items())
    voted = f", maj@{found.num_generations} {found.majority.value:.3f}" if found.majority else ""
    return f"evaluation after step {step}, {found.name}: {found.measure} {found.accuracy:.3f}{interval}{passed}{voted}{versions}"
