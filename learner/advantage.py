"""Rewards of a step -> advantages.

Dimensions: `_P` prompts of a step, `_G` completions of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from cluster.records import ScoredGroup

STD_EPSILON = 1e-4
"""Added to the standard deviation before dividing, as in TRL's GRPOTrainer."""

ScaleRewards = Literal["group", "batch", "none"]


def advantages_of(rewards_PG: Sequence[Sequence[float | None]], scale_rewards: ScaleRewards) -> list[tuple[float | None, ...]]:
    """The group-relative advantage of every completion of a step: A = (r - mean(r_G)) / (std + 1e-4).

    `scale_rewards` chooses the standard deviation, as TRL's argument of that name does (`GRPOTrainer._generate_and_score_completions`):
    `group`: that of the completion's own group (DeepSeekMath, arXiv:2402.03300, section 4.1.2);
    `batch`: that of all rewards of the step (arXiv:2508.08221); `none`: nothing is divided (Dr. GRPO, arXiv:2503.20783, section 3.2).
    Both deviations are the unbiased ones (torch's default, n - 1).

    Args:
        rewards_PG: rewards of each group; None leaves the completion out of every statistic.

    Returns:
        advantages_PG, None where the reward is None. A group of which fewer than two rewards apply gets 0.
    """
    values_PG = [np.array([np.nan if reward is None else reward for reward in rewards_G], dtype=np.float64) for rewards_G in rewards_PG]
    batch_std = _std(np.concatenate(values_PG)) if values_PG else 0.0
    divisors = {"group": _std, "batch": lambda _: batch_std}
    advantages_PG = []
    for values_G in values_PG:
        centred_G = values_G - (np.nanmean(values_G) if np.isfinite(values_G).any() else 0.0)
        if scale_rewards != "none":
            centred_G = centred_G / (divisors[scale_rewards](values_G) + STD_EPSILON)
        advantages_PG.append(tuple(None if np.isnan(value) else float(value) for value in centred_G))
    return advantages_PG


def step_advantages(groups: Sequence[ScoredGroup], scale_rewards: ScaleRewards) -> list[tuple[float | None, ...]]:
    """Advantages of a step's groups.

    Sums of normalised rewards (`rewards.aggregation: normalize_then_sum`) have mean 0 in every group; they are divided by their
    deviation over the step, as in GDPO (arXiv:2601.05242) and TRL, whatever `scale_rewards` says.
    """
    normalised = groups[0].scores.normalised_G is not None
    return advantages_of([group.scores.training_rewards_G for group in groups], "batch" if normalised else scale_rewards)


def group_std(rewards_G: Sequence[float | None]) -> float:
    """Unbiased standard deviation of the rewards that apply; 0 for fewer than two."""
    return _std(np.array([np.nan if reward is None else reward for reward in rewards_G], dtype=np.float64))


def _std(values: np.ndarray) -> float:
    applying = values[~np.isnan(values)]
    return float(applying.std(ddof=1)) if applying.size > 1 else 0.0


def without_zeros(advantages_G: Sequence[float | None]) -> tuple[float | None, ...]:
    """Advantages with None in place of 0: such a completion adds nothing to the gradient, and need not be computed.

    Only where nothing but the advantage weighs a token (no KL term). The denominators of the loss count it all the same.
    Example: a group whose rewards are all equal, `(0.0, 0.0)`, becomes `(None, None)`.
    """
    return tuple(advantage or None for advantage in advantages_G)
