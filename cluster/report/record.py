"""Read a run directory for a report. Each file may be missing or cut short, and may hold numbers that are not finite."""

from __future__ import annotations

import fcntl
import json
import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from cluster.evaluation.measurement import Evaluation
from configs.contracts.errors import RunDirectoryError

INTERRUPTED_S = 5.0
"""If a line of metrics comes later than its `step_time` explains, by more than this, the run was interrupted before that step."""


OF_EVERY_STEP = ("train/*", "reward*", "rewards/*", "entropy", "completions/*", "sampling/*", "clip_ratio/*")
"""Metrics that every step logs unless nothing was measured."""


class Metric(NamedTuple):
    """One metric at the steps at which it was logged, in their order; values may be non-finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class HeldOut:
    """A held-out evaluation."""

    value: float | None
    """Mean of the judge's values; None where it could judge no prompt."""
    measure: str
    """What that is: `accuracy`, or a reward with its name."""
    prompts: int
    interval: tuple[float, float] | None
    """95 % interval of the value."""
    rewards: Mapping[str, float]

    @property
    def is_accuracy(self) -> bool:
        return self.measure == "accuracy"


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
        metrics={name: _with_gaps(name, metric, metrics) for name, metric in metrics.items() if name != "time"},
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


def _with_gaps(name: str, metric: Metric, metrics: Mapping[str, Metric]) -> Metric:
    """Add NaN at each step that does not have a metric of every step: a mean over nothing is not logged, and no line is drawn through it."""
    if "time" not in metrics or not any(fnmatchcase(name, pattern) for pattern in OF_EVERY_STEP):
        return metric
    steps = metrics["time"].steps
    steps = np.union1d(metric.steps, steps[(steps > metric.steps[0]) & (steps < metric.steps[-1])])
    values = np.full(len(steps), math.nan)
    values[np.searchsorted(steps, metric.steps)] = metric.values
    return Metric(steps, values)


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
    try:
        found = Evaluation.model_validate_json(_text(file))
    except ValueError:
        return None
    numbers = (found.accuracy, *(found.interval or ()), *found.rewards.values())
    if not all(math.isfinite(number) for number in numbers if number is not None):
        return None
    return HeldOut(found.accuracy, found.measure, found.prompts, found.interval, found.rewards)


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _mapping(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _settings(text: str) -> dict[str, object]:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def name_apart(runs: Sequence[RunRecord]) -> None:
    """Label runs by the shortest ends of their paths that differ. The paths themselves must differ."""
    depth = 1
    while len({run.label for run in runs}) < len(runs):
        depth += 1
        for run in runs:
            run.label = "/".join(run.path.parts[-depth:])
