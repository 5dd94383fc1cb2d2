"""Advantages: TRL's three scalings, RLOO and REINFORCE++ against loops, rewards that are None, and what holds for any rewards."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from configs.contracts.records import GroupSummary, PromptId, ScoredGroup, Scores
from learner.grpo.advantage import (
    advantages_of,
    group_std,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    step_advantages,
    without_masked,
    without_zeros,
)
from tests.bodies import NO_BODY

rewards = st.floats(-10, 10).map(lambda value: round(value, 3))
groups_of = st.lists(st.lists(st.one_of(st.none(), rewards), min_size=2, max_size=8), min_size=1, max_size=5)


def test_group_scaling_is_trls() -> None:
    rewards_PG = [[1.0, 0.0, 0.0, 0.5], [2.0, 2.0, 0.0, 1.0]]
    values = torch.tensor(rewards_PG, dtype=torch.float64)
    expected = (values - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + 1e-4)
    assert advantages_of(rewards_PG, "group") == [pytest.approx(row) for row in expected.tolist()]


def test_batch_scaling_divides_by_the_deviation_of_all_rewards() -> None:
    rewards_PG = [[1.0, 0.0], [5.0, 1.0]]
    divisor = np.std([1.0, 0.0, 5.0, 1.0], ddof=1) + 1e-4
    assert advantages_of(rewards_PG, "batch") == [
        pytest.approx((0.5 / divisor, -0.5 / divisor)),
        pytest.approx((2 / divisor, -2 / divisor)),
    ]


def scored(rewards_G: tuple[float, ...], normalised_rewards_G: tuple[float, ...] | None = None) -> ScoredGroup:
    summary = GroupSummary(PromptId(0, 0), 0, 1, (1,) * len(rewards_G), (False,) * len(rewards_G), 0, 0, "rollout-0", 0.1)
    return ScoredGroup(NO_BODY, summary, Scores(PromptId(0, 0), 0, rewards_G, {}, 0.0, normalised_rewards_G))


def test_a_step_of_normalised_sums_is_divided_by_their_deviation_over_the_step() -> None:
    sums_PG = [(1.5, -0.5, -1.0), (0.3, 0.2, -0.5)]
    flat = torch.tensor(sums_PG, dtype=torch.float64).flatten()
    expected = ((flat - flat.mean()) / (flat.std() + 1e-4)).view(2, 3)  # TRL's normalize_then_sum
    found = step_advantages([scored((0.0,) * 3, sums_G) for sums_G in sums_PG], "none")
    assert found == [pytest.approx(row, abs=1e-12) for row in expected.tolist()]
    assert step_advantages([scored((1.0, 0.0))], "none") == [(0.5, -0.5)]


def test_a_completion_without_a_reward_is_out_of_the_statistics() -> None:
    (with_none,) = advantages_of([[1.0, None, 0.0, 0.5]], "group")
    (without,) = advantages_of([[1.0, 0.0, 0.5]], "group")
    assert with_none == (without[0], None, without[1], without[2])
    assert advantages_of([[None, 3.0], [None, None]], "group") == [(None, 0.0), (None, None)]
    assert group_std([None, 3.0]) == 0.0


@given(groups_of, st.sampled_from(["group", "batch", "none"]))
def test_each_group_sums_to_zero_and_keeps_its_order(rewards_PG: list[list[float | None]], scale_rewards: str) -> None:
    for rewards_G, advantages_G in zip(rewards_PG, advantages_of(rewards_PG, scale_rewards), strict=True):  # type: ignore[arg-type]
        pairs = [(r, a) for r, a in zip(rewards_G, advantages_G, strict=True) if r is not None and a is not None]
        assert [r is None for r in rewards_G] == [a is None for a in advantages_G]
        # float64 rounding of numbers up to 20 over a deviation of at least 1e-4: 8 x 20 x 2^-53 / 1e-4 = 2e-10.
        assert abs(sum(a for _, a in pairs)) < 1e-9
        assert all((r1 < r2) <= (a1 < a2) and (r1 == r2) <= (a1 == a2) for r1, a1 in pairs for r2, a2 in pairs)


@given(groups_of, st.floats(-5, 5).map(lambda value: round(value, 3)))
def test_adding_a_constant_to_all_rewards_changes_nothing(rewards_PG: list[list[float | None]], shift: float) -> None:
    shifted_PG = [[None if reward is None else reward + shift for reward in rewards_G] for rewards_G in rewards_PG]
    for before_G, after_G in zip(advantages_of(rewards_PG, "group"), advantages_of(shifted_PG, "group"), strict=True):
        # Rounding of r + shift (2e-15) divided by as little as 1e-4, and relative errors of deviations: 1e-6 is generous.
        assert all(a == b or abs(a - b) < 1e-6 for a, b in zip(before_G, after_G, strict=True) if a is not None and b is not None)


def test_completions_without_a_gradient_are_not_computed() -> None:
    assert without_zeros((0.0, -0.0, None, 0.5, -1.0)) == (None, None, None, 0.5, -1.0)


def test_rloo_compares_with_the_others_of_the_group() -> None:
    rewards_PG = [[1.0, None, 0.0, 0.5], [2.0, 2.0, 2.0, 2.0], [None, None, 3.0, None], [None] * 4]
    expected = []
    for rewards_G in rewards_PG:
        row = []
        for i, reward in enumerate(rewards_G):
            others = [other for j, other in enumerate(rewards_G) if j != i and other is not None]
            row.append(None if reward is None else reward - sum(others) / len(others) if others else 0.0)
        expected.append(row)
    found = rloo_advantages(rewards_PG)
    assert [[a is None for a in row] for row in found] == [[a is None for a in row] for row in expected]
    for row, wanted in zip(found, expected, strict=True):
        assert [a for a in row if a is not None] == pytest.approx([a for a in wanted if a is not None], abs=1e-12)
    assert found[0] == pytest.approx((0.75, None, -0.75, 0.0)) and found[2][2] == 0.0


def test_reinforce_plus_plus_whitens_over_the_tokens_of_the_step() -> None:
    rewards_PG = [[1.0, None, 0.0], [2.0, 5.0, 2.0], [None, 7.0, None]]
    lengths_PG = [[3, 9, 1], [2, 4, 5], [6, 6, 6]]
    centred, tokens = {}, []
    for p, rewards_G in enumerate(rewards_PG[:2]):  # the third has nothing to compare with
        applying = [reward for reward in rewards_G if reward is not None]
        for g, reward in enumerate(rewards_G):
            if reward is not None:
                centred[p, g] = reward - sum(applying) / len(applying)
                tokens += [centred[p, g]] * lengths_PG[p][g]
    mean = sum(tokens) / len(tokens)
    deviation = (sum((token - mean) ** 2 for token in tokens) / (len(tokens) - 1)) ** 0.5
    found = reinforce_plus_plus_advantages(rewards_PG, lengths_PG)
    assert {(p, g): found[p][g] for p, g in centred} == pytest.approx({key: (a - mean) / deviation for key, a in centred.items()}, abs=1e-7)
    assert found[0][1] is None and found[2] == (None, 0.0, None)
    assert reinforce_plus_plus_advantages([[1.0, 1.0]], [[2, 3]]) == [(0.0, 0.0)]


def test_a_step_uses_the_estimator_and_the_penalties_it_is_given() -> None:
    groups = [scored((1.0, 0.0, 0.5))]
    assert step_advantages(groups, estimator="rloo") == [pytest.approx((0.75, -0.75, 0.0))]
    assert step_advantages(groups, estimator="rloo", penalties_PG=[[1.0, 0.0, 0.0]]) == [pytest.approx((-0.25, -0.25, 0.5))]
    assert step_advantages(groups, "none", penalties_PG=[[1.0, 0.0, 0.5]]) == [(0.0, 0.0, 0.0)]
    whitened = step_advantages(groups, estimator="reinforce_plus_plus")[0]
    assert whitened == pytest.approx((1.0, -1.0, 0.0)), "one token each: mean 0, deviation 0.5"


@pytest.mark.parametrize("estimator", ["grpo", "rloo", "reinforce_plus_plus"])
def test_a_penalty_that_is_not_finite_is_not_lost(estimator: Any) -> None:
    """Taken for a missing reward, it would leave the completion out, and nobody would know."""
    (advantages_G,) = step_advantages([scored((1.0, 0.0, 0.5))], estimator=estimator, penalties_PG=[[float("nan"), 0.0, 0.0]])
    assert advantages_G[0] is not None and np.isnan(advantages_G[0])
    assert np.isnan(without_zeros(advantages_G)[0])  # type: ignore[arg-type]


def test_masked_completions_lose_their_advantage() -> None:
    assert without_masked((0.5, None, -0.5), (True, True, False)) == (None, None, -0.5)
