"""The numbers and tables of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from cluster.output.run_dir import COMPLETED_REASONS, NOTHING_LEARNED
from cluster.report.axes import short
from cluster.report.record import HeldOut, RunRecord
from cluster.report.samples import count_outcomes
from configs.contracts.records import FAILED_OUTCOMES, Outcome

ENDS_SHARE = 0.1
"""Share of the steps over which a reward's mean is taken at the start and at the end of the run."""

NOTHING = "–"


@dataclass(frozen=True)
class Fact:
    """One headline number."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class State:
    """The end of a run, in words. `kind` is good, neutral or bad."""

    text: str
    kind: str


@dataclass(frozen=True)
class RewardRow:
    """One reward in the breakdown."""

    name: str
    weight: str
    first: str
    last: str
    held_out: str
    outcomes: Sequence[tuple[str, int, float]]
    """Outcome, how often it occurred, and its share of all."""
    failed: bool


def state_of(run: RunRecord) -> State:
    """Describe how the run ended, according to its summary."""
    reason = run.summary.get("exit_reason")
    if run.running:
        return State("still running", "neutral")
    if not reason:
        return State("no end recorded: it was killed, or is running on another machine", "neutral")
    bad = reason == NOTHING_LEARNED or str(reason).startswith("failed")
    kind = "bad" if bad else "good" if reason in COMPLETED_REASONS else "neutral"
    return State(str(reason), kind)


def nothing_learned(run: RunRecord) -> str:
    """Say why the rewards of a run taught nothing; empty if they did."""
    found = run.summary.get("nothing_learned")
    return f"{found[0].upper()}{found[1:]}." if isinstance(found, str) and found else ""


def headline(run: RunRecord) -> list[Fact]:
    """Collect the numbers to read first. Shares and rates are over all logged steps, also over those before a resumption."""
    facts = [
        _held_out_loss(run) if run.supervised else _held_out_fact(run),
        Fact("steps", f"{run.last_step:,}", _planned(run)),
        *_pace(run),
    ]
    return [fact for fact in facts if fact.value != NOTHING]


def by_name(run: RunRecord) -> dict[str, Fact]:
    """Return the headline facts by name."""
    return {fact.name: fact for fact in headline(run)}


def _held_out_loss(run: RunRecord) -> Fact:
    losses = [run.summary.get(f"eval_loss_{when}") for when in ("before", "after")]
    known = [f"{loss:.3g}" for loss in losses if isinstance(loss, float)]
    return Fact("held-out loss", " → ".join(known) or NOTHING, "nats a token")


def _held_out_fact(run: RunRecord) -> Fact:
    measured = run.after or run.before
    if measured is None:
        return Fact("held-out", NOTHING)
    form = "{:.1%}" if measured.is_accuracy else "{:.3g}"
    held_out = [each for each in (run.before, run.after) if each is not None]
    ranges = [" to ".join(form.format(bound) for bound in each.interval) for each in held_out if each.interval]
    return Fact(
        f"held-out {measured.measure}",
        " → ".join(NOTHING if each is None or each.value is None else form.format(each.value) for each in (run.before, run.after)),
        f"95 % intervals {', '.join(ranges)}; " * bool(ranges) + f"greedy, on {measured.prompts:,} prompts that are not trained on",
    )


def _planned(run: RunRecord) -> str:
    planned = run.setting("learner.max_steps")
    return f"of {planned:,}" if isinstance(planned, int) and planned > 0 else ""


def _pace(run: RunRecord) -> Iterator[Fact]:
    step_s = run.total("step_time")
    if not step_s:
        return
    steps = len(run.metrics["step_time"].steps)
    yield Fact("training time", duration(step_s), f"{step_s / steps:.3g} s a step")
    batch = run.setting("learner.train_batch_size")
    if isinstance(batch, int):
        yield Fact("sequences per second" if run.supervised else "completions per second", short(batch * steps / step_s))
    if "timing/wait_s" in run.metrics:
        yield Fact("learner idle", f"{min(1.0, run.total('timing/wait_s') / step_s):.0%}", "of the time, waiting for groups")
    if "timing/generate_s" in run.metrics:
        yield Fact(
            "engines idle", f"{max(0.0, 1 - run.total('timing/generate_s') / step_s):.0%}", "of the time, without anything to sample"
        )
    sync = run.summary.get("sync_s")
    if isinstance(sync, dict) and sync.get("p50"):
        yield Fact(
            "adapter sync",
            f"{sync['p50']:.3g} s",
            f"median time to bring a new adapter to every engine; 95th percentile {sync.get('p95', math.nan):.3g} s",
        )


def duration(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def wall_time(run: RunRecord) -> str | None:
    """Add up all phases since the run was last started; None if none is recorded."""
    seconds = [value for _, value in phases(run)]
    return duration(sum(seconds)) if seconds else None


def phases(run: RunRecord) -> list[tuple[str, float]]:
    """List the phases since the run was last started, with their seconds."""
    found = run.summary.get("phase_s")
    return [(name, value) for name, value in found.items() if isinstance(value, (int, float))] if isinstance(found, dict) else []


def phase_rows(run: RunRecord) -> list[tuple[str, str]]:
    """Make a table of the phases."""
    return [(name, duration(seconds)) for name, seconds in phases(run)]


def accounting(run: RunRecord) -> list[tuple[str, str]]:
    """List the fate of every prompt drawn."""
    found = run.summary.get("accounting")
    return [(name.replace("_", " "), _plain(value)) for name, value in found.items()] if isinstance(found, dict) else []


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count}" for name, count in value.items()) or NOTHING
    return f"{value:,}" if isinstance(value, int) else str(value)


def all_were_counted(run: RunRecord) -> bool:
    """Tell whether the outcomes count every completion since the last start; otherwise they count the completions stored on disk."""
    return bool(_counted(run))


def _counted(run: RunRecord) -> Mapping[str, Mapping[str, int]]:
    rewards = run.summary.get("rewards")
    outcomes = rewards.get("outcomes") if isinstance(rewards, dict) else None
    return outcomes if isinstance(outcomes, dict) else {}


def reward_rows(run: RunRecord) -> list[RewardRow]:
    """Make a row for each reward: its mean at the start, at the end and on held-out prompts, and the outcomes of calling it."""
    outcomes = _counted(run) or count_outcomes(run.path / "completions")
    of_metrics = [name.removeprefix("rewards/").removesuffix("/mean") for name in run.metrics if _is_reward_mean(name)]
    weights = _weights(run)
    return [
        RewardRow(
            name,
            weights.get(name, NOTHING),
            *_ends(run, f"rewards/{name}/mean"),
            f"{_of_reward(run.before, name)} → {_of_reward(run.after, name)}" if run.before or run.after else NOTHING,
            _shares(outcomes.get(name, {})),
            any(outcomes.get(name, {}).get(outcome) for outcome in FAILED_OUTCOMES),
        )
        for name in dict.fromkeys([*weights, *of_metrics, *outcomes])
        if name in of_metrics or name in outcomes
    ]


def _is_reward_mean(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean")


def _weights(run: RunRecord) -> dict[str, str]:
    functions = run.setting("rewards.functions")
    specs = [spec for spec in functions if isinstance(spec, dict) and "name" in spec] if isinstance(functions, list) else []
    return {str(spec["name"]).rpartition(":")[2]: f"{spec.get('weight', 1.0):g}" for spec in specs}


def _ends(run: RunRecord, name: str) -> tuple[str, str]:
    if name not in run.metrics:
        return NOTHING, NOTHING
    values = run.metrics[name].values
    count = max(1, int(len(values) * ENDS_SHARE))
    return tuple(short(_mean(part)) for part in (values[:count].tolist(), values[-count:].tolist()))  # type: ignore[return-value]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _of_reward(held_out: HeldOut | None, name: str) -> str:
    value = held_out.rewards.get(name) if held_out else None
    return f"{value:.3g}" if isinstance(value, (int, float)) else NOTHING


def _shares(counts: Mapping[str, int]) -> list[tuple[str, int, float]]:
    """List outcomes with count and share: known ones in the order of `Outcome`, then any others."""
    total = sum(counts.values())
    names = [
        *(outcome for outcome in get_args(Outcome) if counts.get(outcome)),
        *(name for name in counts if name not in get_args(Outcome)),
    ]
    return [(name, counts[name], counts[name] / total) for name in names]


def differing_settings(runs: Sequence[RunRecord]) -> list[list[str]]:
    """List the settings in which the runs differ, except `out_dir`: name, then the value in each run."""
    flat = [dict(_flattened(run.settings)) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings if name != "out_dir")
    rows = [[name, *(settings.get(name, NOTHING) for settings in flat)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _flattened(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)
