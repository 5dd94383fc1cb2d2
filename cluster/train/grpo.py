"""`rollcast train`: the driver. Prepares the model and the data, starts the roles, runs the loop, and says what came of it.

    open the run directory ─► model and data ─► Ray, placement ─► roles start together ─► warm start (optional)
        ─► engines and learner load the model ─► adapter 0 ─► evaluate ─► loop ─► evaluate ─► final adapter, summary

Nothing heavy is imported here: torch, vllm and deepspeed live in the workers.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from collections.abc import Awaitable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actors.pool import RolloutPool
from actors.prompts.eval_sets import EvalSet
from cluster.evaluation.evaluate import evaluate
from cluster.evaluation.measurement import Evaluation
from cluster.evaluation.plan import EvaluationPlan
from cluster.loop.loop import LoopSettings, Snapshot, StepRecord, TrainLoop
from cluster.loop.step_metrics import Busy, RunTotals, run_summary, summary_lines
from cluster.loop.window import Window
from cluster.models.starting_adapter import with_starting_adapter
from cluster.output import checkpoint
from cluster.output.checkpoint import Commit
from cluster.output.completions import completion_rows, write_completions
from cluster.output.completions_table import chosen_rows
from cluster.output.display import RunDisplay
from cluster.output.run_dir import WHOLE, Resume, RunDirectory
from cluster.output.sinks import MetricSinks, truncate_metrics
from cluster.output.wandb_sink import require_wandb
from cluster.publish.background import HubUploads, open_hub
from cluster.publish.folder import run_card
from cluster.report import leave_report
from cluster.session import RaySession
from cluster.train.evaluating import EvaluatingRollouts
from cluster.train.prepare import Prepared, prepare, try_golds
from configs.contracts.errors import LearnerError, NonFiniteError, RollcastError, StoppedError
from configs.contracts.records import Sampling, ScoredGroup
from configs.loading import dump_config
from configs.schema.run import RunConfig
from learner.grpo.learner import LearnerGroup
from rewards import validate
from rewards.functions.registry import resolve
from rewards.pool import RewardPool

CANARY_TOKENS = 64
"""Most tokens of the sequence by which every sync is verified."""


def run_training(config: RunConfig, resume: Resume = "auto") -> dict[str, Any]:
    """Run the whole of a training; returns what `summary.json` holds.

    Raises:
        RollcastError: of the kind that says what failed; `summary.json` names it as the exit reason.
    """
    config = with_starting_adapter(config)
    require_wandb(config)
    repo_id = open_hub(config)
    with RunDirectory.open(config.out_dir, resume) as directory:
        display = RunDisplay(config.cluster.logging_steps)
        display.say(f"run directory: {directory.path}")
        commit = _commit_to_resume(config, directory, resume, display)
        directory.write("config.yaml", dump_config(config))
        summary: dict[str, Any] = {}
        try:
            rewards = resolve(config.rewards, config.actors.max_completion_length)
            validate(rewards)
            prepared = prepare(config, directory, display)
            for asked in (prepared.prompts.canary_prompt(), *(each.prompts[0] for each in prepared.eval_sets)):
                validate(rewards, asked.columns)
            try_golds(rewards, prepared.prompts, display)
            with RaySession(config, directory.logs, namespace=f"rollcast-{directory.path.name}") as session:
                session.placement()
                uploads = HubUploads.open(config, directory.path, repo_id, prepared.tokenizer, display.say)
                run = TrainingRun(config, directory, display, prepared, commit, session, uploads)
                summary = asyncio.run(run.run())
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            directory.write_summary({**summary, "exit_reason": f"failed: {reason}", "phase_s": display.seconds})
            leave_report(directory.path, display.say)
            if isinstance(error, RollcastError):
                display.say(f"logs of every process: {directory.logs}")
            raise
        return summary


def _commit_to_resume(config: RunConfig, directory: RunDirectory, resume: Resume, display: RunDisplay) -> Commit | None:
    if resume == "none":
        return None
    commit = checkpoint.read(resume) if isinstance(resume, Path) else checkpoint.newest(directory.checkpoints, display.say)
    if commit is not None:
        commit.require_same(config.model.identity)
        display.say(f"resuming from {commit.folder} (step {commit.step})")
    return commit


@dataclass
class TrainingRun:
    """One training from started Ray to written summary."""

    config: RunConfig
    directory: RunDirectory
    display: RunDisplay
    prepared: Prepared
    commit: Commit | None
    session: RaySession
    uploads: HubUploads | None
    totals: RunTotals = field(default_factory=RunTotals)
    sinks: MetricSinks = field(init=False)
    rollouts: RolloutPool = field(init=False)
    rewards: RewardPool = field(init=False)
    learner: LearnerGroup = field(init=False)
    evaluating: EvaluatingRollouts = field(init=False)
    total_steps: int = field(init=False)
    _first_cursor: dict[str, Any] = field(default_factory=dict)
    _loop: TrainLoop | None = None
    _stop_reason: str = ""
    _stopping: asyncio.Future[None] | None = None

    async def run(self) -> dict[str, Any]:
        """Start the roles, train, evaluate, write; everything that was started is closed again."""
        self._listen_for_signals()
        asyncio.get_running_loop().set_exception_handler(self._log_stray_error)
        self.sinks = MetricSinks.open(self.config, self.directory.path, self.display.say)
        self.total_steps = self._total_steps()
        try:
            self._first_cursor = self.prepared.prompts.cursor()
            await self._start_roles()
            self.evaluating = EvaluatingRollouts(
                self.rollouts,
                self.rewards,
                self.config,
                self.prepared.eval_sets,
                self.directory.path / "evaluations",
                self.sinks,
                self.display.say,
            )
            before = await self._evaluate("before")
            reason = await self._train()
            after = None
            if reason in WHOLE:
                await self.evaluating.finish(self._step)
                after = await self._evaluate("after")
            return await self._finish(reason, before, after)
        except asyncio.CancelledError:
            raise StoppedError(f"{self._stop_reason or 'cancelled'}: run the same command again to go on from the last commit") from None
        finally:
            await self._close_roles()
            if self.uploads is not None:
                await self.uploads.close()
            self.sinks.close(failed=sys.exc_info()[0] is not None)

    def _log_stray_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Errors of calls that nobody waits for any more, as to a worker that is being closed, belong into a log and not on the terminal."""
        with (self.directory.logs / "driver.log").open("a") as log:
            log.write(f"{context['message']}: {context.get('exception')!r}\n")

    def _total_steps(self) -> int:
        if self.config.learner.max_steps > 0:
            return self.config.learner.max_steps
        prompts = self.prepared.prompts.counts.trained
        steps = int(self.config.learner.num_train_epochs * prompts) // self.config.groups_per_step
        if steps == 0:
            raise RollcastError(
                f"{prompts} prompts make no step of {self.config.groups_per_step} prompts: lower learner.train_batch_size "
                "or set learner.max_steps"
            )
        return steps

    def _listen_for_signals(self) -> None:
        """The first SIGTERM or SIGINT ends the run after the running step, with a commit; the second at once."""
        loop, this = asyncio.get_running_loop(), asyncio.current_task()

        def stop(name: str) -> None:
            if self._stop_reason or self._loop is None:
                self._stop_reason = f"stopped by {name}"
                if this is not None:
                    this.cancel()
                return
            self._stop_reason = f"stopped by {name}"
            self.display.say(f"{name}: committing a checkpoint after the running step; a second {name} stops at once")
            self._stopping = asyncio.ensure_future(self._loop.stop(self._stop_reason))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)

    async def _start_roles(self) -> None:
        """Every process starts at once; the engines import while the warm start runs."""
        config, logs = self.config, self.directory.logs
        need = self.session.placement()
        self.rollouts = RolloutPool.create(config, ray_options=need.rollouts.ray_options(), log_dir=logs, run_name=self.session.namespace)
        self.learner = LearnerGroup.create(config, ray_options=need.learners.ray_options(), log_dir=logs)
        if self.prepared.needs_warm_start:
            with self.display.phase("supervised warm start"):
                await self.prepared.run_warm_start(self.learner, self.display)
        with self.display.phase("starting engines, learner and graders"):
            await _together(self._start_models(), self._start_rewards(need.rewards.ray_options()))
            await self.rollouts.broadcast(await self.learner.export_adapter())

    async def _start_models(self) -> None:
        """Learner and engines at once, unless the engines serve what the learner is still to make of the model."""
        if self.prepared.needs_served_model:
            await self._start_learner()
            await self.prepared.write_served_model(self.learner)
            await self.rollouts.start(self.prepared.served_path)
        else:
            await _together(self.rollouts.start(self.prepared.served_path), self._start_learner())

    async def _start_rewards(self, ray_options: dict[str, Any]) -> None:
        self.rewards = await RewardPool.start(self.config, ray_options=ray_options, log_dir=self.directory.logs)

    async def _start_learner(self) -> None:
        await self.learner.start(
            self.prepared.model_path,
            total_steps=self.total_steps,
            canary_token_ids=self.prepared.canary_token_ids[:CANARY_TOKENS],
            resume_folder=self.commit.learner_folder if self.commit else None,
        )

    async def _close_roles(self) -> None:
        if hasattr(self, "evaluating"):
            await self.evaluating.cancel()
        closing = [role.close() for name in ("rollouts", "rewards", "learner") if (role := getattr(self, name, None)) is not None]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _evaluate(self, when: str) -> Evaluation | None:
        """Held-out greedy accuracy under the current adapter, shown and kept; a resumed run keeps its first one."""
        file = self.directory.path / f"evaluation_{when}.json"
        prompts = self.prepared.prompts.eval_prompts()
        if not prompts:
            return None
        if when == "before" and self.commit is not None and file.exists():
            return Evaluation.model_validate_json(file.read_text())
        with self.display.phase(f"greedy evaluation {when} training on {len(prompts)} held-out prompts"):
            held_out, plan = EvalSet("held_out", prompts), EvaluationPlan.greedy(self.config)
            found = (await evaluate(self.rollouts, self.rewards, held_out, plan, self._step)).evaluation
        self.directory.write(file.name, found.model_dump_json())
        self.display.say(f"held-out accuracy {when} training: {found.accuracy:.3f}")
        return found

    @property
    def _step(self) -> int:
        return self._loop.window.steps_taken if self._loop else 0

    async def _train(self) -> str:
        """Run the loop; a learner group that is lost is made again from the last commit, a bounded number of times."""
        restarts = 0
        while True:
            self._loop = self._make_loop()
            self.totals.begin(await self._busy())
            try:
                with self.display.phase("training"), self.display.steps(self._step, self.total_steps):
                    await self.evaluating.catch_up(self._step)
                    return await self._loop.run()
            except NonFiniteError:
                raise
            except LearnerError as error:
                restarts += 1
                if restarts > self.config.cluster.max_learner_restarts:
                    raise
                await self._restore_learner(error, restarts)

    def _make_loop(self) -> TrainLoop:
        config = self.config
        window = Window(
            groups_per_step=config.groups_per_step,
            max_staleness=config.cluster.max_staleness,
            on_stale=config.cluster.on_stale,
            total_steps=self.total_steps,
            filter_zero_variance=config.learner.filter_zero_variance,
        )
        if self.commit is not None:
            window.restore(self.commit.state["window"], self._stored_groups(self.commit))
        self.prepared.prompts.restore(self.commit.state["cursor"] if self.commit else self._first_cursor)
        truncate_metrics(self.directory.path / "metrics.jsonl", self.commit.step if self.commit else 0)
        sampling = Sampling(
            num_generations=config.actors.num_generations,
            max_completion_length=config.actors.max_completion_length,
            temperature=config.actors.temperature,
            top_p=config.actors.top_p,
            top_k=config.actors.top_k,
        )
        settings = LoopSettings(self.total_steps, sampling, config.seed, config.cluster.sync_every_steps, config.cluster.save_steps)
        return TrainLoop(self.prepared.prompts, self.evaluating, self.rewards, self.learner, window, settings, self._on_step, self._commit)

    def _stored_groups(self, commit: Commit) -> list[ScoredGroup]:
        import ray

        stored = checkpoint.read_groups(commit.folder / "ready")
        return [ScoredGroup(ray.put(body), summary, scores) for summary, scores, body in stored]

    async def _restore_learner(self, error: LearnerError, restarts: int) -> None:
        self.display.say(
            f"{error.role}: {error.message}; making the learner group again ({restarts} of {self.config.cluster.max_learner_restarts})"
        )
        self.commit = checkpoint.newest(self.directory.checkpoints, self.display.say)
        await self.learner.close()
        self.learner = LearnerGroup.create(
            self.config, ray_options=self.session.placement().learners.ray_options(), log_dir=self.directory.logs
        )
        await self._start_learner()
        await self.rollouts.broadcast(await self.learner.export_adapter(), rewind=True)

    async def _busy(self) -> Busy:
        rollouts = {name: status.busy_s for name, status in (await self.rollouts.status()).items() if status is not None}
        return Busy(rollouts, self.rewards.status().busy_s)

    async def _on_step(self, record: StepRecord) -> None:
        assert self._loop is not None
        metrics = self.totals.step(record, await self._busy(), self._loop.window)
        self.sinks.emit(record.step, metrics)
        self.display.step(record.step, self.total_steps, metrics)
        logged = record.groups[: self.config.cluster.logged_groups_per_step]
        if logged:
            bodies = await asyncio.gather(*(_fetch(group.body) for group in logged))
            rows = completion_rows(record.step, logged, bodies, record.report.advantages)
            await asyncio.to_thread(write_completions, self.directory.path / "completions", record.step, rows)
            self._show_completions(record.step, rows)

    def _show_completions(self, step: int, rows: list[dict[str, Any]]) -> None:
        settings = self.config.cluster
        if not settings.log_completions or (step % settings.logging_steps and step != self.total_steps):
            return
        chosen = chosen_rows(rows, settings.num_completions_to_print, unique_prompts=settings.log_unique_prompts)
        self.display.completions(chosen)
        self.sinks.completions(step, chosen)

    async def _commit(self, snapshot: Snapshot) -> None:
        """Write one commit: the learner's state by its ranks, the rest here."""
        folder = checkpoint.begin(self.directory.checkpoints, snapshot.step)
        await self.learner.save(folder / "learner")
        bodies = await asyncio.gather(*(_fetch(group.body) for group in snapshot.ready))
        await asyncio.to_thread(checkpoint.write_groups, folder / "ready", snapshot.ready, bodies)
        state = {"step": snapshot.step, "cursor": snapshot.cursor, "window": snapshot.window, "identity": self.config.model.identity}
        final = await asyncio.to_thread(checkpoint.finish, folder, state, self.config.cluster.save_total_limit)
        if self.uploads is not None and snapshot.step < self.total_steps:
            self.uploads.after_save(snapshot.step, final / "learner" / "adapter")

    async def _finish(self, reason: str, before: Evaluation | None, after: Evaluation | None) -> dict[str, Any]:
        """Write the final adapter with its tokenizer and card, and the summary; say where they are."""
        assert self._loop is not None
        adapter = self.directory.path / "adapter"
        last = checkpoint.newest(self.directory.checkpoints, self.display.say)
        assert last is not None
        shutil.copytree(last.learner_folder / "adapter", adapter, dirs_exist_ok=True)
        self.prepared.tokenizer.save_pretrained(adapter)
        summary = {
            "accuracy_before": before.accuracy if before else None,
            "accuracy_after": after.accuracy if after else None,
            **run_summary(self.totals, self._loop),
            "exit_reason": reason,
            "phase_s": {name: round(seconds, 2) for name, seconds in self.display.seconds.items()},
            "rollout_workers_replaced": self.rollouts.restarts,
            "rewards": asdict(self.rewards.status()),
            "data": asdict(self.prepared.prompts.counts),
        }
        file = self.directory.write_summary(summary)
        (adapter / "README.md").write_text(run_card(self.directory.path, self.config))
        report = await asyncio.to_thread(leave_report, self.directory.path, self.display.say)
        self.sinks.summarise({name: summary[name] for name in ("accuracy_before", "accuracy_after") if summary[name] is not None})
        if self.uploads is not None:
            summary["hub"] = await self.uploads.finish(self._step, whole=reason in WHOLE)
            self.directory.write_summary(summary)
        self._say_summary(summary, file, report)
        return summary

    def _say_summary(self, summary: dict[str, Any], file: Path, report: Path | None) -> None:
        curves = f"; curves: tensorboard --logdir {file.parent / 'tensorboard'}" if "tensorboard" in self.config.cluster.report_to else ""
        left = [f"summary {file}; adapter {file.parent / 'adapter'}{curves}", *([f"report, for a browser: {report}"] if report else [])]
        for line in ("", *summary_lines(summary), *left):
            self.display.say(line)


async def _together(*parts: Awaitable[Any]) -> None:
    """Wait for all; the first failure cancels the others and is raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _fetch(body: Any) -> Any:
    return await body
