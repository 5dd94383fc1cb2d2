"""The frame of every training run, by GRPO or supervised: everything around its steps.

open_run          lock the run directory ─► checkpoint to resume from ─► begin ─► the run ─► summary.json, report.html
                                                                          └─ from here on, a failure is written down as the exit reason
stop_on_signals   first SIGINT, SIGTERM or SIGHUP ─► the running step ends, a checkpoint is written      second ─► the run is cancelled
Restarts          attempt ──learner group lost──► restored from the newest checkpoint ─► attempted again, a bounded number of times
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from cluster.files import metrics_file
from cluster.models.adapter_base import Base, find_base
from cluster.models.base_record import read_record
from cluster.output import checkpoint
from cluster.output.checkpoint import Checkpoint
from cluster.output.display import RunDisplay
from cluster.output.run_dir import Resume, RunDirectory
from cluster.output.set_aside import set_aside_after, set_aside_damaged
from cluster.report import leave_report
from cluster.session import RaySession
from cluster.stopping import STOPPED_BY, exit_code_of, in_loop_on_signals, stopped
from configs.contracts.errors import (
    ConfigError,
    DataError,
    LearnerError,
    NonFiniteError,
    RewardError,
    RollcastError,
    RunDirectoryError,
    StoppedError,
)
from configs.loading import dump_config
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

Config = TypeVar("Config", RunConfig, SftConfig)

REFUSALS = (ConfigError, DataError, RewardError)
"""What a user corrects in settings, data or rewards. The message has all that there is to know."""


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """One finished step, as callbacks see it.

    Example: `FinishedStep(Path("runs/mine"), 3, 150, {"train/reward": 1.28, ...}, stop)`.
    """

    out_dir: Path
    """Directory of the run; of a run with stages, that of the stage, such as `runs/mine/1-explore`."""
    step: int
    """Optimizer steps done, from 1."""
    total_steps: int
    metrics: Mapping[str, float]
    """Under the names of docs/metrics.md."""
    stop: Callable[[str], object]
    """End the run after this step, with a checkpoint: `step.stop("reward is high enough")`. The text becomes the exit reason."""


StepCallback = Callable[[FinishedStep], object]
"""Called in the driver after each step. It should return quickly: the driver does nothing else meanwhile. An error that it raises ends the run."""


@dataclass
class OpenRun(Generic[Config]):
    """One run that holds its directory."""

    config: Config
    directory: RunDirectory
    display: RunDisplay
    resume: Resume
    so_far: Callable[[], Mapping[str, object]] = dict
    """What `summary.json` says of a run that fails: its steps, its ledger, its measurements."""
    begun: bool = False
    refused: bool = True
    """True until model, data and rewards are found to work together: a run that fails before leaves no folder behind."""
    _said: set[str] = field(default_factory=set)

    def checkpoint_to_resume(self, identity: Mapping[str, object]) -> Checkpoint | None:
        """The checkpoint that the run goes on from; None where it starts from the beginning.

        Args:
            identity: settings that must be the same in a resumed run, under the names that its user knows.

        Raises:
            CheckpointError: it cannot be read, or was written under another identity.
        """
        if self.resume == "none":
            return None
        found = checkpoint.read(self.resume) if isinstance(self.resume, Path) else self.newest_checkpoint()
        if found is not None:
            found.require_same(identity)
            self.display.say(f"resuming from {found.folder} (step {found.step})")
        return found

    def make_head(self, found: Checkpoint | None, total_steps: int) -> None:
        """Set aside what the directory holds after the checkpoint that the run goes on from, and say so, with the steps that are left."""
        if found is not None:
            left = f"the run goes on from step {found.step} to {total_steps}"
            if found.step >= total_steps:
                left = f"step {found.step} of {total_steps} is done already: only the end is left; raise learner.max_steps to train on"
            self.display.say(left)
            set_aside = set_aside_after if isinstance(self.resume, Path) else set_aside_damaged
            for line in set_aside(self.directory.path, found):
                self.display.say(line)

    def newest_checkpoint(self) -> Checkpoint | None:
        """The newest undamaged checkpoint of this run."""
        return checkpoint.newest(self.directory.checkpoints, self._say_once)

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.display.say(text)

    def begin(self) -> None:
        """Write config.yaml, and repair what a crash left of metrics.jsonl.

        Failures before this leave the directory as it was; later ones are recorded in it.
        """
        self.begun = True
        metrics_file.repair(self.directory.path / "metrics.jsonl", self.display.say)
        self.directory.write("config.yaml", dump_config(self.config))

    def session(self) -> RaySession:
        """Ray for this run, once everything else is found to work."""
        self.refused = False
        return RaySession(self.config, self.directory.logs, namespace=f"rollcast-{self.directory.path.name}")

    @property
    def phase_s(self) -> dict[str, float]:
        """Wall seconds of each phase that has ended."""
        return {name: round(seconds, 2) for name, seconds in self.display.seconds.items()}

    async def write_report(self) -> Path | None:
        """Write report.html; returns its path, or None where it could not be drawn."""
        return await asyncio.to_thread(leave_report, self.directory.path, self.display.say)

    def log_stray_error(self, _loop: asyncio.AbstractEventLoop, context: Mapping[str, object]) -> None:
        """Write errors that nobody awaits any more to a log instead of the terminal, such as those of calls to a worker that is being closed."""
        with suppress(OSError), (self.directory.logs / "driver.log").open("a") as log:
            log.write(f"{context['message']}: {context.get('exception')!r}\n")

    def record_failure(self, error: BaseException) -> None:
        """Write the error as the exit reason of the run, with the report of what was done before it."""
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        newest = max(checkpoint.folders_in(self.directory.checkpoints), default=None)
        ended = {"exit_reason": f"failed: {reason}", "phase_s": self.phase_s, "last_checkpoint": newest.name if newest else None}
        self.leave_summary(self._so_far() | ended)
        leave_report(self.directory.path, self.display.say)
        if isinstance(error, RollcastError):
            self.display.say(f"logs of every process: {self.directory.logs}")

    def _so_far(self) -> dict[str, object]:
        try:
            return dict(self.so_far())
        except Exception as error:  # it must not hide the failure that it belongs to
            self.display.say(f"summary.json lacks the results so far ({type(error).__name__}: {error})")
            return {}

    def leave_summary(self, summary: Mapping[str, object]) -> Path:
        """Write summary.json, or print its content where it cannot be written; returns its path."""
        try:
            self.directory.write_summary(summary)
        except OSError as error:
            self.display.say(f"WARNING: summary.json cannot be written ({error}); its content:\n{json.dumps(summary, indent=2)}")
        return self.directory.path / "summary.json"

    @contextmanager
    def writing_result(self, folder: Path) -> Iterator[None]:
        """Write the result of the run, which its last checkpoint has, too.

        Raises:
            RunDirectoryError: the disk is full, or the folder cannot be written.
        """
        try:
            yield
        except OSError as error:
            raise RunDirectoryError(
                f"the result cannot be written to {folder} ({error}): free some space there and run the same command again, which writes it "
                "from the last checkpoint"
            ) from None


@contextmanager
def open_run(config: Config, resume: Resume, display: RunDisplay) -> Iterator[OpenRun[Config]]:
    """Hold the run directory while the run lives, and record a failure in it.

    Raises:
        RunDirectoryError: the directory cannot be written, or another live run holds it.
    """
    with RunDirectory.open(config.out_dir, resume) as directory:
        run = OpenRun(config, directory, display, resume)
        display.say(f"run directory: {directory.path}")
        if directory.notice:
            display.say(directory.notice)
        try:
            yield run
        except BaseException as error:
            if run.refused and isinstance(error, REFUSALS):
                directory.discard()
            elif run.begun:
                run.record_failure(error)
            raise


def require_base_of(found: Checkpoint | None, base: Base, served_path: str, say: Callable[[str], None]) -> None:
    """Refuse to resume on another base than that of the checkpoint's adapter. A checkpoint of a whole model needs none.

    Raises:
        ConfigError: the weights of the base, or of the model that the engines serve, have changed since.
    """
    adapter = found.learner_folder / "adapter" if found else None
    if adapter is None or not adapter.is_dir():
        return
    note = find_base(adapter, base, insist=True).note
    if note:
        say(note)
    record, served = read_record(adapter), Base(served_path).weights
    if record and record.served_weights and served and served != record.served_weights:
        raise ConfigError(
            f"{served_path} has other weights than those that the engines served before the checkpoint {adapter.parents[1]}; remove the folder, and "
            "the run writes it again"
        )


@dataclass
class StopSignals:
    """SIGINT, SIGTERM and SIGHUP of a run. `end_after_step` is asked at the first; it returns False where no step is running yet."""

    end_after_step: Callable[[str], bool] = lambda _reason: False
    reason: str = ""


@contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[StopSignals]:
    """End the run after the running step at the first signal, and at once at the second.

    Raises:
        StoppedError: the run was cancelled.
    """
    signals, task = StopSignals(), asyncio.current_task()
    assert task is not None, "a run is a task of an event loop"

    received: list[str] = []

    def stop(name: str) -> None:
        received.append(name)
        signals.reason = signals.reason or STOPPED_BY + name
        if len(received) == 1 and signals.end_after_step(signals.reason):
            say(f"{name}: writing a checkpoint after the running step; a second signal stops at once")
        else:
            task.cancel()

    with in_loop_on_signals(stop):
        try:
            yield signals
        except asyncio.CancelledError:
            raise stopped(received[-1] if received else "", "run the same command again to go on from the last checkpoint") from None


@dataclass(frozen=True)
class Restarts:
    """The restarts of a run that loses the learner group: it restores the group and goes on, at most `limit` times.

    `stopped` gives the reason for which the user has stopped the run, or nothing. A stopped run restores no group.
    """

    limit: int
    restore: Callable[[], Awaitable[None]]
    stopped: Callable[[], str]
    say: Callable[[str], None]

    async def through(self, attempt: Callable[[], Awaitable[str]]) -> str:
        """Return what `attempt` returns, as often as it has to be called.

        Raises:
            NonFiniteError: at once, since the same data would give it again.
            LearnerError: the group was lost once too often, in an attempt or while it was restored.
            StoppedError: the group was lost after the user had stopped the run.
        """
        lost: LearnerError | None = None
        for restarts in itertools.count():
            try:
                if lost is not None:
                    self._say_lost(lost, restarts)
                    await self.restore()
                return await attempt()
            except NonFiniteError:
                raise
            except LearnerError as error:
                lost = error
                if self.stopped():
                    raise self._stopped_error(error) from error
                if restarts >= self.limit:
                    raise
        raise AssertionError  # count() does not end

    def _stopped_error(self, lost: LearnerError) -> StoppedError:
        error = StoppedError(
            f"{self.stopped()}, and the learner was lost before it wrote a checkpoint ({lost.message}): run the same command again to go on from "
            "the last one"
        )
        error.exit_code = exit_code_of(self.stopped()) or StoppedError.exit_code
        return error

    def _say_lost(self, error: LearnerError, restarts: int) -> None:
        self.say(f"{error.role}: {error.message}; making the learner group again ({restarts} of {self.limit})")


def call_back(callbacks: Sequence[StepCallback], step: FinishedStep) -> None:
    """Show a finished step to every callback, in order."""
    for callback in callbacks:
        callback(step)
