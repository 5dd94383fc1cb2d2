"""`rollcast sft`: supervised fine-tuning on the learner group alone.

    open the run directory ─► model, tokens on disk ─► Ray, placement ─► ranks ─► held-out loss ─► steps, held-out loss, commits ─► adapter or model

Nothing heavy is imported here: torch and deepspeed live in the ranks.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.prompts.demonstrations import DemonstrationFile, DemonstrationSource
from actors.prompts.rendering import load_tokenizer
from cluster.models.base import prepare_model, require_plain_weights, whole_folder
from cluster.models.starting_adapter import with_starting_adapter
from cluster.output import checkpoint
from cluster.output.checkpoint import Commit
from cluster.output.display import SHOWN_OF_SFT, RunDisplay
from cluster.output.run_dir import Resume, RunDirectory
from cluster.output.sinks import MetricSinks, truncate_metrics
from cluster.output.wandb_sink import require_wandb
from cluster.publish.model_card import sft_card
from cluster.report import leave_report
from cluster.session import RaySession
from configs.contracts.errors import ConfigError, LearnerError, NonFiniteError, RollcastError, StoppedError
from configs.loading import dump_config
from configs.schema.model import WARM_MODEL
from configs.schema.sft import SftConfig
from learner.model.end_token import add_end_token
from learner.sft.learner import SftGroup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedSft:
    """What is trained, and on what."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    train: DemonstrationFile
    held_out: DemonstrationFile

    def total_steps(self, config: SftConfig) -> int:
        """Steps of the whole run; those of an epoch count its last, smaller batch."""
        learner = config.learner
        return learner.max_steps if learner.max_steps > 0 else math.ceil((self.row_limit(config) or 0) / learner.train_batch_size)

    def row_limit(self, config: SftConfig) -> int | None:
        """Sequences to train on in all; None where the number of steps is given."""
        learner = config.learner
        return None if learner.max_steps > 0 else math.ceil(learner.num_train_epochs * self.train.counts.sequences)


def run_sft(config: SftConfig, resume: Resume = "auto") -> dict[str, Any]:
    """Run the whole of a supervised fine-tuning; returns what `summary.json` holds.

    Raises:
        RollcastError: of the kind that says what failed; `summary.json` names it as the exit reason.
    """
    config = with_starting_adapter(config)
    require_wandb(config)
    with RunDirectory.open(config.out_dir, resume) as directory:
        directory.write("config.yaml", dump_config(config))
        display = RunDisplay(config.cluster.logging_steps, SHOWN_OF_SFT)
        display.say(f"run directory: {directory.path}")
        try:
            prepared = prepare_sft(config, directory, display)
            commit = _commit_to_resume(config, prepared, directory, resume, display)
            with RaySession(config, directory.logs, namespace=f"rollcast-{directory.path.name}") as session:
                session.placement()
                return asyncio.run(SftRun(config, directory, display, prepared, commit, session).run())
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            directory.write_summary({"exit_reason": f"failed: {reason}", "phase_s": display.seconds})
            leave_report(directory.path, display.say)
            if isinstance(error, RollcastError):
                display.say(f"logs of every process: {directory.logs}")
            raise


def prepare_sft(config: SftConfig, directory: RunDirectory, display: RunDisplay) -> PreparedSft:
    """Make or find the model, and write the demonstrations as tokens.

    Raises:
        ConfigError: the model or its adapter cannot be used.
        DataError: data or tokenizer cannot be used.
    """
    model = config.model
    model_path = prepare_model(config, directory, display)
    with display.phase("reading data"):
        tokenizer = load_tokenizer(model_path, model.chat_template, model.trust_remote_code, model.revision, model.eos_token)
        require_plain_weights(model_path, model.revision)
        train, held_out = DemonstrationSource(config.data, tokenizer, config.seed, directory.path / "data").write()
    _say_counts(train, held_out, config, display)
    if config.data.eval_samples and not held_out.counts.sequences:
        raise ConfigError(f"none of the {held_out.counts.rows} held-out rows is within data.max_length {config.data.max_length}; raise it")
    return PreparedSft(model_path, tokenizer, train, held_out)


