"""The metrics of a step that the loop knows (time, idle shares, tokens a second, window, sync), and the summary of a run.

docs/metrics.md explains each name. The learner computes the others, which the loop passes on: rewards and lengths in
`learner.grpo.batch_metrics`, the loss in `learner.grpo.loss` and `learner.grpo.importance`, learning rate and gradient norm in
`learner.grpo.learner`, speed in `learner.engine.throughput`. Supervised fine-tuning has its own, in `learner.sft.trainer`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TypedDict, get_args

from cluster.loop.loop import StepRecord, TrainLoop
from cluster.loop.window import AccountingTotals, Window
from configs.contracts.records import Outcome, ScoredGroup, SyncReport

SAME_AS = {"train/reward": "reward", "train/accuracy": "rewards/accuracy/mean"}
"""Metrics that repeat another one, where that was measured."""

OWN = (
    "step", "time", "train/*", "reward", "reward_std", "frac_reward_zero_std", "rewards/*/mean", "rewards/*/std",
    *(f"rewards/*/{outcome}" for outcome in get_args(Outcome)), "eval/*", "entropy", "kl", "policy_loss", "clip_ratio/*", "cispo_clip_ratio",
    "staleness/*", "sampling/*", "sync/*", "completions/*", "num_tokens", "packing/*", "step_time", "timing/*", "learner/*", "rollout/*", "mfu",
    "window/*", "epoch",
)  # fmt: skip
"""Names of rollcast's metrics, and of the fields of a line of metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Seconds with work since the workers started: of every rollout worker by name, and of the reward workers together."""

    rollout_s: Mapping[str, float]
    reward_s: float


@dataclass
class RunTotals:
    """Sums over the steps of a run, from which shares and rates are derived."""

    completions: int = 0
    completion_tokens: int = 0
    train_s: float = 0.0
    score_s: float = 0.0
    step_s: float = 0.0
    generate_s: float = 0.0
    """Seconds with work of one rollout worker, on average over the workers."""
    step_seconds: list[float] = field(default_factory=list)
    _before: Busy = field(default_factory=lambda: Busy({}, 0.0))

    def begin(self, busy: Busy) -> None:
        """Training begins, or begins again; `busy` is what the workers have worked so far."""
        self._before = busy

    def step(self, record: StepRecord, busy: Busy, window: Window) -> dict[str, float]:
        """Add one step; returns its metrics. `busy` holds the running totals of the workers."""
        report, groups = record.report, record.groups
        completion_tokens = sum(sum(group.summary.completion_tokens_G) for group in groups)
        busy_s, score_s = self._rollout_gain_s(busy), busy.reward_s - self._before.reward_s
        self._before = busy
        self._add(record, completion_tokens, score_s, busy_s)
        metrics = dict(report.metrics)
        metrics |= {same: metrics[name] for same, name in SAME_AS.items() if name in metrics}
        metrics |= {
            "step_time": record.step_s,
            "timing/generate_s": busy_s,
            "timing/score_s": score_s,
            "timing/train_s": report.train_s,
            "timing/wait_s": record.wait_s,
            "learner/idle": _share(record.wait_s, record.step_s),
            "rollout/idle": max(0.0, 1.0 - _share(busy_s, record.step_s)),
            "rollout/tokens_per_s": completion_tokens / record.step_s if record.step_s else 0.0,
            "learner/tokens_per_s": report.tokens / report.train_s if report.train_s else 0.0,
            "window/ready": float(window.ready),
            "window/in_flight": float(window.in_flight),
            "window/reissued_stale": float(window.reissued_stale),
        }
        if record.sync is not None:
            metrics |= _sync_metrics(record.sync)
        return logged_metrics(groups) | metrics

    def _rollout_gain_s(self, busy: Busy) -> float:
        """Seconds since the step before, averaged over the workers. A worker that was replaced counts from 0 again."""
        before_s = self._before.rollout_s
        gains = [_gain(before_s.get(name, 0.0), now) for name, now in busy.rollout_s.items()]
        return sum(gains) / len(gains) if gains else 0.0

    def _add(self, record: StepRecord, completion_tokens: int, score_s: float, busy_s: float) -> None:
        self.completions += sum(len(group.summary.completion_tokens_G) for group in record.groups)
        self.completion_tokens += completion_tokens
        self.train_s += record.report.train_s
        self.score_s += score_s
        self.step_s += record.step_s
        self.generate_s += busy_s
        self.step_seconds.append(record.step_s)


def logged_metrics(groups: Sequence[ScoredGroup]) -> dict[str, float]:
    """The values that rewards logged by `log_metric`, each averaged over the groups that have a finite one.

    A name that rollcast itself uses gets the prefix `logged/`.
    """
    values: dict[str, list[float]] = {}
    for group in groups:
        for name, value in group.scores.metrics.items():
            if math.isfinite(value):
                values.setdefault(f"logged/{name}" if any(fnmatchcase(name, own) for own in OWN) else name, []).append(value)
    return {name: statistics.fmean(found) for name, found in values.items()}


def _sync_metrics(sync: SyncReport) -> dict[str, float]:
    return {
        "sync/total_s": sync.total_s,
        "sync/paused_s": sync.paused_s,
        "sync/bytes": float(sync.nbytes),
        "sync/canary_difference": sync.canary_difference,
    }


