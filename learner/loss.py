"""The GRPO family as pure functions.

A step sums weighted token losses: `loss = sum_t weight_t * token_loss_t`. The weights hold *global* counts (`Denominators`), so
micro-batches, packing and the number of ranks change nothing but the order of a sum.

Dimensions: `_N` completion tokens, `_C` completions of a micro-batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cluster.metrics import Max, Mean, Metric, Min, Sum
from learner.batch import Denominators

LossType = Literal["grpo", "bnpo", "dr_grpo", "dapo"]


@dataclass(frozen=True, slots=True)
class Objective:
    """The constants of the loss, under TRL's names (`configs.schema.LearnerSection`)."""

    loss_type: LossType
    epsilon: float = 0.2
    epsilon_high: float | None = None
    beta: float = 0.0
    importance_sampling_level: Literal["token", "sequence"] = "token"
    importance_sampling_cap: float = 2.0


def token_weights(loss_type: LossType, lengths_C: Tensor, completion_N: Tensor, denominators: Denominators) -> Tensor:
    """The weight of each token's loss: float32 [N]. Over a whole step:

    - `grpo`: 1 / (C |o_i|), the mean over completions of their token means (DeepSeekMath, arXiv:2402.03300, eq. 3);
    - `bnpo`: 1 / tokens of the batch. TRL's batch is one device's micro-batch; ours is the step, so that packing does not matter;
    - `dapo`: 1 / tokens of the step over all processes (DAPO, arXiv:2503.14476, eq. 8). Equal to `bnpo` here, for the reason above;
    - `dr_grpo`: 1 / (C max_completion_length) (Dr. GRPO, arXiv:2503.20783, section 3.2; TRL's constant).
    """
    if loss_type == "grpo":
        return (1.0 / (denominators.num_completions * lengths_C.to(torch.float32))).index_select(0, completion_N)
    if loss_type == "dr_grpo":
        weight = 1.0 / (denominators.num_completions * denominators.max_completion_length)
    else:
        weight = 1.0 / denominators.num_tokens
    return torch.full(completion_N.shape, weight, dtype=torch.float32, device=completion_N.device)


def importance_weights(
    logprobs_N: Tensor, behaviour_logprobs_N: Tensor, completion_N: Tensor, num_completions: int, *, level: str, cap: float
) -> Tensor:
    """Truncated importance weights min(pi_old / pi_behaviour, cap), detached: [N].

    pi_old is the learner's policy when the step begins, pi_behaviour the one that sampled (an older version, or other kernels).
    `token`: the ratio of the token (truncated importance sampling: Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training"; decoupled PPO: AReaL, arXiv:2505.24298, section 5.2). `sequence`: the product over the token's completion.
    """
    difference_N = (logprobs_N - behaviour_logprobs_N).detach()
    if level == "sequence":
        difference_C = torch.zeros(num_completions, dtype=difference_N.dtype, device=difference_N.device)
        difference_N = difference_C.index_add_(0, completion_N, difference_N).index_select(0, completion_N)
    return torch.exp(difference_N.clamp(max=math.log(cap)))