def _say_counts(train: DemonstrationFile, held_out: DemonstrationFile, config: SftConfig, display: RunDisplay) -> None:
    counts = train.counts
    display.say(
        f"{counts.sequences:,} sequences to train on, {held_out.counts.sequences:,} held out; {counts.tokens:,} tokens, of which "
        f"{counts.trained_tokens / counts.tokens:.0%} are imitated; the longest has {counts.longest_tokens:,}"
    )
    done = "cut off at" if config.data.too_long == "truncate" else "left out, being over"
    facts = {
        f"{done} data.max_length {config.data.max_length}": counts.too_long + held_out.counts.too_long,
        "left out, with nothing to imitate within data.max_length": counts.without_answer + held_out.counts.without_answer,
        "not trained on, being held out as well": counts.also_held_out,
    }
    for fact, number in facts.items():
        if number:
            display.say(f"{number:,} sequences {fact}")
    if counts.sequences > counts.rows:
        display.say("a row makes several sequences where the chat template drops what the assistant said in earlier turns")


def _commit_to_resume(
    config: SftConfig, prepared: PreparedSft, directory: RunDirectory, resume: Resume, display: RunDisplay
) -> Commit | None:
    if resume == "none":
        return None
    commit = checkpoint.read(resume) if isinstance(resume, Path) else checkpoint.newest(directory.checkpoints, display.say)
    if commit is None:
        return None
    commit.require_same(_identity(config, prepared))
    display.say(f"resuming from {commit.folder} (step {commit.step})")
    return commit


def _identity(config: SftConfig, prepared: PreparedSft) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    return {
        **config.model.identity,
        "learner.use_peft": config.learner.use_peft,
        "learner.train_batch_size": config.learner.train_batch_size,
        "seed": config.seed,
        "data of the digest": prepared.train.digest,
    }