class Percentiles(TypedDict):
    """The median and the 95th percentile, in seconds."""

    p50: float
    p95: float


class SecondsPerStep(TypedDict):
    """Mean seconds of a step, and of its parts, which overlap."""

    step: float
    generate: float
    score: float
    train: float


class LoopSummary(TypedDict):
    """The part of `summary.json` that the loop knows."""

    steps: int
    completions_per_s: float
    tokens_per_s: float
    learner_idle: float
    rollout_idle: float
    seconds_per_step: SecondsPerStep | None
    """None where no step was done."""
    sync_s: Percentiles | None
    sync_paused_s: Percentiles | None
    sync_bytes: int | None
    canary_difference: float | None
    """None where no adapter was broadcast."""
    reissued_stale: int
    accounting: AccountingTotals


class HeldOutSummary(TypedDict):
    """The held-out measurements before and after training; None where nothing was measured, or something else."""

    held_out_measure: str | None
    """`accuracy`, or the rewards that the mean is of: `reward (mixed_reward)`."""
    accuracy_before: float | None
    accuracy_after: float | None
    """None also where the judge is no accuracy reward."""
    reward_before: float | None
    reward_after: float | None
    """None also where the judge is an accuracy reward."""


class RunSummary(LoopSummary, HeldOutSummary):
    """The part of `summary.json` that is shown at the end of a run."""

    exit_reason: str
    nothing_learned: str | None
    """Why the rewards taught nothing, and what to look at; None if they did."""


def run_summary(totals: RunTotals, loop: TrainLoop) -> LoopSummary:
    """The part of `summary.json` that the loop knows."""
    steps, syncs = len(totals.step_seconds), loop.adapter_sync.reports
    elapsed_s = loop.elapsed_s or 1e-9
    generate_s = totals.generate_s
    return {
        "steps": loop.window.steps_taken,
        "completions_per_s": totals.completions / elapsed_s,
        "tokens_per_s": totals.completion_tokens / elapsed_s,
        "learner_idle": _share(loop.waited_s, elapsed_s),
        "rollout_idle": max(0.0, 1.0 - _share(generate_s, elapsed_s)),
        "seconds_per_step": {
            "step": elapsed_s / steps,
            "generate": generate_s / steps,
            "score": totals.score_s / steps,
            "train": totals.train_s / steps,
        }
        if steps
        else None,
        "sync_s": percentiles([sync.total_s for sync in syncs]),
        "sync_paused_s": percentiles([sync.paused_s for sync in syncs]),
        "sync_bytes": syncs[-1].nbytes if syncs else None,
        "canary_difference": max((sync.canary_difference for sync in syncs), default=None),
        "reissued_stale": loop.window.reissued_stale,
        "accounting": loop.window.accounting().as_json(),
    }


IDLE_WORTH_SAYING = 0.15
"""Idle share of a role above which the summary says what to change."""


def summary_lines(summary: RunSummary) -> list[str]:
    """Say in a few lines how the run went, from `summary.json`."""
    sync, lines = summary["sync_s"], []
    held_out = [(summary["accuracy_before"], summary["accuracy_after"]), (summary["reward_before"], summary["reward_after"])]
    for before, after in held_out:
        if before is not None or after is not None:
            known = " before, ".join("-" if value is None else f"{value:.3f}" for value in (before, after))
            lines.append(f"held-out {summary['held_out_measure']}, greedy: {known} after {summary['steps']} steps")
    synced = f"p50 {sync['p50']:.3f} s, p95 {sync['p95']:.3f} s" if sync else "-"
    lines.append(
        f"{summary['completions_per_s']:.1f} completions/s; learner idle {summary['learner_idle']:.0%}, rollouts idle "
        f"{summary['rollout_idle']:.0%}; adapter sync {synced}"
    )
    nothing_learned = summary["nothing_learned"]
    if nothing_learned is None and (sentence := advice(summary)) is not None:
        lines.append(sentence)
    warning = [f"WARNING: {nothing_learned}"] if nothing_learned else []
    return [*lines, f"accounting: {summary['accounting']}", f"ended: {summary['exit_reason']}", *warning]


def advice(summary: RunSummary) -> str | None:
    """One sentence on what bounds the run, if anything is idle enough to be worth a change."""
    learner, rollouts = summary["learner_idle"], summary["rollout_idle"]
    if max(learner, rollouts) < IDLE_WORTH_SAYING:
        return None
    if learner > rollouts:
        return f"rollout-bound: the learner was idle {learner:.0%} of the time; more rollout workers or a larger cluster.max_staleness would help"
    return (
        f"learner-bound: the engines were idle {rollouts:.0%} of the time; more learner ranks or a larger cluster.max_staleness would help"
    )


def percentiles(seconds: Sequence[float]) -> Percentiles | None:
    """The median and the 95th percentile (nearest rank); None of nothing."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return {"p50": statistics.median(ordered), "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]}


def _gain(before_s: float, now_s: float) -> float:
    return now_s - before_s if now_s >= before_s else now_s


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole else 0.0
