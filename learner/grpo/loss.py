"""The GRPO family as pure functions.

A step sums weighted token losses: `loss = sum_t weight_t * token_loss_t`. The weights hold *global* counts (`Denominators`), so
micro-batches, packing and the number of ranks change nothing but the order of a sum. Ratios are in `learner.grpo.importance`, advantages in
`learner.grpo.advantage`.

Dimensions: `_N` completion tokens, `_C` completions of a micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from configs.contracts.metrics import Metric, Sum
from configs.schema.learner import KlEstimator, LossType, ObjectiveSection
from learner.grpo.importance import (
    clip_metrics,
    importance_weights,
    mean,
    mean_at,
    policy_ratio,
    sampling_metrics,
)
from learner.packing import Denominators


def token_weights(loss_type: LossType, lengths_C: Tensor, completion_N: Tensor, denominators: Denominators) -> Tensor:
    """The weight of each token's loss: float32 [N]. Over a whole step:

    - `grpo`: 1 / (C |o_i|), the mean over completions of their token means (DeepSeekMath, arXiv:2402.03300, eq. 3);
    - `bnpo`: 1 / tokens of the batch. TRL's batch is one device's micro-batch; ours is the step, so that packing does not matter;
    - `dapo`, `cispo`: 1 / tokens of the step over all processes (DAPO, arXiv:2503.14476, eq. 8; MiniMax-M1, arXiv:2506.13585, eq. 4). Equal
      to `bnpo` here, for the reason above;
    - `dr_grpo`: 1 / (C max_completion_length) (Dr. GRPO, arXiv:2503.20783, section 3.2; TRL's constant).
    """
    if loss_type == "grpo":
        return (1.0 / (denominators.num_completions * lengths_C.to(torch.float32))).index_select(0, completion_N)
    if loss_type == "dr_grpo":
        weight = 1.0 / (denominators.num_completions * denominators.max_completion_length)
    else:
        weight = 1.0 / denominators.num_tokens
    return torch.full(completion_N.shape, weight, dtype=torch.float32, device=completion_N.device)


def kl_estimates(logprobs_N: Tensor, reference_logprobs_N: Tensor, estimator: KlEstimator) -> Tensor:
    """Schulman's estimates of KL(pi || pi_ref) at tokens sampled from pi (joschu.net/blog/kl-approx.html): [N], in nats.

    With d = log pi_ref - log pi: k1 = -d, unbiased, of either sign; k2 = d^2 / 2, biased, >= 0; k3 = exp(d) - d - 1, unbiased, >= 0
    (arXiv:2402.03300, eq. 4).

    As terms of a loss they are differentiated as they stand, and a gradient of an estimate is no estimate of the gradient: that of k1,
    grad log pi, is 0 in expectation, so that it only adds noise; that of k2 is the gradient of KL(pi || pi_ref); that of k3 is the gradient
    of KL(pi_ref || pi). `use_bias_correction_kl`, which multiplies by pi / pi_old, makes those of k1 and k3 the gradient of KL(pi || pi_ref).
    """
    difference_N = reference_logprobs_N - logprobs_N
    if estimator == "k1":
        return -difference_N
    if estimator == "k2":
        return difference_N.square() / 2
    return torch.exp(difference_N) - difference_N - 1.0


def grpo_loss(
    logprobs_N: Tensor,
    *,
    behaviour_logprobs_N: Tensor,
    advantages_C: Tensor,
    lengths_C: Tensor,
    completion_N: Tensor,
    objective: ObjectiveSection,
    denominators: Denominators,
    old_logprobs_N: Tensor | None = None,
    reference_logprobs_N: Tensor | None = None,
    entropies_N: Tensor | None = None,
) -> tuple[Tensor, dict[str, Metric]]:
    """One micro-batch's part of the step's loss, and its metrics.

    token_loss = -w min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta KL     (arXiv:2402.03300 eq. 3; arXiv:2503.14476 eq. 8)

    and under `cispo` -w sg(min(r, epsilon_high)) A log pi + beta KL                 (arXiv:2506.13585 eq. 4; one bound, as in TRL)

    with r = pi / pi_old (`policy_ratio`) and w from pi_old / pi_behaviour (`importance_weights`). pi_old is the learner's own policy at the
    beginning of the step, so a stale or mismatched sample is corrected once, by w, and clipping bounds only what this step's own updates
    change. The entropy bonus, -entropy_coef x the mean entropy over the step's tokens, does not depend on `loss_type` (as in TRL).

    Args:
        logprobs_N: under the policy being trained, differentiable.
        behaviour_logprobs_N: those that came with the rollout.
        old_logprobs_N: under the policy at the beginning of the step; None in a step's first update: then r is 1 in value, and
            carries the gradient.
        reference_logprobs_N: under the adapter-off model; needed where the loss has a KL term.
        entropies_N: differentiable where `entropy_coef` > 0, which needs them.

    Returns: (scalar, metrics under TRL's names).
    """
    old_N = logprobs_N.detach() if old_logprobs_N is None else old_logprobs_N
    advantages_N = advantages_C.index_select(0, completion_N)
    weights_N = importance_weights(
        old_N,
        behaviour_logprobs_N,
        completion_N,
        lengths_C,
        mode=objective.importance_sampling_mode,
        cap=objective.importance_sampling_cap,
        floor=objective.importance_sampling_floor,
    )
    ratio_N = policy_ratio(logprobs_N, old_N, completion_N, lengths_C, level=objective.importance_sampling_level)
    surrogate_N, metrics = _surrogate(logprobs_N, ratio_N, advantages_N, completion_N, lengths_C, objective)
    token_loss_N = -weights_N * surrogate_N
    metrics |= sampling_metrics(old_N, behaviour_logprobs_N, weights_N, completion_N, lengths_C, mode=objective.importance_sampling_mode)
    if objective.kl_in_loss:
        if reference_logprobs_N is None:
            raise ValueError(f"beta {objective.beta} needs the reference policy's log-probabilities")
        kl_N = kl_estimates(logprobs_N, reference_logprobs_N, objective.kl_estimator)
        if objective.use_bias_correction_kl:
            kl_N = kl_N * ratio_N
        token_loss_N = token_loss_N + objective.beta * kl_N
        metrics["kl"] = mean(kl_N.detach())
    loss = (token_loss_N * token_weights(objective.loss_type, lengths_C, completion_N, denominators)).sum()
    if objective.entropy_coef > 0:
        if entropies_N is None:
            raise ValueError(f"entropy_coef {objective.entropy_coef} needs the policy's entropies")
        metrics["policy_loss"] = Sum(loss.item())
        loss = loss - objective.entropy_coef * (entropies_N.sum() / denominators.num_tokens)
    if entropies_N is not None:
        metrics["entropy"] = mean(entropies_N.detach())
    return loss, metrics | {"train/loss": Sum(loss.item())}


def _surrogate(
    logprobs_N: Tensor, ratio_N: Tensor, advantages_N: Tensor, completion_N: Tensor, lengths_C: Tensor, objective: ObjectiveSection
) -> tuple[Tensor, dict[str, Metric]]:
    """Return the surrogate objective of each token before weights, [N], and its clip metrics."""
    level = objective.importance_sampling_level
    if objective.loss_type == "cispo":
        if objective.epsilon_high is None:
            raise ValueError("loss_type cispo needs epsilon_high, the largest ratio")
        bounded_N = ratio_N.detach().clamp(max=objective.epsilon_high)
        is_clipped_N = (ratio_N.detach() > objective.epsilon_high) & (advantages_N > 0)
        return bounded_N * advantages_N * logprobs_N, {"cispo_clip_ratio": mean_at(level, is_clipped_N, completion_N, lengths_C)}
    low, high = 1.0 - objective.epsilon, 1.0 + (objective.epsilon if objective.epsilon_high is None else objective.epsilon_high)
    surrogate_N = torch.minimum(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
    is_low_N = (ratio_N.detach() < low) & (advantages_N < 0)
    is_high_N = (ratio_N.detach() > high) & (advantages_N > 0)
    return surrogate_N, clip_metrics(is_low_N, is_high_N, completion_N, lengths_C, level=level)
