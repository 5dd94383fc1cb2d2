"""Read a run directory for a report. Each file may be missing or cut short, and may hold numbers that are not finite."""

from __future__ import annotations

import fcntl
import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from cluster.evaluation.statistics import Interval, wilson
from configs.contracts.errors import RunDirectoryError

INTERRUPTED_S = 5.0
"""If a line of metrics comes later than its `step_time` explains, by more than this, the run was interrupted before that step."""


class Metric(NamedTuple):
    """One metric at the steps at which it was logged, in their order; values may be non-finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class HeldOut:
    """A held-out evaluation. `accuracy` is the mean reward if the run has no accuracy reward: see `is_accuracy`."""

    accuracy: float
    prompts: int
    rewards: Mapping[str, float]

    @property
    def is_accuracy(self) -> bool:
        return "accuracy" in self.rewards and 0.0 <= self.accuracy <= 1.0

    @property
    def interval(self) -> Interval | None:
        return wilson(self.accuracy, self.prompts) if self.is_accuracy and self.prompts > 0 else None


@dataclass
class RunRecord:
    """One run, as read from its directory."""

    path: Path
    label: str
    metrics: dict[str, Metric] = field(default_factory=dict)
    summary: dict[str, object] = field(default_factory=dict)
    settings_text: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    before: HeldOut | None = None
    after: HeldOut | None = None
    running: bool = False
    resumed_at: tuple[int, ...] = ()
    """First steps after an interruption."""

    @property
    def last_step(self) -> int:
        return max((int(metric.steps[-1]) for metric in self.metrics.values()), default=0)

    def setting(self, name: str) -> object:
        """Return a setting by its dotted name; None if config.yaml does not have it."""
        value: object = self.settings
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def supervised(self) -> bool:
        """True for supervised fine-tuning, which has no completions and no rewards."""
        return self.setting("learner.use_peft") is not None

    def total(self, name: str) -> float:
        """Add up a metric over all logged steps, also over those before a resumption."""
        values = self.metrics[name].values if name in self.metrics else np.zeros(0)
        return float(values[np.isfinite(values)].sum())


def read_run(path: Path, *, running: bool | None = None) -> RunRecord:
    """Read a run directory.

    Args:
        running: whether the run is still running. Its summary is then ignored: it is from an earlier start. By default the folder's lock
            tells.

    Raises:
        RunDirectoryError: the folder holds no run.
    """
    path = path.absolute()
    if not any((path / name).exists() for name in ("config.yaml", "metrics.jsonl", "summary.json")):
        raise RunDirectoryError(f"{path} holds no run (no config.yaml, metrics.jsonl or summary.json): give the out_dir of a run")
    running = is_held(path) if running is None else running
    settings_text = _text(path / "config.yaml")
    metrics = read_metrics(path / "metrics.jsonl")
    return RunRecord(
        path=path,
        label=path.name,
        metrics={name: metric for name, metric in metrics.items() if name != "time"},
        summary={} if running else _mapping(_text(path / "summary.json")),
        settings_text=settings_text,
        settings=_settings(settings_text),
        before=_held_out(path / "evaluation_before.json"),
        after=None if running else _held_out(path / "evaluation_after.json"),
        running=running,
        resumed_at=_interruptions(metrics),
    )


def is_held(path: Path) -> bool:
    """Return True when a live process holds the lock of a run directory."""
    try:
        with (path / "run.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def read_metrics(file: Path) -> dict[str, Metric]:
    """Read every number of `metrics.jsonl`, by name. If a step occurs twice, the later line counts; lines cut short are skipped."""
    steps: dict[str, array[int]] = {}
    values: dict[str, array[float]] = {}
    for line in _text(file).splitlines():
        row = _mapping(line)
        step = row.pop("step", None)
        if not isinstance(step, int):
            continue
        for name, value in row.items():
            if isinstance(value, (int, float)):
                steps.setdefault(name, array("q")).append(step)
                values.setdefault(name, array("d")).append(value)
    return {name: _in_order(np.asarray(steps[name]), np.asarray(values[name])) for name in steps}


def _in_order(steps: np.ndarray, values: np.ndarray) -> Metric:
    ordered, last = np.unique(steps[::-1], return_index=True)
    return Metric(ordered, values[::-1][last])


def _interruptions(metrics: Mapping[str, Metric]) -> tuple[int, ...]:
    """Find the steps before which the run stood still: more time passed than the step took."""
    if not {"time", "step_time"} <= metrics.keys() or len(metrics["time"].steps) != len(metrics["step_time"].steps):
        return ()
    steps, times = metrics["time"]
    standstill_s = np.diff(times) - metrics["step_time"].values[1:]
    return tuple(int(step) for step in steps[1:][standstill_s > INTERRUPTED_S])


def _held_out(file: Path) -> HeldOut | None:
    found = _mapping(_text(file))
    accuracy, prompts, rewards = found.get("accuracy"), found.get("prompts"), found.get("rewards")
    if not isinstance(accuracy, (int, float)) or not math.isfinite(accuracy):
        return None
    return HeldOut(float(accuracy), prompts if isinstance(prompts, int) else 0, rewards if isinstance(rewards, dict) else {})


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _mapping(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _settings(text: str) -> dict[str, object]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}


def name_apart(runs: Sequence[RunRecord]) -> None:
    """Label runs by the shortest ends of their paths that differ. The paths themselves must differ."""
    depth = 1
    while len({run.label for run in runs}) < len(runs):
        depth += 1
        for run in runs:
            run.label = "/".join(run.path.parts[-depth:])
