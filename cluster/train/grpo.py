"""`rollcast train`: the driver of a GRPO run.

    open the run directory ─► model and data ─► Ray, placement ─► roles start together ─► evaluate
        ─► loop (restarted from the newest checkpoint when the learner is lost) ─► evaluate ─► adapter, summary, report

Nothing heavy is imported here: torch, vllm and deepspeed live in the workers.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NotRequired

from actors.prompts.eval_sets import EvalSet
from cluster.evaluation.evaluate import evaluate, read_evaluation
from cluster.evaluation.measurement import Evaluation
from cluster.evaluation.plan import EvaluationPlan
from cluster.inspection.first_checks import refuse_first, steps_of
from cluster.inspection.unused import unused_by_run
from cluster.loop.loop import Snapshot, StepRecord, TrainLoop
from cluster.loop.reward_watch import RewardWatch
from cluster.loop.roles import Cursor
from cluster.loop.step_metrics import Busy, RunSummary, RunTotals, run_summary, summary_lines
from cluster.models.base_record import BaseRecord, write_record
from cluster.models.starting_adapter import with_starting_adapter
from cluster.output import checkpoint
from cluster.output.checkpoint import Checkpoint
from cluster.output.completions import CompletionRow, completion_rows, write_completions
from cluster.output.display import RunDisplay, shown_of_rewards
from cluster.output.run_dir import COMPLETED_REASONS, NOTHING_LEARNED, Resume
from cluster.output.sampled_texts import chosen_rows
from cluster.output.sinks import MetricSinks
from cluster.output.wandb_sink import require_wandb
from cluster.publish.background import HubSummary, HubUploads, open_hub
from cluster.publish.folder import run_card
from cluster.train.driver import (
    FinishedStep,
    OpenRun,
    Restarts,
    StepCallback,
    call_back,
    open_run,
    require_base_of,
    stop_on_signals,
)
from cluster.train.evaluating import TrainingEvaluations
from cluster.train.held_out import held_out_summary
from cluster.train.loop_settings import loop_settings, make_window
from cluster.train.prepare import Prepared, prepare, try_golds
from cluster.train.roles import RoleMaker, Roles, started_roles
from configs.contracts.records import ScoredGroup
from configs.schema.run import RunConfig
from rewards import validate
from rewards.grading.trial import Needs, require_columns, shadowed_columns


class TrainingSummary(RunSummary):
    """`summary.json` of a training."""

    phase_s: dict[str, float]
    rollout_workers_replaced: int
    rewards: dict[str, object]
    """The counters of the reward pool (`RewardPoolStatus`)."""
    data: dict[str, object]
    """The counts of the prompts (`PromptCounts`)."""
    hub: NotRequired[HubSummary]
    """The pushes to the hub, where the run is pushed."""


def run_training(config: RunConfig, resume: Resume = "auto", callbacks: Sequence[StepCallback] = ()) -> TrainingSummary:
    """Run a whole training and return what `summary.json` holds.

    Args:
        callbacks: called with every finished step.

    Raises:
        RollcastError: of the kind that says what failed; `summary.json` names it as the exit reason.
    """
    needs = refuse_first(config, print)
    config = with_starting_adapter(config)
    require_wandb(config)
    repo_id = open_hub(config)
    shown = shown_of_rewards([spec.label for spec in config.rewards.functions])
    with open_run(config, resume, RunDisplay(config.cluster.logging_steps, shown)) as run:
        found = run.checkpoint_to_resume(config.model.identity)
        run.begin()
        prepared = _prepared(run, needs)
        steps = steps_of(config, prepared.prompts.counts.trained)
        require_base_of(found, prepared.base_to_train, prepared.served_path, run.display.say)
        run.make_head(found, steps)
        with run.session() as session:
            session.placement()
            uploads = HubUploads.open(config, run.directory.path, repo_id, prepared.tokenizer, run.display.say)
            maker = RoleMaker(config, prepared, session, run.directory.logs, steps)
            return asyncio.run(session.watched(_train(run, maker, found, uploads, callbacks)))


def _prepared(run: OpenRun[RunConfig], needs: Needs) -> Prepared:
    """Model and data, and rewards that are known to find the columns that they read."""
    rewards = run.config.rewards_resolved
    prepared = prepare(run.config, run.directory, run.display)
    columns = prepared.prompts.canary_prompt().columns
    require_columns(needs, columns)
    run.display.say_all([f"WARNING: {sentence}" for sentence in shadowed_columns(columns)])
    unused, notice = unused_by_run(run.config, prepared.prompts, needs)
    run.display.say_all([*(f"WARNING: {sentence}" for sentence in unused), *([notice] if notice else [])])
    validate(rewards, columns)  # `open_sets` has checked the data sets of evaluations
    try_golds(rewards, prepared.prompts, run.display)
    return prepared


async def _train(
    run: OpenRun[RunConfig], maker: RoleMaker, found: Checkpoint | None, uploads: HubUploads | None, callbacks: Sequence[StepCallback]
) -> TrainingSummary:
    """Start the roles, train, evaluate, write; everything that was started is closed again."""
    asyncio.get_running_loop().set_exception_handler(run.log_stray_error)
    first_cursor = maker.prepared.prompts.cursor()
    resume_folder = found.learner_folder if found else None
    with stop_on_signals(run.display.say) as signals, MetricSinks.open(run.config, run.directory.path, run.display.say) as sinks:
        async with (
            _closing(uploads),
            started_roles(maker, resume_folder, run.display) as roles,
            _evaluations(run, maker.prepared, roles, sinks) as evaluations,
        ):
            with run.display.phase("reading the weights of the base, to know it again"):
                record = await asyncio.to_thread(maker.prepared.base_record)
            training = TrainingRun(run, maker, roles, evaluations, sinks, uploads, callbacks, record, found)
            signals.end_after_step, run.so_far = training.end_after_step, training.so_far
            return await training.run_to_end(first_cursor)


@asynccontextmanager
async def _closing(uploads: HubUploads | None) -> AsyncIterator[None]:
    try:
        yield
    finally:
        if uploads is not None:
            await uploads.close()


@asynccontextmanager
async def _evaluations(run: OpenRun[RunConfig], prepared: Prepared, roles: Roles, sinks: MetricSinks) -> AsyncIterator[TrainingEvaluations]:
    folder = run.directory.path / "evaluations"
    evaluations = TrainingEvaluations(roles.rollouts, roles.rewards, run.config, prepared.eval_sets, folder, sinks, run.display.say)
    try:
        yield evaluations
    finally:
        await evaluations.cancel()


@dataclass
class TrainingRun:
    """One training, from started roles to the written summary."""

    run: OpenRun[RunConfig]
    maker: RoleMaker
    roles: Roles
    evaluations: TrainingEvaluations
    sinks: MetricSinks
    uploads: HubUploads | None
    callbacks: Sequence[StepCallback]
    base_record: BaseRecord
    """Written into every adapter that the run saves."""
    checkpoint: Checkpoint | None
    """The one that the run goes on from."""
    totals: RunTotals = field(default_factory=RunTotals)
    watch: RewardWatch = field(init=False)
    loop: TrainLoop | None = None
    """The loop that runs; a restart makes another, and there is none while the learner is restored."""
    stop_reason: str = ""
    before: Evaluation | None = None
    """The evaluation before training."""

    def __post_init__(self) -> None:
        self.watch = RewardWatch(self.run.config.groups_per_step, self.run.config.learner.mask_truncated_completions)

    async def run_to_end(self, first_cursor: Cursor) -> TrainingSummary:
        """Evaluate, train, evaluate, write; returns the summary.

        Args:
            first_cursor: where the prompts begin, for a restart before the first checkpoint.
        """
        config, say = self.run.config, self.run.display.say
        self.before = await self._evaluate("before", self.checkpoint.step if self.checkpoint else 0)
        restarts = Restarts(config.cluster.max_learner_restarts, self._restore_learner, lambda: self.stop_reason, say)
        reason = await restarts.through(lambda: self._train(first_cursor))
        after = None
        if reason in COMPLETED_REASONS:
            reason = NOTHING_LEARNED if self.watch.nothing_learned() else reason
            await self.evaluations.finish(self._running_loop.window.steps_taken)
            after = await self._evaluate("after", self._running_loop.window.steps_taken)
        return await self._finish(reason, after)

    def end_after_step(self, reason: str) -> bool:
        """Ask the loop to end after the running step; False where none runs."""
        if self.loop is not None:
            self.stop_reason = reason
            self.loop.stop(reason)
        return self.loop is not None

    @property
    def _running_loop(self) -> TrainLoop:
        assert self.loop is not None, "the loop is made before it is asked"
        return self.loop

    async def _evaluate(self, when: str, step: int) -> Evaluation | None:
        """Measure the held-out prompts greedily under the current adapter; a resumed run keeps its first measurement."""
        directory, display = self.run.directory, self.run.display
        file = directory.path / f"evaluation_{when}.json"
        prompts = self.maker.prepared.prompts.eval_prompts()
        if not prompts:
            return None
        if when == "before" and self.checkpoint is not None and (kept := read_evaluation(file, display.say)) is not None:
            return kept
        with display.phase(f"greedy evaluation {when} training on {len(prompts)} held-out prompts"):
            held_out, plan = EvalSet("held_out", prompts), EvaluationPlan.greedy(self.run.config)
            found = (await evaluate(self.roles.rollouts, self.roles.rewards, held_out, plan, step)).evaluation
        with self.sinks.going_on(file.name, "a resumed run measures again"):
            directory.write(file.name, found.model_dump_json())
        value = f"- ({found.judge} can judge none of the {found.unjudged} prompts)" if found.accuracy is None else f"{found.accuracy:.3f}"
        display.say(f"held-out {found.measure} {when} training: {value}")
        return found

    async def _train(self, first_cursor: Cursor) -> str:
        """Run the loop from the checkpoint, or from the beginning; returns the reason for which it ended."""
        display = self.run.display
        self.loop = self._make_loop(first_cursor)
        step = self.loop.window.steps_taken
        self.totals.begin(await self._busy())
        with display.phase("training"), display.steps(step, self.maker.total_steps):
            await self.evaluations.catch_up(step)
            return await self.loop.run()

    def _make_loop(self, first_cursor: Cursor) -> TrainLoop:
        config, found, prompts = self.run.config, self.checkpoint, self.maker.prepared.prompts
        window = make_window(config, self.maker.total_steps)
        if found is not None:
            window.restore(found.state["window"], _stored_groups(found))
        self.watch.restore(found.state.get("lessons") if found else {})
        prompts.restore(found.state["cursor"] if found else first_cursor)
        self.sinks.rewind(found.step if found else 0)
        return TrainLoop(
            prompts=prompts,
            rollouts=self.roles.rollouts,
            rewards=self.roles.rewards,
            learner=self.roles.learner,
            window=window,
            settings=loop_settings(config, self.maker.total_steps),
            on_step=self._on_step,
            on_new_adapter=self.evaluations.on_new_adapter,
            save_checkpoint=self._save_checkpoint,
            on_filtered=lambda group: self.run.display.say_all(self.watch.filter(group)),
        )

    async def _restore_learner(self) -> None:
        self.loop = None
        self.checkpoint, prepared = self.run.newest_checkpoint() or self.checkpoint, self.maker.prepared
        require_base_of(self.checkpoint, prepared.base_to_train, prepared.served_path, self.run.display.say)
        await self.roles.restore_learner(self.checkpoint.learner_folder if self.checkpoint else None, self.run.display.say)

    async def _busy(self) -> Busy:
        statuses = await self.roles.rollouts.status()
        rollouts_s = {name: status.busy_s for name, status in statuses.items() if status is not None}
        return Busy(rollouts_s, self.roles.rewards.status().busy_s)

    async def _on_step(self, record: StepRecord) -> None:
        """Log one finished step to every sink, and show it to the callbacks."""
        loop, steps = self._running_loop, self.maker.total_steps
        metrics = self.totals.step(record, await self._busy(), loop.window)
        self.sinks.emit(record.step, metrics)
        self.run.display.step(record.step, steps, metrics)
        self.run.display.say_all(self.watch.trained(record.step, record.groups, skipped=record.report.skipped))
        logged = record.groups[: self.run.config.cluster.logged_groups_per_step]
        if logged:
            await self._log_completions(record, logged)
        call_back(self.callbacks, FinishedStep(self.run.directory.path, record.step, steps, metrics, loop.stop))

    async def _log_completions(self, record: StepRecord, logged: Sequence[ScoredGroup]) -> None:
        folder = self.run.directory.path / "completions"
        with self.sinks.going_on(str(folder), "steps in which that fails are missing there"):
            bodies = await asyncio.gather(*(group.body for group in logged))
            rows = completion_rows(record.step, logged, bodies, record.report.advantages)
            self._show_completions(record.step, rows)
            await asyncio.to_thread(write_completions, folder, record.step, rows)

    def _show_completions(self, step: int, rows: list[CompletionRow]) -> None:
        settings = self.run.config.cluster
        if not settings.log_completions or (step % settings.logging_steps and step != self.maker.total_steps):
            return
        chosen = chosen_rows(rows, settings.num_completions_to_print, unique_prompts=settings.log_unique_prompts)
        self.run.display.completions(chosen)
        self.sinks.completions(step, chosen)

    async def _save_checkpoint(self, snapshot: Snapshot) -> None:
        """Write one checkpoint: the learner's state by its ranks, the rest here."""
        config, directory = self.run.config, self.run.directory
        with checkpoint.writing(directory.checkpoints, snapshot.step) as folder:
            await self.roles.learner.save(folder / "learner")
            await asyncio.to_thread(write_record, folder / "learner" / "adapter", self.base_record)
            bodies = await asyncio.gather(*(group.body for group in snapshot.ready))
            await asyncio.to_thread(checkpoint.write_groups, folder / "ready", snapshot.ready, bodies)
            state = {"step": snapshot.step, "cursor": snapshot.cursor, "window": snapshot.window, "identity": config.model.identity}
            state["lessons"] = self.watch.snapshot()
            final = await asyncio.to_thread(checkpoint.finish, folder, state, config.cluster.save_total_limit)
        if self.uploads is not None and snapshot.step < self.maker.total_steps:
            self.uploads.after_save(snapshot.step, final / "learner" / "adapter")

    async def _finish(self, reason: str, after: Evaluation | None) -> TrainingSummary:
        """Write the final adapter with its tokenizer and card, the summary and the report; push them where asked."""
        run = self.run
        adapter = run.directory.path / "adapter"
        summary = self._summary(reason, after)
        with run.writing_result(adapter):
            self._write_adapter(adapter)
            file = run.leave_summary(summary)
            (adapter / "README.md").write_text(run_card(run.directory.path, run.config))
        report = await run.write_report()
        held_out = {name: summary[name] for name in ("accuracy_before", "accuracy_after", "reward_before", "reward_after")}
        self.sinks.summarise({name: value for name, value in held_out.items() if value is not None})
        if self.uploads is not None:
            whole = reason in COMPLETED_REASONS
            summary["hub"] = await self.uploads.finish(self._running_loop.window.steps_taken, whole=whole)
            run.leave_summary(summary)
        self._say_summary(summary, file, report)
        return summary

    def _write_adapter(self, folder: Path) -> None:
        """Copy the adapter of the last checkpoint, with the tokenizer."""
        last = self.run.newest_checkpoint()
        assert last is not None, "the loop ends with a checkpoint"
        shutil.copytree(last.learner_folder / "adapter", folder, dirs_exist_ok=True)
        self.maker.prepared.tokenizer.save_pretrained(folder)

    def so_far(self) -> Mapping[str, object]:
        """The summary of a run that fails."""
        steps = self.checkpoint.step if self.checkpoint else 0
        return self._summary("", None) if self.loop else {"steps": steps, **held_out_summary(self.before, None)}

    def _summary(self, reason: str, after: Evaluation | None) -> TrainingSummary:
        return {
            **held_out_summary(self.before, after),
            **run_summary(self.totals, self._running_loop),
            "exit_reason": reason,
            "nothing_learned": self.watch.nothing_learned(),
            "phase_s": self.run.phase_s,
            "rollout_workers_replaced": self.roles.rollouts.restarts,
            "rewards": asdict(self.roles.rewards.status()),
            "data": asdict(self.maker.prepared.prompts.counts),
        }

    def _say_summary(self, summary: TrainingSummary, file: Path, report: Path | None) -> None:
        tensorboard = "tensorboard" in self.run.config.cluster.report_to
        curves = f"; curves: tensorboard --logdir {file.parent / 'tensorboard'}" if tensorboard else ""
        left = [f"summary {file}; adapter {file.parent / 'adapter'}{curves}", *([f"report, for a browser: {report}"] if report else [])]
        for line in ("", *summary_lines(summary), *left):
            self.run.display.say(line)


def _stored_groups(found: Checkpoint) -> list[ScoredGroup]:
    import ray

    return [ScoredGroup(ray.put(body), summary, scores) for summary, scores, body in checkpoint.read_groups(found.folder / "ready")]
