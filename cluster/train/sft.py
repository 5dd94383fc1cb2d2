"""`rollcast sft`: supervised fine-tuning on the learner group alone.

    open the run directory ─► model, tokens on disk ─► Ray, placement ─► ranks ─► held-out loss
        ─► steps, held-out loss, checkpoints (restarted from the newest when the group is lost) ─► adapter or model, report

Nothing heavy is imported here: torch and deepspeed live in the ranks.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

from actors.demonstrations.streamed import StreamedDemonstrations
from cluster.files.metrics_file import read_rows
from cluster.inspection.first_checks import refuse_first
from cluster.models.base import whole_folder
from cluster.models.base_record import BaseRecord, write_record
from cluster.models.starting_adapter import with_starting_adapter
from cluster.output import checkpoint
from cluster.output.checkpoint import Checkpoint
from cluster.output.display import SFT_METRICS, RunDisplay
from cluster.output.run_dir import Resume
from cluster.output.sinks import MetricSinks
from cluster.output.wandb_sink import require_wandb
from cluster.placement import roles
from cluster.publish.model_card import sft_card
from cluster.session import RaySession
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
from cluster.train.prepare_sft import PreparedSft, prepare_sft
from cluster.train.room import FIRST_WAIT_S, Room
from cluster.train.sft_batches import StreamedBatches
from configs.schema.model import WARM_MODEL
from configs.schema.sft import SftConfig
from learner.model.end_token import add_end_token
from learner.sft.learner import SftLearner


class SftSummary(TypedDict):
    """`summary.json` of a supervised fine-tuning."""

    steps: int
    train_loss: float | None
    eval_loss_before: float | None
    eval_loss_after: float | None
    """Nats a token on the held-out sequences."""
    num_tokens: int
    data: dict[str, object]
    held_out: dict[str, object]
    """The counts of the sequences (`DemonstrationCounts`)."""
    sources: list[dict[str, object]]
    """The same for each data set of a mixture, with its path and the number of its rows and of those taken."""
    exit_reason: str
    phase_s: dict[str, float]


def run_sft(config: SftConfig, resume: Resume = "auto", callbacks: Sequence[StepCallback] = ()) -> SftSummary:
    """Run a whole supervised fine-tuning and return what `summary.json` holds.

    Args:
        callbacks: called with every finished step.

    Raises:
        RollcastError: of the kind that says what failed; `summary.json` names it as the exit reason.
    """
    refuse_first(config, print)
    config = with_starting_adapter(config)
    require_wandb(config)
    with open_run(config, resume, RunDisplay(config.cluster.logging_steps, SFT_METRICS)) as run:
        run.begin()
        prepared = prepare_sft(config, run.directory, run.display)
        found = run.checkpoint_to_resume(prepared.identity(config))
        require_base_of(found, prepared.base_to_train(config), prepared.model_path, run.display.say)
        run.make_head(found, prepared.total_steps(config))
        with run.session() as session:
            session.placement()
            return asyncio.run(session.watched(_train(run, prepared, session, found, callbacks)))


async def _train(
    run: OpenRun[SftConfig], prepared: PreparedSft, session: RaySession, found: Checkpoint | None, callbacks: Sequence[StepCallback]
) -> SftSummary:
    """Start the ranks, train, write; everything that was started is closed again."""
    with stop_on_signals(run.display.say) as signals, MetricSinks.open(run.config, run.directory.path, run.display.say) as sinks:
        training = SftRun(run, prepared, session, sinks, callbacks, found, _spawn(run), _batches(run.config, prepared))
        signals.end_after_step, run.so_far = training.stop, training.so_far
        try:
            return await training.run_to_end()
        finally:
            await training.group.close()
            if training.batches is not None:
                await training.batches.close()


def _batches(config: SftConfig, prepared: PreparedSft) -> StreamedBatches | None:
    stream = prepared.demonstrations
    return StreamedBatches(stream, config.learner.train_batch_size) if isinstance(stream, StreamedDemonstrations) else None


def _spawn(run: OpenRun[SftConfig]) -> SftLearner:
    return SftLearner.create(run.config, ray_options=roles(run.config).learners.ray_options(), log_dir=run.directory.logs)


@dataclass
class SftRun:
    """One supervised fine-tuning, from spawned ranks to the written summary."""

    run: OpenRun[SftConfig]
    prepared: PreparedSft
    session: RaySession
    sinks: MetricSinks
    callbacks: Sequence[StepCallback]
    checkpoint: Checkpoint | None
    """The one that the run goes on from."""
    group: SftLearner
    batches: StreamedBatches | None
    """The batches of a stream; None where the ranks have all demonstrations."""
    base_record: BaseRecord = field(default_factory=lambda: BaseRecord(None))
    """Written into every adapter that the run saves."""
    step: int = 0
    saved_step: int = -1
    """The step of the newest checkpoint; -1 before the ranks have loaded the model."""
    stop_reason: str = ""

    async def run_to_end(self) -> SftSummary:
        """Train through restarts of the ranks, then write the result; returns the summary."""
        limit, say = self.run.config.cluster.max_learner_restarts, self.run.display.say
        restarts = Restarts(limit, self._restore, lambda: self.stop_reason, say)
        return await self._finish(await restarts.through(self._attempt))

    def stop(self, reason: str) -> bool:
        """End after the step that runs now; False where none runs."""
        if self.saved_step < 0:
            return False
        self.stop_reason = reason
        return True

    @property
    def total_steps(self) -> int:
        return self.prepared.total_steps(self.run.config)

    async def _attempt(self) -> str:
        with self.run.display.phase("starting the learner"):
            await self._start()
        with self.run.display.phase("training"), self.run.display.steps(self.step, self.total_steps):
            return await self._train()

    async def _restore(self) -> None:
        self.saved_step = -1
        self.checkpoint, prepared = self.run.newest_checkpoint() or self.checkpoint, self.prepared
        require_base_of(self.checkpoint, prepared.base_to_train(self.run.config), prepared.model_path, self.run.display.say)
        await self.group.close()
        self.group = await self._room(self.run.config.cluster.lost_resources_wait_s).spawned(lambda: _spawn(self.run))

    def _room(self, wait_s: float) -> Room:
        return Room(roles(self.run.config).learners, wait_s, self.session.shortage, self.run.display.say)

    async def _start(self) -> None:
        """Load the model in every rank, at the checkpoint or at the beginning."""
        prepared, found = self.prepared, self.checkpoint
        await self._room(FIRST_WAIT_S).started(self.group)
        await self.group.start(
            prepared.model_path,
            prepared.train_file,
            prepared.held_out.path,
            total_steps=self.total_steps,
            row_limit=prepared.row_limit(self.run.config),
            resume_folder=found.learner_folder if found else None,
        )
        if self.batches is not None:
            await self.batches.restore(found.state["cursor"] if found else None)
        self.base_record = await asyncio.to_thread(prepared.base_record, self.run.config)
        self.step = self.saved_step = found.step if found else 0
        self.sinks.rewind(self.step if found else -1)

    async def _train(self) -> str:
        if self.step == 0 and (held_out := await self._evaluated()):
            self.sinks.emit(0, held_out)
        began = time.monotonic()
        while self.step < self.total_steps and not self.stop_reason:
            metrics = await self._step()
            metrics["step_time"], began = time.monotonic() - began, time.monotonic()
            self._log(metrics)
            if self._is_due(self.run.config.cluster.save_steps):
                await self._save_checkpoint()
        if self.saved_step != self.step or self.step == 0:
            await self._save_checkpoint()
        return self.stop_reason if self.step < self.total_steps else "finished"

    async def _step(self) -> dict[str, float]:
        learner = self.run.config.learner
        batch = await self.batches.next(last=self.step + 1 == self.total_steps) if self.batches else None
        metrics = await self.group.step(self.step, batch)
        self.step += 1
        if self.batches is not None:
            metrics["epoch"] = self.batches.cursor["epoch"]
        else:
            metrics["epoch"] = self.step * learner.train_batch_size / self.prepared.demonstrations.counts.sequences
        return metrics | await self._evaluated() if self._is_due(learner.eval_steps) else metrics

    def _log(self, metrics: dict[str, float]) -> None:
        self.sinks.emit(self.step, metrics)
        self.run.display.step(self.step, self.total_steps, metrics)
        call_back(self.callbacks, FinishedStep(self.run.directory.path, self.step, self.total_steps, metrics, self.stop))

    def _is_due(self, every: int) -> bool:
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    async def _evaluated(self) -> dict[str, float]:
        return await self.group.evaluate() if self.prepared.held_out.counts.sequences else {}

    async def _save_checkpoint(self) -> None:
        """Write one checkpoint: the state of the ranks, and the settings that a resumed run must share."""
        with checkpoint.writing(self.run.directory.checkpoints, self.step) as folder:
            await self.group.save(folder / "learner")
            if self.run.config.learner.use_peft:
                await asyncio.to_thread(write_record, folder / "learner" / "adapter", self.base_record)
            state = {"step": self.step, "identity": self.prepared.identity(self.run.config)}
            if self.batches is not None:
                state["cursor"] = self.batches.cursor
            await asyncio.to_thread(checkpoint.finish, folder, state, self.run.config.cluster.save_total_limit)
        self.saved_step = self.step

    async def _finish(self, reason: str) -> SftSummary:
        """Write the adapter or the model with its tokenizer and card, the summary and the report."""
        run = self.run
        metrics = read_rows(run.directory.path / "metrics.jsonl")
        losses = [line["eval/loss"] for line in metrics if "eval/loss" in line]
        summary = self._summary(reason, metrics, losses)
        with run.writing_result(run.directory.path):
            result = await self._write_result(reason, summary)
        file = run.leave_summary(summary)
        report = await run.write_report()
        self.sinks.summarise({name: value for name in ("eval_loss_before", "eval_loss_after") if (value := summary[name]) is not None})
        run.display.say("")
        if len(losses) > 1:
            run.display.say(f"held-out loss: {losses[0]:.4f} before, {losses[-1]:.4f} nats a token after {self.step} steps")
        run.display.say(f"ended: {reason}")
        run.display.say(f"summary {file}" + (f"; result {result}" if result else ""))
        if result and run.config.learner.use_peft:
            run.display.say(f"GRPO goes on from it with model.adapter={result}, and starts on it with model.merge_adapter=true besides")
        if report is not None:
            run.display.say(f"report, for a browser: {report}")
        return summary

    def so_far(self) -> Mapping[str, object]:
        """The summary of a run that fails."""
        metrics = read_rows(self.run.directory.path / "metrics.jsonl")
        return self._summary("", metrics, [line["eval/loss"] for line in metrics if "eval/loss" in line])

    def _summary(self, reason: str, metrics: Sequence[dict[str, float]], losses: Sequence[float]) -> SftSummary:
        return {
            "steps": self.step,
            "train_loss": next((line["train/loss"] for line in reversed(metrics) if "train/loss" in line), None),
            "eval_loss_before": losses[0] if losses else None,
            "eval_loss_after": losses[-1] if losses else None,
            "num_tokens": next((int(line["num_tokens"]) for line in reversed(metrics) if "num_tokens" in line), 0),
            "data": self.batches.cursor["counts"] if self.batches else asdict(self.prepared.demonstrations.counts),
            "held_out": asdict(self.prepared.held_out.counts),
            "sources": [asdict(source) for source in self.prepared.sources],
            "exit_reason": reason,
            "phase_s": self.run.phase_s,
        }

    async def _write_result(self, reason: str, summary: SftSummary) -> Path | None:
        """Write the adapter of the last checkpoint; or the whole model, which is written at the end alone."""
        directory = self.run.directory
        if self.run.config.learner.use_peft:
            folder = directory.path / "adapter"
            shutil.copytree(directory.checkpoints / f"step-{self.step:06d}" / "learner" / "adapter", folder, dirs_exist_ok=True)
            _describe(folder, self.run, self.prepared, summary)
            return folder
        if reason != "finished":
            return None
        folder = directory.path / WARM_MODEL
        with self.run.display.phase("writing the model"), whole_folder(str(folder)) as unfinished:
            await self.group.save_model(unfinished)
            _describe(unfinished, self.run, self.prepared, summary)
            add_end_token(unfinished, self.prepared.tokenizer.eos_token_id)
        return folder


def _describe(folder: Path, run: OpenRun[SftConfig], prepared: PreparedSft, summary: SftSummary) -> None:
    """Write the tokenizer and the card beside the weights."""
    prepared.tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(sft_card(run.config, summary))
