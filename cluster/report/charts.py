"""The charts of a report, and the metrics that each shows. A metric that a run did not log has no chart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from cluster.report.axes import Scale
from cluster.report.drawing import Chart, LineChart, Mark, Series, StackedChart
from cluster.report.record import HeldOut, RunRecord

POINTS = 240
"""Greatest number of points in a line, in the report of one run."""

OVERLAID_POINTS, FEWEST_POINTS = 480, 24
"""Points that the lines of several runs share in a chart, so that the file stays below 2 MB; and the fewest that each gets."""

RAW_UP_TO_RUNS = 3
"""Raw points are drawn for at most so many runs."""

OTHER_CHARTS = 24
"""Greatest number of charts for metrics that are not named below, such as those that a reward logs with `log_metric`."""


@dataclass(frozen=True)
class Curve:
    """For one run: one chart of several metrics. For several runs: one chart for each metric, with a line for each run."""

    title: str
    lines: tuple[tuple[str, str], ...]
    """Label and metric of each line. A `*` in the metric makes a line for every metric that matches, labelled with the matching part."""
    scale: Scale = "plain"
    smooth: bool = True
    note: str = ""


@dataclass(frozen=True)
class TimeShares:
    """For one run: how the time of a step is spent in one role. For several runs: the metric `idle` of each."""

    title: str
    parts: tuple[tuple[str, str], ...]
    rest: str
    idle: str
    workers: str = ""
    """Setting with the number of workers, if the parts are seconds of all workers together. A step then has (workers x step time) seconds to share."""
    note: str = ""


SECTIONS: tuple[tuple[str, tuple[Curve | TimeShares, ...]], ...] = (
    (
        "Learning",
        (
            Curve("Reward", (("reward", "train/reward"),)),
            Curve("Parts of the reward", (("", "rewards/*/mean"),), note="mean of each reward, not yet multiplied by its weight"),
            Curve("Accuracy", (("sampled", "train/accuracy"),), "share"),
            Curve(
                "Evaluation",
                (("", "eval/*/accuracy"), ("", "eval/*/reward")),
                smooth=False,
                note="every evaluation.steps steps, on each evaluation set",
            ),
            Curve("Evaluation: pass@k and majority", (("", "eval/*/pass@*"), ("", "eval/*/maj@*")), "share", smooth=False),
            Curve(
                "Spread within groups",
                (("standard deviation", "reward_std"),),
                note="of the rewards of one prompt's completions (a group); at 0, the group teaches nothing",
            ),
            Curve("Groups of equal rewards", (("share", "frac_reward_zero_std"),), "share"),
            Curve(
                "Entropy, nats",
                (("entropy", "entropy"),),
                note="how varied the policy's choice of a token is; at 0 it always chooses the same",
            ),
            Curve("KL to the reference, nats", (("kl", "kl"),), "log", note="distance from the base model, per token"),
            Curve("Gradient norm", (("before clipping", "train/grad_norm"),), "log"),
            Curve("Learning rate", (("learning rate", "train/learning_rate"),), smooth=False),
            Curve("Loss", (("loss", "train/loss"), ("held out", "eval/loss")), "spiky"),
            Curve("Token accuracy", (("trained", "train/mean_token_accuracy"), ("held out", "eval/mean_token_accuracy")), "share"),
            Curve("Clipped tokens", (("", "clip_ratio/*"),), "share", note="tokens outside the clip range, which have no gradient"),
        ),
    ),
    (
        "Completions",
        (
            Curve(
                "Length, tokens",
                (("mean", "completions/mean_length"), ("shortest", "completions/min_length"), ("longest", "completions/max_length")),
            ),
            Curve("Cut off at the limit", (("share", "completions/clipped_ratio"),), "share"),
            Curve("Evaluation: length, tokens", (("", "eval/*/mean_length"),), smooth=False),
            Curve("Evaluation: cut off at the limit", (("", "eval/*/clipped_ratio"),), "share", smooth=False),
        ),
    ),
    (
        "Staleness and mismatch",
        (
            Curve(
                "Staleness, steps",
                (("mean", "staleness/mean"), ("max", "staleness/max")),
                note="between sampling a completion and training on it",
            ),
            Curve(
                "Log-probability difference, nats",
                (("mean", "sampling/logp_difference/mean"), ("max", "sampling/logp_difference/max")),
                "log",
                note="between engine and learner, for the sampled tokens",
            ),
            Curve(
                "Importance ratio", (("", "sampling/importance_ratio/*"),), note="weight that corrects for the log-probability difference"
            ),
            Curve(
                "Canary difference after a sync",
                (("difference", "sync/canary_difference"),),
                "log",
                note="log-probability difference on a fixed prompt (the canary), right after the engines loaded an adapter",
            ),
        ),
    ),
    (
        "Speed",
        (
            TimeShares(
                "Learner's time", (("training", "timing/train_s"), ("waiting for groups", "timing/wait_s")), "other", "learner/idle"
            ),
            TimeShares("Engines' time", (("sampling", "timing/generate_s"),), "idle", "rollout/idle"),
            TimeShares("Reward workers' time", (("grading", "timing/score_s"),), "idle", "", workers="rewards.num_workers"),
            Curve("Step time, s", (("step", "step_time"),), "spiky"),
            Curve("Tokens per second", (("sampled", "rollout/tokens_per_s"), ("trained", "learner/tokens_per_s"))),
            Curve("Tokens trained on", (("tokens", "num_tokens"),), smooth=False),
            Curve("Adapter sync, s", (("whole", "sync/total_s"), ("engines paused", "sync/paused_s")), "spiky"),
            Curve(
                "Groups under way",
                (("ready", "window/ready"), ("in flight", "window/in_flight")),
                note="ready: waiting for the learner; in flight: being sampled or scored",
            ),
            Curve(
                "Groups sampled again",
                (("too old", "window/reissued_stale"),),
                smooth=False,
                note="because they were too old to train on; since the start",
            ),
            Curve("Fill of the packed rows", (("used", "packing/fill"),), "share", note="the rest is padding"),
        ),
    ),
)

NOT_ALSO_LOGGED = ("reward", "train/*", "rewards/*", "eval/*", "sync/bytes", "timing/*", "learner/idle", "rollout/idle", "epoch")
"""Metrics that the section "Also logged" leaves out: another chart shows them, perhaps under another name."""


@dataclass(frozen=True)
class Section:
    title: str
    charts: Sequence[Chart]


def draw_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Draw the sections of a report, without those that have no chart."""
    found = [
        Section(title, [chart for spec in specs for drawn in _drawn(spec, runs) if (chart := drawn)])
        for title, specs in (*SECTIONS, ("Also logged", tuple(_others(runs))))
    ]
    return [section for section in found if section.charts]


