"""Metrics of a step and lines of a summary: what was measured, and only that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from cluster.loop.loop import StepRecord
from cluster.loop.step_metrics import Busy, RunTotals, percentiles, summary_lines
from cluster.loop.window import Window
from configs.contracts.records import Grades, GroupSummary, PromptId, ScoredGroup, Scores, StepReport
from tests.bodies import NO_BODY


def group(index: int = 0, metrics: Mapping[str, float] | None = None) -> ScoredGroup:
    summary = GroupSummary(PromptId(0, index), 0, 3, (4, 4), (False, False), 0, 0, "rollout 0", 0.0)
    columns = {"format": Grades((0.0, 1.0), ("scored", "scored"))}
    return ScoredGroup(NO_BODY, summary, Scores(summary.prompt_id, 0, (0.0, 1.0), columns, 0.0, metrics=metrics or {}))


def metrics_of(measured: Mapping[str, float], *groups: ScoredGroup) -> dict[str, float]:
    """The metrics of a step whose learner reports `measured`."""
    record = StepRecord(1, StepReport(1, False, measured, 1.0, 10), list(groups or [group()]), 2.0, 0.5, None)
    return RunTotals().step(record, Busy({"rollout-0": 1.0}, 0.1), Window(1, 0))


def test_the_reward_is_repeated_for_the_charts_where_it_was_measured() -> None:
    assert metrics_of({"reward": 0.25, "rewards/accuracy/mean": 0.5})["train/reward"] == 0.25
    assert metrics_of({"reward": 0.25, "rewards/accuracy/mean": 0.5})["train/accuracy"] == 0.5
    assert not {"train/reward", "train/accuracy"} & metrics_of({"train/loss": 0.0}).keys()


def test_what_rewards_log_is_averaged_over_the_groups_that_logged_it() -> None:
    metrics = metrics_of({"reward": 0.5}, group(0, {"numbers": 1.0, "once": 7.0}), group(1, {"numbers": 4.0, "once": math.nan}), group(2))
    assert (metrics["numbers"], metrics["once"]) == (2.5, 7.0)
    assert "never" not in metrics_of({}, group(0, {"never": math.inf})), "no value that is not finite reaches a sink"


@pytest.mark.parametrize(
    "name", ["step", "time", "reward", "step_time", "rewards/format/mean", "rewards/format/crashed", "train/loss", "kl"]
)
def test_what_a_reward_logs_under_a_name_of_ours_does_not_replace_it(name: str) -> None:
    metrics = metrics_of({"reward": 0.5}, group(0, {name: 99.0, "rewards/format/words": 3.0}))
    assert metrics[f"logged/{name}"] == 99.0 and metrics.get(name) != 99.0
    assert metrics["rewards/format/words"] == 3.0


def summary(**values: Any) -> Any:
    return {
        "steps": 6, "completions_per_s": 1.0, "learner_idle": 0.0, "rollout_idle": 0.0, "sync_s": None, "held_out_measure": None,
        "accuracy_before": None, "accuracy_after": None, "reward_before": None, "reward_after": None, "accounting": {},
        "exit_reason": "finished", "nothing_learned": None,
    } | values  # fmt: skip


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"held_out_measure": "accuracy", "accuracy_before": 0.25, "accuracy_after": 0.75}, "held-out accuracy, greedy: 0.250 before, 0.750 after"),
        ({"held_out_measure": "reward (mixed_reward)", "reward_after": 0.004}, "held-out reward (mixed_reward), greedy: - before, 0.004 after"),
    ],
)  # fmt: skip
def test_the_held_out_measurement_is_called_what_it_is(values: dict[str, object], told: str) -> None:
    assert summary_lines(summary(**values))[0] == f"{told} 6 steps"


def test_a_run_that_learned_nothing_says_so_last_and_is_not_told_how_to_be_faster() -> None:
    lines = summary_lines(summary(rollout_idle=0.9, nothing_learned="nothing was learned: why", exit_reason="nothing was learned"))
    assert lines[-2:] == ["ended: nothing was learned", "WARNING: nothing was learned: why"]
    assert not [line for line in lines if "learner-bound" in line]


def test_without_an_adapter_on_its_way_no_time_is_told() -> None:
    assert percentiles([]) is None
    assert summary_lines(summary())[0].endswith("adapter sync -")