@dataclass
class SftRun:
    """One supervised fine-tuning from started Ray to written summary."""

    config: SftConfig
    directory: RunDirectory
    display: RunDisplay
    prepared: PreparedSft
    commit: Commit | None
    session: RaySession
    group: SftGroup = field(init=False)
    sinks: MetricSinks = field(init=False)
    total_steps: int = field(init=False)
    step: int = 0
    _committed: int = -1
    _stop_reason: str = ""

    async def run(self) -> dict[str, Any]:
        """Start the ranks, train, write; everything that was started is closed again."""
        self._listen_for_signals()
        self.total_steps = self.prepared.total_steps(self.config)
        self.sinks = MetricSinks.open(self.config, self.directory.path, self.display.say)
        try:
            reason = await self._train_through_restarts()
            return await self._finish(reason)
        except asyncio.CancelledError:
            raise StoppedError(f"{self._stop_reason or 'cancelled'}: run the same command again to go on from the last commit") from None
        finally:
            self.sinks.close(failed=sys.exc_info()[0] is not None)
            if getattr(self, "group", None) is not None:
                await self.group.close()

    def _listen_for_signals(self) -> None:
        """The first SIGTERM or SIGINT ends the run after the running step, with a commit; the second at once."""
        loop, this = asyncio.get_running_loop(), asyncio.current_task()

        def stop(name: str) -> None:
            if (self._stop_reason or self._committed < 0) and this is not None:
                this.cancel()
            elif not self._stop_reason:
                self.display.say(f"{name}: committing a checkpoint after the running step; a second {name} stops at once")
            self._stop_reason = f"stopped by {name}"

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number.name)

    async def _train_through_restarts(self) -> str:
        """A group that is lost is made again from the last commit, a bounded number of times."""
        restarts = 0
        while True:
            try:
                with self.display.phase("starting the learner"):
                    await self._start()
                with self.display.phase("training"), self.display.steps(self.step, self.total_steps):
                    return await self._train()
            except NonFiniteError:
                raise
            except LearnerError as error:
                restarts += 1
                if restarts > self.config.cluster.max_learner_restarts:
                    raise
                self.display.say(
                    f"{error.role}: {error.message}; making the learner group again ({restarts} of {self.config.cluster.max_learner_restarts})"
                )
                self.commit = checkpoint.newest(self.directory.checkpoints, self.display.say)
                await self.group.close()

    async def _start(self) -> None:
        """Make the group, at the commit or at the beginning."""
        self.group = SftGroup.create(self.config, ray_options=self.session.placement().learners.ray_options(), log_dir=self.directory.logs)
        await self.group.start(
            self.prepared.model_path,
            self.prepared.train.path,
            self.prepared.held_out.path,
            total_steps=self.total_steps,
            row_limit=self.prepared.row_limit(self.config),
            resume_folder=self.commit.learner_folder if self.commit else None,
        )
        self.step = self._committed = self.commit.step if self.commit else 0
        truncate_metrics(self.directory.path / "metrics.jsonl", self.step if self.commit else -1)

    async def _train(self) -> str:
        if self.step == 0 and (found := await self._evaluated()):
            self.sinks.emit(0, found)
        began = time.monotonic()
        while self.step < self.total_steps and not self._stop_reason:
            metrics = await self.group.step(self.step)
            self.step += 1
            metrics["epoch"] = self.step * self.config.learner.train_batch_size / self.prepared.train.counts.sequences
            if self._is_due(self.config.learner.eval_steps):
                metrics |= await self._evaluated()
            metrics["step_time"], began = time.monotonic() - began, time.monotonic()
            self.sinks.emit(self.step, metrics)
            self.display.step(self.step, self.total_steps, metrics)
            if self._is_due(self.config.cluster.save_steps):
                await self._commit()
        if self._committed != self.step or self.step == 0:
            await self._commit()
        return self._stop_reason if self.step < self.total_steps else "finished"

    def _is_due(self, every: int) -> bool:
        return self.step == self.total_steps or (every > 0 and self.step % every == 0)

    async def _evaluated(self) -> dict[str, float]:
        return await self.group.evaluate() if self.prepared.held_out.counts.sequences else {}

    async def _commit(self) -> None:
        """Write one commit: the state of the ranks, and what must be the same when the run goes on."""
        folder = checkpoint.begin(self.directory.checkpoints, self.step)
        await self.group.save(folder / "learner")
        state = {"step": self.step, "identity": _identity(self.config, self.prepared)}
        await asyncio.to_thread(checkpoint.finish, folder, state, self.config.cluster.save_total_limit)
        self._committed = self.step

    async def _finish(self, reason: str) -> dict[str, Any]:
        """Write the adapter or the model with its tokenizer and card, and the summary; say where they are."""
        metrics = _read_metrics(self.directory.path / "metrics.jsonl")
        losses = [line["eval/loss"] for line in metrics if "eval/loss" in line]
        summary = {
            "steps": self.step,
            "train_loss": next((line["train/loss"] for line in reversed(metrics) if "train/loss" in line), None),
            "eval_loss_before": losses[0] if losses else None,
            "eval_loss_after": losses[-1] if losses else None,
            "num_tokens": next((int(line["num_tokens"]) for line in reversed(metrics) if "num_tokens" in line), 0),
            "data": asdict(self.prepared.train.counts),
            "held_out": asdict(self.prepared.held_out.counts),
            "exit_reason": reason,
            "phase_s": {name: round(seconds, 2) for name, seconds in self.display.seconds.items()},
        }
        result = await self._write_result(reason, summary)
        file = self.directory.write_summary(summary)
        report = await asyncio.to_thread(leave_report, self.directory.path, self.display.say)
        self.sinks.summarise({name: value for name in ("eval_loss_before", "eval_loss_after") if (value := summary[name]) is not None})
        say = self.display.say
        say("")
        if len(losses) > 1:
            say(f"held-out loss: {losses[0]:.4f} before, {losses[-1]:.4f} nats a token after {self.step} steps")
        say(f"ended: {reason}")
        say(f"summary {file}" + (f"; result {result}" if result else ""))
        if result and self.config.learner.use_peft:
            say(f"GRPO goes on from it with model.adapter={result}, and starts on it with model.merge_adapter=true besides")
        if report is not None:
            say(f"report, for a browser: {report}")
        return summary

    async def _write_result(self, reason: str, summary: dict[str, Any]) -> Path | None:
        """The adapter of the last commit; or the whole model, which is written at the end alone."""
        if self.config.learner.use_peft:
            folder = self.directory.path / "adapter"
            shutil.copytree(self.directory.checkpoints / f"step-{self.step:06d}" / "learner" / "adapter", folder, dirs_exist_ok=True)
            self._describe(folder, summary)
            return folder
        if reason != "finished":
            return None
        folder = self.directory.path / WARM_MODEL
        with self.display.phase("writing the model"), whole_folder(str(folder)) as unfinished:
            await self.group.save_model(unfinished)
            self._describe(unfinished, summary)
            add_end_token(unfinished, self.prepared.tokenizer.eos_token_id)
        return folder

    def _describe(self, folder: Path, summary: dict[str, Any]) -> None:
        self.prepared.tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(sft_card(self.config, summary))


def _read_metrics(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
