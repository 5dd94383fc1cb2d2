"""Metrics of a step's groups: what was measured, and only that."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from configs.contracts.metrics import values
from configs.contracts.records import Grades, GroupSummary, Outcome, PromptId, ScoredGroup, Scores
from learner.grpo.batch_metrics import batch_metrics
from tests.bodies import NO_BODY


def scored(rewards_G: Sequence[float | None], outcomes_G: Sequence[Outcome], *, truncated: bool = False) -> ScoredGroup:
    """Make a group with one reward, called accuracy."""
    size = len(rewards_G)
    summary = GroupSummary(PromptId(0, 1), 0, 3, (4,) * size, (truncated,) * size, 0, 0, "rollout 0", 0.0)
    columns = {"accuracy": Grades(tuple(rewards_G), tuple(outcomes_G))}
    return ScoredGroup(NO_BODY, summary, Scores(summary.prompt_id, 0, tuple(rewards_G), columns, 0.0))


def test_a_step_without_any_reward_has_no_mean_and_no_deviation_of_rewards() -> None:
    metrics = values(batch_metrics([scored((None, None), ("crashed", "timeout"))] * 2, 0))
    absent = {"reward", "reward_std", "rewards/accuracy/mean", "rewards/accuracy/std"}
    assert not absent & metrics.keys()
    assert metrics["frac_reward_zero_std"] == 1.0, "the groups teach nothing"


def test_a_step_whose_completions_are_all_cut_off_has_no_length_of_others() -> None:
    metrics = values(batch_metrics([scored((0.0, 1.0), ("scored", "scored"), truncated=True)], 0))
    assert not [name for name in metrics if "terminated" in name]
    assert metrics["completions/mean_length"] == 4


def test_a_group_without_rewards_does_not_lower_the_spread_of_the_others() -> None:
    metrics = values(batch_metrics([scored((0.0, 1.0), ("scored", "scored")), scored((None, None), ("crashed", "crashed"))], 0))
    assert metrics["reward"] == 0.5 and metrics["reward_std"] == pytest.approx(0.5**0.5)


def test_every_outcome_of_every_reward_is_counted() -> None:
    metrics = values(batch_metrics([scored((0.0, None, 1.0), ("unparsable_answer", "crashed", "scored"))] * 2, 0))
    counts = {name.removeprefix("rewards/accuracy/"): count for name, count in metrics.items() if name.startswith("rewards/accuracy/")}
    del counts["mean"], counts["std"]
    assert counts == {
        "scored": 2, "skipped": 0, "unparsable_gold": 0, "unparsable_answer": 2, "timeout": 0, "crashed": 2, "invalid": 0,
    }  # fmt: skip
