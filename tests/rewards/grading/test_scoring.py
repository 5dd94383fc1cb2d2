"""Verdicts to scores: None, failures, and the weighted sum."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from configs.schema.rewards import RewardsSection
from rewards.grading.calling import GradeReport
from rewards.grading.scoring import aggregate, as_input
from tests.rewards.groups import rollout_group

GROUP = rollout_group(["a", "b", "c"], solution="4")

ACCURACY = GradeReport([1.0, None, 0.0], ["scored", "timeout", "scored"], "no answer within 10 s")
FORMAT = GradeReport([1.0, 0.5, None], ["scored", "scored", "skipped"], metrics={"share": [0.0, 1.0]}, extras={"note": ["x", "y", "z"]})


def section(on_error: str = "exclude", accuracy_weight: float = 2.0) -> RewardsSection:
    functions = [{"name": "accuracy", "weight": accuracy_weight}, {"name": "format", "weight": 0.5}]
    return RewardsSection.model_validate({"functions": functions, "on_error": on_error})


def rewards_G(**settings: Any) -> tuple[float | None, ...]:
    return aggregate(section(**settings), GROUP, [ACCURACY, FORMAT], 0.1).rewards_G


def test_a_none_takes_no_part_and_a_failure_excludes_the_completion() -> None:
    assert rewards_G(on_error="exclude") == (2.5, None, 0.0)


def test_on_error_zero_counts_the_failed_part_as_zero() -> None:
    assert rewards_G(on_error="zero") == (2.5, 0.25, 0.0)


def test_a_reward_of_weight_zero_only_watches() -> None:
    assert rewards_G(accuracy_weight=0.0) == (0.5, 0.25, 0.0)


def test_a_completion_of_which_all_rewards_say_none_has_no_reward() -> None:
    nothing = GradeReport([None] * 3, ["skipped"] * 3)
    assert aggregate(section(), GROUP, [nothing, nothing], 0.1).rewards_G == (None, None, None)


def test_what_two_rewards_log_under_one_name_is_averaged_together() -> None:
    other = replace(FORMAT, metrics={"share": [5.0], "words": [7.0]})
    scores = aggregate(section(), GROUP, [FORMAT, other], 0.0)
    assert scores.metrics == {"share": 2.0, "words": 7.0}


def test_scores_carry_columns_metrics_extras_and_the_first_error() -> None:
    scores = aggregate(section(), GROUP, [ACCURACY, FORMAT], 0.1)
    assert scores.prompt_id == GROUP.prompt_id
    assert scores.columns["accuracy"].outcomes_G == ("scored", "timeout", "scored")
    assert scores.columns["accuracy"].values_G == (1.0, None, 0.0)
    assert scores.metrics == {"share": 0.5}
    assert scores.extras == {"note": ("x", "y", "z")}
    assert scores.first_error == "reward accuracy: no answer within 10 s"


def normalised(accuracy: list[float | None], form: list[float | None]) -> tuple[tuple[float | None, ...], bool]:
    settings = section().model_copy(update={"aggregation": "normalize_then_sum"})
    reports = [GradeReport(values, ["skipped" if value is None else "scored" for value in values]) for values in (accuracy, form)]
    scores = aggregate(settings, GROUP, reports, 0.1)
    return scores.training_rewards_G, scores.zero_variance


def test_normalize_then_sum_weighs_rewards_that_were_normalised_in_their_group() -> None:
    # accuracy: mean 1/3, unbiased deviation sqrt(1/3); format: mean 0.2, deviation 0.1; weights 2 and 0.5
    deviation = math.sqrt(1 / 3) + 1e-4
    rewards_G, zero_variance = normalised([1.0, 0.0, 0.0], [0.1, 0.2, 0.3])
    expected_G = [2 * (2 / 3) / deviation - 0.5 * 0.1 / 0.1001, -2 / 3 / deviation, -2 / 3 / deviation + 0.5 * 0.1 / 0.1001]
    assert rewards_G == pytest.approx(expected_G, rel=1e-12)
    assert not zero_variance


def test_normalize_then_sum_leaves_none_out_of_the_statistics() -> None:
    rewards_G, _ = normalised([1.0, None, 0.0], [0.3, None, 0.3])
    deviation = math.sqrt(1 / 2) + 1e-4
    assert rewards_G == (pytest.approx(2 * 0.5 / deviation), None, pytest.approx(-2 * 0.5 / deviation))


def test_zero_variance_is_judged_on_what_advantages_come_from() -> None:
    assert normalised([1.0, 1.0, 1.0], [0.1, 0.1, 0.1])[1]
    assert normalised([0.1, 0.1, 0.1], [0.7, 0.7, 0.7]) == ((0.0, 0.0, 0.0), True)
    # the plain sums are equal, 2 x 0.25 + 0.5 x 0 = 2 x 0 + 0.5 x 1, but each reward has a preference
    assert not normalised([0.25, 0.0, 0.0], [0.0, 1.0, 1.0])[1]
    assert aggregate(
        section(), GROUP, [GradeReport([0.25, 0.0, 0.0], ["scored"] * 3), GradeReport([0.0, 1.0, 1.0], ["scored"] * 3)], 0.1
    ).zero_variance


@pytest.mark.parametrize(("conversational", "prompt"), [(False, "2+2?"), (True, [{"role": "user", "content": "2+2?"}])])
def test_a_body_becomes_what_rewards_see(conversational: bool, prompt: object) -> None:
    seen = as_input(rollout_group(["a", "b"], conversational=conversational, solution="4"), step=3, with_token_ids=True)
    assert (seen.prompt, seen.texts_G, seen.token_ids_G, seen.columns, seen.step) == (
        prompt,
        ["a", "b"],
        [[5, 6]] * 2,
        {"solution": "4"},
        3,
    )