def kl_k3(logprobs_N: Tensor, reference_logprobs_N: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || pi_ref): exp(d) - d - 1 with d = log pi_ref - log pi (arXiv:2402.03300, eq. 4): [N], >= 0."""
    difference_N = reference_logprobs_N - logprobs_N
    return torch.exp(difference_N) - difference_N - 1.0


def grpo_loss(
    logprobs_N: Tensor,
    *,
    behaviour_logprobs_N: Tensor,
    advantages_C: Tensor,
    lengths_C: Tensor,
    completion_N: Tensor,
    objective: Objective,
    denominators: Denominators,
    old_logprobs_N: Tensor | None = None,
    reference_logprobs_N: Tensor | None = None,
    entropies_N: Tensor | None = None,
) -> tuple[Tensor, dict[str, Metric]]:
    """One micro-batch's part of the step's loss, and its metrics.

    token_loss = -w min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta k3     (arXiv:2402.03300 eq. 3; arXiv:2503.14476 eq. 8)

    with r = pi / pi_old and w = min(pi_old / pi_behaviour, cap). pi_old is the learner's own policy at the beginning of the step, so a
    stale or mismatched sample is corrected once, by w, and clipping bounds only what this step's own updates change.

    Args:
        logprobs_N: under the policy being trained, differentiable.
        behaviour_logprobs_N: those that came with the rollout.
        old_logprobs_N: under the policy at the beginning of the step; None where the step makes one update: then r is 1 in value, and
            carries the gradient.
        reference_logprobs_N: under the adapter-off model; needed if beta > 0.

    Returns: (scalar, metrics under TRL's names).
    """
    old_N = logprobs_N.detach() if old_logprobs_N is None else old_logprobs_N
    advantages_N = advantages_C.index_select(0, completion_N)
    weights_N = importance_weights(
        old_N,
        behaviour_logprobs_N,
        completion_N,
        len(lengths_C),
        level=objective.importance_sampling_level,
        cap=objective.importance_sampling_cap,
    )
    low, high = 1.0 - objective.epsilon, 1.0 + (objective.epsilon if objective.epsilon_high is None else objective.epsilon_high)
    ratio_N = torch.exp(logprobs_N - old_N)
    token_loss_N = -weights_N * torch.minimum(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
    metrics = _ratio_metrics(ratio_N.detach(), advantages_N, low, high) | _sampling_metrics(old_N, behaviour_logprobs_N, weights_N)
    if objective.beta > 0:
        if reference_logprobs_N is None:
            raise ValueError(f"beta {objective.beta} needs the reference policy's log-probabilities")
        kl_N = kl_k3(logprobs_N, reference_logprobs_N)
        token_loss_N = token_loss_N + objective.beta * kl_N
        metrics["kl"] = _mean(kl_N.detach())
    if entropies_N is not None:
        metrics["entropy"] = _mean(entropies_N)
    loss = (token_loss_N * token_weights(objective.loss_type, lengths_C, completion_N, denominators)).sum()
    return loss, metrics | {"train/loss": Sum(loss.item())}


def sft_loss(logprobs_N: Tensor, *, num_tokens: int) -> tuple[Tensor, dict[str, Metric]]:
    """Cross-entropy of the completion tokens, averaged over all `num_tokens` of the step. Returns (scalar, metrics)."""
    loss = -logprobs_N.sum() / num_tokens
    return loss, {"train/loss": Sum(loss.item())}


def _mean(values_N: Tensor) -> Mean:
    return Mean(float(values_N.sum(dtype=torch.float64)), float(values_N.numel()))


def _ratio_metrics(ratio_N: Tensor, advantages_N: Tensor, low: float, high: float) -> dict[str, Metric]:
    is_low_N = (ratio_N < low) & (advantages_N < 0)
    is_high_N = (ratio_N > high) & (advantages_N > 0)
    return {
        "clip_ratio/low_mean": _mean(is_low_N),
        "clip_ratio/high_mean": _mean(is_high_N),
        "clip_ratio/region_mean": _mean(is_low_N | is_high_N),
    }


def _sampling_metrics(old_N: Tensor, behaviour_logprobs_N: Tensor, weights_N: Tensor) -> dict[str, Metric]:
    if not old_N.numel():
        return {}
    difference_N = (old_N - behaviour_logprobs_N).abs()
    return {
        "sampling/logp_difference/mean": _mean(difference_N),
        "sampling/logp_difference/max": Max(float(difference_N.max())),
        "sampling/importance_ratio/min": Min(float(weights_N.min())),
        "sampling/importance_ratio/mean": _mean(weights_N),
        "sampling/importance_ratio/max": Max(float(weights_N.max())),
    }
