"""Probability ratios: of the policy being trained to the policy at the step's beginning, and of that one to the policy that sampled.

    behaviour ──── w = pi_old / pi_behaviour ────► old ──── r = pi / pi_old ────► pi, being trained
    sampled it;    a constant weight               the learner's own              differentiated, and
    may be stale                                   when the step begins           bounded by clipping

`behaviour` is an older version of the policy, or the same weights under the engine's kernels.

Dimensions: `_N` completion tokens, `_C` completions of a micro-batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.contracts.metrics import Max, Mean, Metric, Min
from configs.schema.learner import ImportanceSamplingLevel, ImportanceSamplingMode


@dataclass(frozen=True, slots=True)
class Completions:
    """The completions that a micro-batch's tokens belong to.

    Example: `Completions(tensor([0, 0, 0, 1, 1]), tensor([3, 2]))` are two completions of three and two tokens.
    """

    completion_N: Tensor
    """Number of each token's completion, 0..C-1."""
    lengths_C: Tensor

    def sums(self, values_N: Tensor) -> Tensor:
        """Sum over the tokens of each completion: [C]."""
        return values_N.new_zeros(len(self.lengths_C)).index_add(0, self.completion_N, values_N)

    def means(self, values_N: Tensor) -> Tensor:
        """Average over the tokens of each completion: [C]."""
        return self.sums(values_N) / self.lengths_C

    def repeated(self, values_C: Tensor) -> Tensor:
        """Repeat each completion's value for all its tokens: [N]."""
        return values_C.index_select(0, self.completion_N)


def policy_ratio(logprobs_N: Tensor, old_logprobs_N: Tensor, completions: Completions, *, level: ImportanceSamplingLevel) -> Tensor:
    """Compute pi / pi_old for every token, differentiable in `logprobs_N`: [N].

    `token`: the token's own ratio (PPO; arXiv:2402.03300, eq. 3). `sequence`: its completion's, (pi(o) / pi_old(o))^(1/|o|), the same for
    all its tokens (GSPO, arXiv:2507.18071, eq. 7).
    """
    difference_N = logprobs_N - old_logprobs_N
    if level == "sequence":
        difference_N = completions.repeated(completions.means(difference_N))
    return torch.exp(difference_N)


def importance_weights(
    old_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    completions: Completions,
    *,
    mode: ImportanceSamplingMode,
    cap: float,
    floor: float = 0.0,
) -> Tensor:
    """Compute the weight w of every token from rho = pi_old / pi_behaviour, without gradient: [N].

    `token_*`: rho of the token (truncated importance sampling: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"; decoupled PPO: AReaL, arXiv:2505.24298, section 5.2). `sequence_*`: the product over its completion.
    `*_truncate`: rho moved into [floor, cap]. `*_mask`: 0 where rho is outside; per token and with a floor, this is IcePop's double-sided
    mask (arXiv:2510.18855). `none`: 1.
    A log-probability that is not finite gives a weight that is not finite, so that the step is skipped.
    """
    if mode == "none":
        return torch.ones_like(old_logprobs_N)
    level, _, rule = mode.partition("_")
    difference_N = (old_logprobs_N - behaviour_logprobs_N).detach()
    if level == "sequence":
        difference_N = completions.repeated(completions.sums(difference_N))
    lowest, highest = math.log(floor) if floor > 0 else -math.inf, math.log(cap)
    if rule == "truncate":
        return torch.exp(difference_N.clamp(min=lowest, max=highest))
    outside_N = (difference_N < lowest) | (difference_N > highest)
    return torch.exp(difference_N.clamp(max=highest)).masked_fill_(outside_N, 0.0)


def mean(values_N: Tensor) -> Mean:
    """Average over tokens; merging micro-batches and ranks gives the average over all their tokens."""
    return Mean(float(values_N.sum(dtype=torch.float64)), float(values_N.numel()))


def mean_at(level: str, values_N: Tensor, completions: Completions) -> Mean:
    """Average over tokens, or over completions if all tokens of a completion share one value (`level` "sequence")."""
    if level != "sequence":
        return mean(values_N)
    return mean(completions.means(values_N.double()))


def clip_metrics(is_low_N: Tensor, is_high_N: Tensor, completions: Completions, *, level: ImportanceSamplingLevel) -> dict[str, Metric]:
    """Measure TRL's `clip_ratio/*`: the shares of tokens outside the clip range on the side where clipping stops the gradient."""
    if not is_low_N.numel():
        return {}
    low_C, high_C = (completions.means(is_clipped_N.double()) for is_clipped_N in (is_low_N, is_high_N))
    return {
        "clip_ratio/low_mean": mean_at(level, is_low_N, completions),
        "clip_ratio/low_min": Min(float(low_C.min())),
        "clip_ratio/high_mean": mean_at(level, is_high_N, completions),
        "clip_ratio/high_max": Max(float(high_C.max())),
        "clip_ratio/region_mean": mean_at(level, is_low_N | is_high_N, completions),
    }


def sampling_metrics(
    old_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    weights_N: Tensor,
    completions: Completions,
    *,
    mode: ImportanceSamplingMode,
) -> dict[str, Metric]:
    """Measure the distance of the sampling policy from the learner's, and the weights that correct it (none under mode `none`)."""
    if not old_logprobs_N.numel():
        return {}
    difference_N = (old_logprobs_N - behaviour_logprobs_N).abs()
    metrics: dict[str, Metric] = {
        "sampling/logp_difference/mean": mean(difference_N),
        "sampling/logp_difference/max": Max(float(difference_N.max())),
    }
    if mode == "none":
        return metrics
    return metrics | {
        "sampling/importance_ratio/min": Min(float(weights_N.min())),
        "sampling/importance_ratio/mean": mean_at(mode.partition("_")[0], weights_N, completions),
        "sampling/importance_ratio/max": Max(float(weights_N.max())),
    }
