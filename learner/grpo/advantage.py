"""Rewards of a step -> advantages. A reward of None enters no statistic, and its advantage is None.

The number keeps its name on its way to the loss, and changes its meaning twice:

    rewards_PG                 a reward per completion
      ├─ step_advantages
    advantages_PG              compared with other completions; None where there is no reward. StepReport shows these
      ├─ computed_advantages
    computed_advantages_PG     None also where the learner need not compute the completion: masked, or 0 and without effect
      ├─ learner.packing       TrainedCompletion.advantage -> MicroBatch.advantages_C, those that are not None
    advantages_N               the completion's number for each of its tokens (learner.grpo.loss)

Dimensions: `_P` prompts of a step, `_G` completions of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.contracts.records import ScoredGroup
from configs.schema.learner import AdvantageEstimator, ScaleRewards

STD_EPSILON = 1e-4
"""Added to the standard deviation before dividing, as in TRL's GRPOTrainer."""

WHITENING_EPSILON = 1e-8
"""Added to the standard deviation of REINFORCE++ before dividing, as in its author's OpenRLHF."""

Rewards = Sequence[Sequence[float | None]]
Advantages = list[tuple[float | None, ...]]


def advantages_of(rewards_PG: Rewards, scale_rewards: ScaleRewards) -> Advantages:
    """Compute the group-relative advantage of every completion of a step: A = (r - mean(r_G)) / (std + 1e-4).

    `scale_rewards` chooses the standard deviation, as TRL's argument of the same name does (`GRPOTrainer._generate_and_score_completions`):
    `group`: of the completion's own group (DeepSeekMath, arXiv:2402.03300, section 4.1.2); `batch`: of all rewards of the step
    (arXiv:2508.08221); `none`: no division (Dr. GRPO, arXiv:2503.20783, section 3.2). Deviations are unbiased (torch's default, n - 1).

    Args:
        rewards_PG: rewards of each group; None leaves the completion out of every statistic.

    Returns:
        advantages_PG, None where the reward is None. A group with fewer than two rewards gets 0.
    """
    values_PG = [_array(rewards_G) for rewards_G in rewards_PG]
    batch_std = _std(np.concatenate(values_PG)) if values_PG else 0.0
    divisors = {"group": _std, "batch": lambda _: batch_std}
    advantages_PG = []
    for values_G in values_PG:
        centred_G = _centred(values_G)
        if scale_rewards != "none":
            centred_G = centred_G / (divisors[scale_rewards](values_G) + STD_EPSILON)
        advantages_PG.append(centred_G)
    return _as_given(advantages_PG, rewards_PG)


def rloo_advantages(rewards_PG: Rewards) -> Advantages:
    """Compute the reward less the mean of the *other* rewards of its group (RLOO, arXiv:2402.14740, the leave-one-out estimator).

    This equals n / (n - 1) times (reward less the group's mean), where the group has n rewards. Arguments and results as in `advantages_of`.
    """
    advantages_PG = []
    for rewards_G in rewards_PG:
        values_G = _array(rewards_G)
        others = np.count_nonzero(~np.isnan(values_G)) - 1
        advantages_PG.append(values_G - (np.nansum(values_G) - values_G) / others if others > 0 else values_G * 0.0)
    return _as_given(advantages_PG, rewards_PG)


def reinforce_plus_plus_advantages(rewards_PG: Rewards, lengths_PG: Sequence[Sequence[int]]) -> Advantages:
    """Compute REINFORCE++ with a baseline (arXiv:2501.03262): the reward less its group's mean, whitened over the step's *tokens*.

    A' = r - mean(r_G), A = (A' - mean) / (std + 1e-8), where mean and (unbiased) deviation are over all tokens of the step, each with its
    completion's A'. So a long completion weighs more, as in the author's OpenRLHF and in verl. A group with fewer than two rewards has
    nothing to compare: it enters no statistic, and gets 0. Other arguments and results as in `advantages_of`.
    """
    centred_PG = [_centred(_array(rewards_G)) for rewards_G in rewards_PG]
    comparable_P = [np.count_nonzero(~np.isnan(centred_G)) > 1 for centred_G in centred_PG]
    tokens = [
        np.repeat(centred_G, lengths_G)
        for centred_G, lengths_G, comparable in zip(centred_PG, lengths_PG, comparable_P, strict=True)
        if comparable
    ]
    applying = [values[~np.isnan(values)] for values in tokens]
    values = np.concatenate([np.empty(0), *applying])
    mean = values.mean() if values.size else 0.0
    divisor = _std(values) + WHITENING_EPSILON
    whitened_PG = [
        (centred_G - mean) / divisor if comparable else centred_G for centred_G, comparable in zip(centred_PG, comparable_P, strict=True)
    ]
    return _as_given(whitened_PG, rewards_PG)


