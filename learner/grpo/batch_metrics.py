"""Metrics of a step's groups that need neither a model nor the groups' bodies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import numpy as np

from configs.contracts.metrics import Max, Mean, Metric, Min, Sum
from configs.contracts.records import Outcome, ScoredGroup
from learner.grpo.advantage import group_std

ZERO_STD = 1e-8
"""A group whose rewards have no larger standard deviation teaches nothing (`torch.isclose` to 0, as in TRL)."""


def batch_metrics(groups: Sequence[ScoredGroup], step: int) -> dict[str, Metric]:
    """Measure lengths, rewards and staleness of a step's groups, under TRL's names. A mean over nothing has no value, and none is logged.

    Args:
        step: optimizer steps done before this one; a group's staleness is `step - min_policy_version`.
    """
    lengths = [length for group in groups for length in group.summary.completion_tokens_G]
    truncated = [flag for group in groups for flag in group.summary.truncated_G]
    rewards = [reward for group in groups for reward in group.scores.rewards_G if reward is not None]
    stds = [group_std(group.scores.rewards_G) for group in groups if _have_spread(group.scores.rewards_G)]
    terminated = [length for length, flag in zip(lengths, truncated, strict=True) if not flag]
    staleness = [step - group.summary.min_policy_version for group in groups]
    return (
        {
            "completions/mean_length": _mean(lengths),
            "completions/min_length": Min(min(lengths)),
            "completions/max_length": Max(max(lengths)),
            "completions/clipped_ratio": _mean(truncated),
            "completions/mean_terminated_length": _mean(terminated),
            "reward": _mean(rewards),
            "reward_std": _mean(stds),
            "frac_reward_zero_std": _mean([group_std(group.scores.training_rewards_G) <= ZERO_STD for group in groups]),
            "staleness/mean": _mean(staleness),
            "staleness/max": Max(max(staleness)),
        }
        | _shortest_and_longest(terminated)
        | _reward_columns(groups)
    )


def _reward_columns(groups: Sequence[ScoredGroup]) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    for name in groups[0].scores.columns:
        values = [value for group in groups if name in group.scores.columns for value in group.scores.columns[name].values_G]
        applying = [value for value in values if value is not None]
        metrics[f"rewards/{name}/mean"] = _mean(applying)
        if _have_spread(values):
            metrics[f"rewards/{name}/std"] = Mean(group_std(values), 1.0)
        counts = Counter(outcome for group in groups if name in group.scores.columns for outcome in group.scores.columns[name].outcomes_G)
        metrics |= {f"rewards/{name}/{outcome}": Sum(float(counts[outcome])) for outcome in get_args(Outcome)}
    return metrics


def _shortest_and_longest(terminated: Sequence[int]) -> dict[str, Metric]:
    if not terminated:
        return {}
    return {"completions/min_terminated_length": Min(min(terminated)), "completions/max_terminated_length": Max(max(terminated))}


def _have_spread(rewards: Sequence[float | None]) -> bool:
    """Tell whether a standard deviation exists: at least two rewards apply."""
    return sum(reward is not None for reward in rewards) > 1


def _mean(values: Sequence[float]) -> Mean:
    return Mean(float(np.sum(values)), float(len(values)))
