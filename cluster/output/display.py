"""The display of a run: a live panel in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from cluster.output.printable import printable
from cluster.output.sampled_texts import print_completions

SHOWN = (
    ("reward", "train/reward", "{:.3f}"),
    ("accuracy", "train/accuracy", "{:.3f}"),
    ("staleness", "staleness/mean", "{:.2f}"),
    ("rollout tok/s", "rollout/tokens_per_s", "{:,.0f}"),
    ("learner tok/s", "learner/tokens_per_s", "{:,.0f}"),
    ("rollout idle", "rollout/idle", "{:.0%}"),
    ("learner idle", "learner/idle", "{:.0%}"),
    ("sync", "sync/total_s", "{:.3f} s"),
)
"""Label, metric and format of each number that is shown for a step."""

SFT_METRICS = (
    ("loss", "train/loss", "{:.4f}"),
    ("token accuracy", "train/mean_token_accuracy", "{:.1%}"),
    ("held-out loss", "eval/loss", "{:.4f}"),
    ("learning rate", "train/learning_rate", "{:.2e}"),
    ("gradient norm", "train/grad_norm", "{:.3g}"),
    ("tok/s", "learner/tokens_per_s", "{:,.0f}"),
)
"""The same for supervised fine-tuning."""

OCCASIONAL = ("sync/total_s", "eval/loss")
"""Metrics that not every step has, and that are left out there. Any other that a step does not have is shown as `-`: nothing was measured."""


def shown_of_rewards(labels: Sequence[str]) -> tuple[tuple[str, str, str], ...]:
    """The numbers to show of a run with these rewards: an accuracy only if one of them is `accuracy`."""
    return tuple(each for each in SHOWN if each[1] != "train/accuracy" or "accuracy" in labels)


class WarmStartStep(Protocol):
    """A report of the supervised warm start, as the display reads it."""

    @property
    def step(self) -> int: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def loss(self) -> float:
        """Mean loss since the previous report, in nats per token."""
        ...


@dataclass
class RunDisplay:
    """The display. `seconds` holds the wall time of every phase that has ended."""

    logging_steps: int = 1
    shown: tuple[tuple[str, str, str], ...] = SHOWN
    seconds: dict[str, float] = field(default_factory=dict)
    _console: Console = field(default_factory=lambda: Console(emoji=False, file=sys.stdout, soft_wrap=True, highlight=False))
    _live: Live | None = None
    _bar: Progress | None = None
    _started: float = field(default_factory=time.monotonic)
    _steps_started: float = 0.0
    _steps_at_start: int = 0

    def say(self, text: str) -> None:
        """Print a line, above the live panel if there is one."""
        with _readers_may_be_gone():
            self._console.print(printable(text), markup=False)

    def say_all(self, lines: Sequence[str]) -> None:
        """Print each line, if there is any."""
        for line in lines:
            self.say(line)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase and time it."""
        began = time.monotonic()
        self.say(f"[{began - self._started:6.1f} s] {name} ...")
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began

    def completions(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Print completions, above the live panel if there is one."""
        with _readers_may_be_gone():
            print_completions(rows, self._console)

    def warm_start(self, progress: WarmStartStep) -> None:
        """Show how far the supervised warm start is."""
        if progress.step % 50 == 0 or progress.step == progress.total_steps:
            self.say(f"           step {progress.step}/{progress.total_steps}  loss {progress.loss:.3f} nats/token")

    @contextmanager
    def steps(self, first: int, total: int) -> Iterator[None]:
        """Show the steps of the training loop, in a terminal as a live panel."""
        self._steps_started, self._steps_at_start = time.monotonic(), first
        if not self._console.is_terminal:
            yield
            return
        self._bar = Progress(
            TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn()
        )
        self._bar.add_task("train", total=total, completed=first)
        with Live(self._bar, console=self._console, refresh_per_second=4) as self._live:
            yield
        self._live = None

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Show one finished step."""
        if self._live is not None and self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)
            self._live.update(Group(self._bar, _table(_facts(self.shown, metrics))))
        elif step % self.logging_steps == 0 or step == total:
            facts = "  ".join(f"{label} {value}" for label, value in _facts(self.shown, metrics))
            done = step - self._steps_at_start
            eta_s = (time.monotonic() - self._steps_started) / done * (total - step) if done else 0.0
            self.say(f"step {step}/{total}  {facts}  {metrics.get('step_time', 0.0):.2f} s/step  left {eta_s:.0f} s")


def _readers_may_be_gone() -> suppress:
    """A terminal that is gone, or a full disk under a redirected output, must not end a run."""
    return suppress(OSError, ValueError)


def _facts(shown: Sequence[tuple[str, str, str]], metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    return [
        (label, form.format(metrics[name]) if name in metrics else "-")
        for label, name, form in shown
        if name in metrics or name not in OCCASIONAL
    ]


def _table(facts: Sequence[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(*(label for label, _ in facts), style="dim")
    table.add_row(*(value for _, value in facts))
    return table