def step_advantages(
    groups: Sequence[ScoredGroup],
    scale_rewards: ScaleRewards = "group",
    *,
    estimator: AdvantageEstimator = "grpo",
    penalties_PG: Sequence[Sequence[float]] | None = None,
) -> Advantages:
    """Compute the advantages of a step's groups.

    Sums of normalised rewards (`rewards.aggregation: normalize_then_sum`) have mean 0 in every group. They are always divided by their
    deviation over the step, as in GDPO (arXiv:2601.05242) and TRL; `scale_rewards` has no effect on them.

    Args:
        penalties_PG: subtracted from the rewards first (`learner.kl_in_reward`). A penalty that is not finite gives an advantage that is not.
    """
    training_rewards_PG: Rewards = [group.scores.training_rewards_G for group in groups]
    if penalties_PG is not None:
        training_rewards_PG = [
            [None if reward is None else reward - penalty for reward, penalty in zip(*pair, strict=True)]
            for pair in zip(training_rewards_PG, penalties_PG, strict=True)
        ]
    if estimator == "rloo":
        return rloo_advantages(training_rewards_PG)
    if estimator == "reinforce_plus_plus":
        return reinforce_plus_plus_advantages(training_rewards_PG, [group.summary.completion_tokens_G for group in groups])
    normalised = groups[0].scores.normalised_rewards_G is not None
    return advantages_of(training_rewards_PG, "batch" if normalised else scale_rewards)


def computed_advantages(
    advantages_PG: Sequence[Sequence[float | None]], masked_PG: Sequence[Sequence[bool]], *, keep_zeros: bool
) -> Advantages:
    """Advantages with None for completions that the learner need not compute: the masked ones and, unless `keep_zeros`, those with 0."""
    computed_PG = [without_masked(advantages_G, masked_G) for advantages_G, masked_G in zip(advantages_PG, masked_PG, strict=True)]
    return computed_PG if keep_zeros else [without_zeros(advantages_G) for advantages_G in computed_PG]


def without_zeros(advantages_G: Sequence[float | None]) -> tuple[float | None, ...]:
    """Replace advantages of 0 by None: such completions add nothing to the gradient, and need not be computed.

    This holds only without a KL term or an entropy bonus. The denominators of the loss still count these completions.
    Example: a group whose rewards are all equal, `(0.0, 0.0)`, becomes `(None, None)`.
    """
    return tuple(advantage or None for advantage in advantages_G)


def without_masked(advantages_G: Sequence[float | None], masked_G: Sequence[bool]) -> tuple[float | None, ...]:
    """Replace the advantages of masked completions by None (`learner.mask_truncated_completions`: DAPO, arXiv:2503.14476, section 3.4)."""
    return tuple(None if masked else advantage for advantage, masked in zip(advantages_G, masked_G, strict=True))


def group_std(rewards_G: Sequence[float | None]) -> float:
    """Unbiased standard deviation of the rewards that are not None; 0 for fewer than two."""
    return _std(_array(rewards_G))


def _array(rewards_G: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if reward is None else reward for reward in rewards_G], dtype=np.float64)


def _centred(values_G: np.ndarray) -> np.ndarray:
    return values_G - (np.nanmean(values_G) if np.isfinite(values_G).any() else 0.0)


def _as_given(advantages_PG: Sequence[np.ndarray], rewards_PG: Rewards) -> Advantages:
    """Put None where the reward is None. A NaN with another cause stays, so that the step is recognised as not finite."""
    return [
        tuple(None if reward is None else float(value) for value, reward in zip(*pair, strict=True))
        for pair in zip(advantages_PG, rewards_PG, strict=True)
    ]


def _std(values: np.ndarray) -> float:
    applying = values[~np.isnan(values)]
    return float(applying.std(ddof=1)) if applying.size > 1 else 0.0