def charts_titled(run: RunRecord, titles: Sequence[str]) -> list[Chart]:
    """Draw the charts with these titles for one run, in that order. Charts that the run has no metrics for are left out."""
    specs = {spec.title: spec for _, specs in SECTIONS for spec in specs if isinstance(spec, Curve)}
    return [chart for title in titles if (chart := _one_run(specs[title], run)) is not None]


def _others(runs: Sequence[RunRecord]) -> Iterator[Curve]:
    known = [
        *NOT_ALSO_LOGGED,
        *(pattern for _, specs in SECTIONS for spec in specs if isinstance(spec, Curve) for _, pattern in spec.lines),
    ]
    names = sorted({name for run in runs for name in run.metrics})
    others = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in known)]
    for name in others[:OTHER_CHARTS]:
        yield Curve(
            name, ((name, name),), note=f"{len(others) - OTHER_CHARTS} more are in metrics.jsonl" * (name in others[OTHER_CHARTS - 1 :])
        )


def _drawn(spec: Curve | TimeShares, runs: Sequence[RunRecord]) -> Iterator[Chart | None]:
    if len(runs) > 1:
        yield from _overlaid(spec if isinstance(spec, Curve) else Curve(spec.title, (("idle", spec.idle),), "share"), runs)
    elif isinstance(spec, TimeShares):
        yield _time_shares(spec, runs[0])
    else:
        yield _one_run(spec, runs[0])


def _one_run(spec: Curve, run: RunRecord) -> Chart | None:
    lines = list(dict.fromkeys(_lines(spec, [run])))
    series = [Series(label, *run.metrics[name], style=style) for style, (label, name) in enumerate(lines)]
    marks = _held_out_marks(run) if spec.title == "Accuracy" else ()
    return LineChart(spec.title, series, spec.scale, spec.smooth, spec.note, marks, run.resumed_at, POINTS).draw()


def _overlaid(spec: Curve, runs: Sequence[RunRecord]) -> Iterator[Chart | None]:
    lines = _lines(spec, runs)
    points = min(POINTS, max(FEWEST_POINTS, OVERLAID_POINTS // len(runs)))
    for label, name in lines:
        title = spec.title if len(lines) == 1 else f"{spec.title}: {label}"
        series = [Series(run.label, *run.metrics[name], style=style) for style, run in enumerate(runs) if name in run.metrics]
        chart = LineChart(title, series, spec.scale, spec.smooth, spec.note, points=points, with_raw=len(runs) <= RAW_UP_TO_RUNS)
        yield chart.draw()


def _lines(spec: Curve, runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """List label and name of each metric of the chart that at least one run logged."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    found = []
    for label, pattern in spec.lines:
        before, _, after = pattern.partition("*")
        fitting = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        found += [(label or name.removeprefix(before).removesuffix(after), name) for name in fitting]
    return found


def _time_shares(spec: TimeShares, run: RunRecord) -> Chart | None:
    needed = ["step_time", *(name for _, name in spec.parts)]
    if any(name not in run.metrics for name in needed):
        return None
    steps = run.metrics["step_time"].steps
    parts = [(label, _at(run, name, steps)) for label, name in spec.parts]
    workers = run.setting(spec.workers) if spec.workers else 1
    whole = run.metrics["step_time"].values * (workers if isinstance(workers, int) else 1)
    return StackedChart(spec.title, steps, parts, whole, spec.rest, spec.note).draw()


def _at(run: RunRecord, name: str, steps: np.ndarray) -> np.ndarray:
    """Return the values of a metric at these steps, NaN where it was not logged."""
    found = np.full(len(steps), np.nan)
    of_metric, values = run.metrics[name]
    _, here, there = np.intersect1d(steps, of_metric, return_indices=True)
    found[here] = values[there]
    return found


def _held_out_marks(run: RunRecord) -> list[Mark]:
    """Make marks for the held-out accuracy before and after training, with its intervals, where an accuracy was measured."""
    marks: list[Mark] = []
    evaluations: list[tuple[HeldOut | None, int]] = [(run.before, 0), (run.after, run.last_step)]
    for evaluation, step in evaluations:
        if evaluation is not None and evaluation.is_accuracy and evaluation.value is not None and evaluation.interval is not None:
            marks.append(Mark("held-out, greedy", step, evaluation.value, *evaluation.interval))
    return marks
