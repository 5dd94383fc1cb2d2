"""Probability ratios: of the policy being trained to the one at the step's beginning, and of that one to the policy that sampled.

A sample passes two policies. `behaviour` is the one that sampled it (an older version, or the same weights under other kernels), `old` the
learner's own when the step begins. The step differentiates pi / pi_old, which clipping bounds; pi_old / pi_behaviour is a constant weight.

Dimensions: `_N` completion tokens, `_C` completions of a micro-batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from configs.contracts.metrics import Max, Mean, Metric, Min
from configs.schema.learner import ImportanceSamplingLevel, ImportanceSamplingMode


def sum_by_completion(values_N: Tensor, completion_N: Tensor, lengths_C: Tensor) -> Tensor:
    """Sums over the tokens of each completion: [C]."""
    return values_N.new_zeros(len(lengths_C)).index_add(0, completion_N, values_N)


def policy_ratio(
    logprobs_N: Tensor, old_logprobs_N: Tensor, completion_N: Tensor, lengths_C: Tensor, *, level: ImportanceSamplingLevel
) -> Tensor:
    """pi / pi_old of every token, differentiable in `logprobs_N`: [N].

    `token`: of the token itself (PPO; arXiv:2402.03300, eq. 3). `sequence`: of its completion, (pi(o) / pi_old(o))^(1/|o|), the same for all
    its tokens (GSPO, arXiv:2507.18071, eq. 7).
    """
    difference_N = logprobs_N - old_logprobs_N
    if level == "sequence":
        mean_C = sum_by_completion(difference_N, completion_N, lengths_C) / lengths_C
        difference_N = mean_C.index_select(0, completion_N)
    return torch.exp(difference_N)


def importance_weights(
    old_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    completion_N: Tensor,
    lengths_C: Tensor,
    *,
    mode: ImportanceSamplingMode,
    cap: float,
    floor: float = 0.0,
) -> Tensor:
    """Weights w of every token, from rho = pi_old / pi_behaviour, detached: [N].

    `token_*`: rho of the token (truncated importance sampling: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
    training"; decoupled PPO: AReaL, arXiv:2505.24298, section 5.2). `sequence_*`: the product over its completion.
    `*_truncate`: rho moved into [floor, cap]. `*_mask`: 0 where rho is outside; per token and with a floor, this is IcePop's double-sided
    mask (arXiv:2510.18855). `none`: 1.
    A log-probability that is not finite gives a weight that is not, so that the step is skipped.
    """
    if mode == "none":
        return torch.ones_like(old_logprobs_N)
    level, _, rule = mode.partition("_")
    difference_N = (old_logprobs_N - behaviour_logprobs_N).detach()
    if level == "sequence":
        difference_N = sum_by_completion(difference_N, completion_N, lengths_C).index_select(0, completion_N)
    lowest, highest = math.log(floor) if floor > 0 else -math.inf, math.log(cap)
    if rule == "truncate":
        return torch.exp(difference_N.clamp(min=lowest, max=highest))
    outside_N = (difference_N < lowest) | (difference_N > highest)
    return torch.exp(difference_N.clamp(max=highest)).masked_fill_(outside_N, 0.0)


def mean(values_N: Tensor) -> Mean:
    """The mean over tokens, of all micro-batches and ranks once merged."""
    return Mean(float(values_N.sum(dtype=torch.float64)), float(values_N.numel()))


def mean_at(level: str, values_N: Tensor, completion_N: Tensor, lengths_C: Tensor) -> Mean:
    """The mean over tokens, or, where a completion's tokens share one value, over completions."""
    if level != "sequence":
        return mean(values_N)
    return mean(sum_by_completion(values_N.double(), completion_N, lengths_C) / lengths_C)


def clip_metrics(
    is_low_N: Tensor, is_high_N: Tensor, completion_N: Tensor, lengths_C: Tensor, *, level: ImportanceSamplingLevel
) -> dict[str, Metric]:
    """TRL's `clip_ratio/*`: shares of what lies outside the clip range on the side where that stops the gradient."""
    if not is_low_N.numel():
        return {}
    low_C, high_C = (sum_by_completion(clipped_N.double(), completion_N, lengths_C) / lengths_C for clipped_N in (is_low_N, is_high_N))
    return {
        "clip_ratio/low_mean": mean_at(level, is_low_N, completion_N, lengths_C),
        "clip_ratio/low_min": Min(float(low_C.min())),
        "clip_ratio/high_mean": mean_at(level, is_high_N, completion_N, lengths_C),
        "clip_ratio/high_max": Max(float(high_C.max())),
        "clip_ratio/region_mean": mean_at(level, is_low_N | is_high_N, completion_N, lengths_C),
    }


def sampling_metrics(
    old_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    weights_N: Tensor,
    completion_N: Tensor,
    lengths_C: Tensor,
    *,
    mode: ImportanceSamplingMode,
) -> dict[str, Metric]:
    """Metrics of the distance between sampler and learner, and of the weights that correct it; no weights where there are none."""
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
        "sampling/importance_ratio/mean": mean_at(mode.partition("_")[0], weights_N, completion_N, lengths_C),
        "sampling/importance_ratio/max": Max(float(weights_N.max())),
    }
