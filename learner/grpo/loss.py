"""The GRPO family as pure functions.

A step sums weighted token losses: `loss = sum_t weight_t * token_loss_t`. The weights hold *global* counts (`Denominators`), so that
micro-batches, packing and the number of ranks change only the order of a sum. Example: a step of 30 tokens, 20 on rank 0 and 10 on rank 1,
has weight 1/30 everywhere under `dapo`; means of each rank would weigh rank 1's tokens twice as much.

Ratios are in `learner.grpo.importance`, advantages in `learner.grpo.advantage`. Here `advantages_C` (by completion) becomes `advantages_N`
(repeated for each of its tokens).

Dimensions: `_N` completion tokens, `_C` completions of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from configs.contracts.metrics import Metric, Sum
from configs.schema.learner import KlEstimator, LossType, ObjectiveSection
from learner.grpo.importance import Completions, clip_metrics, importance_weights, mean, mean_at, policy_ratio, sampling_metrics
from learner.packing import Denominators


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of a micro-batch's completion tokens under the policies that the loss compares, in nats: [N] each."""

    policy_N: Tensor
    """Under the policy being trained; differentiable."""
    behaviour_N: Tensor
    """Under the policy that sampled the completions, as the rollouts brought them."""
    old_N: Tensor | None = None
    """Under the policy at the beginning of the step. None in a step's first update: then r is 1 in value, and carries the gradient."""
    reference_N: Tensor | None = None
    """Under the reference: the same model with the adapter switched off. Needed if the loss has a KL term."""


def grpo_loss(
    logprobs: TokenLogprobs,
    completions: Completions,
    advantages_C: Tensor,
    objective: ObjectiveSection,
    denominators: Denominators,
    entropies_N: Tensor | None = None,
) -> tuple[Tensor, dict[str, Metric]]:
    """Compute one micro-batch's part of the step's loss, and its metrics under TRL's names.

    token_loss = -w min(r A, clip(r, 1 - epsilon, 1 + epsilon_high) A) + beta KL     (arXiv:2402.03300 eq. 3; arXiv:2503.14476 eq. 8)

    and under `cispo` -w sg(min(r, epsilon_high)) A log pi + beta KL                 (arXiv:2506.13585 eq. 4; one bound, as in TRL)

    with r = pi / pi_old (`policy_ratio`) and w from pi_old / pi_behaviour (`importance_weights`). pi_old is the learner's own policy at the
    beginning of the step, so a stale or mismatched sample is corrected once, by w, and clipping bounds only what this step's own updates
    change. The entropy bonus, -entropy_coef x the mean entropy over the step's tokens, does not depend on `loss_type` (as in TRL).

    Args:
        entropies_N: needed, and differentiable, if `entropy_coef` > 0.

    Raises:
        ValueError: the objective needs reference log-probabilities or entropies that are not given.
    """
    old_N = logprobs.policy_N.detach() if logprobs.old_N is None else logprobs.old_N
    weights_N = importance_weights(
        old_N,
        logprobs.behaviour_N,
        completions,
        mode=objective.importance_sampling_mode,
        cap=objective.importance_sampling_cap,
        floor=objective.importance_sampling_floor,
    )
    ratio_N = policy_ratio(logprobs.policy_N, old_N, completions, level=objective.importance_sampling_level)
    surrogate_N, metrics = _surrogate(logprobs.policy_N, ratio_N, completions.repeated(advantages_C), completions, objective)
    token_loss_N = -weights_N * surrogate_N
    metrics |= sampling_metrics(old_N, logprobs.behaviour_N, weights_N, completions, mode=objective.importance_sampling_mode)
    if objective.kl_in_loss:
        kl_N = _kl_term(logprobs, ratio_N, objective)
        token_loss_N = token_loss_N + objective.beta * kl_N
        metrics["kl"] = mean(kl_N.detach())
    loss = (token_loss_N * token_weights(objective.loss_type, completions, denominators)).sum()
    if objective.entropy_coef > 0:
        if entropies_N is None:
            raise ValueError(f"entropy_coef {objective.entropy_coef} needs the policy's entropies")
        metrics["policy_loss"] = Sum(loss.item())
        loss = loss - objective.entropy_coef * (entropies_N.sum() / denominators.num_tokens)
    if entropies_N is not None:
        metrics["entropy"] = mean(entropies_N.detach())
    return loss, metrics | {"train/loss": Sum(loss.item())}


def _surrogate(
    logprobs_N: Tensor, ratio_N: Tensor, advantages_N: Tensor, completions: Completions, objective: ObjectiveSection
) -> tuple[Tensor, dict[str, Metric]]:
    """Compute the quantity to maximise, before weights: [N], and the shares of tokens that were clipped.

    Clipping stops a gradient only where it would push the ratio further out: with A > 0 above the range, with A < 0 below it. Example, for
    epsilon 0.2 and r = 1.5: with A = 1 min(1.5, 1.2) = 1.2, a constant; with A = -1 min(-1.5, -1.2) = -1.5, which still pulls r back.
    """
    level, high = objective.importance_sampling_level, objective.largest_ratio
    is_high_N = (ratio_N.detach() > high) & (advantages_N > 0)
    if objective.loss_type == "cispo":
        bounded_N = ratio_N.detach().clamp(max=high)
        return bounded_N * advantages_N * logprobs_N, {"cispo_clip_ratio": mean_at(level, is_high_N, completions)}
    low = 1.0 - objective.epsilon
    surrogate_N = torch.minimum(ratio_N * advantages_N, ratio_N.clamp(low, high) * advantages_N)
    is_low_N = (ratio_N.detach() < low) & (advantages_N < 0)
    return surrogate_N, clip_metrics(is_low_N, is_high_N, completions, level=level)


def _kl_term(logprobs: TokenLogprobs, ratio_N: Tensor, objective: ObjectiveSection) -> Tensor:
    """Estimate the divergence from the reference that the loss adds, before `beta`: [N], in nats."""
    if logprobs.reference_N is None:
        raise ValueError(f"beta {objective.beta} needs the reference policy's log-probabilities")
    kl_N = kl_estimates(logprobs.policy_N, logprobs.reference_N, objective.kl_estimator)
    return kl_N * ratio_N if objective.use_bias_correction_kl else kl_N


def kl_estimates(logprobs_N: Tensor, reference_logprobs_N: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate KL(pi || pi_ref) at tokens sampled from pi, by Schulman's estimators (joschu.net/blog/kl-approx.html): [N], in nats.

    With d = log pi_ref - log pi: k1 = -d, unbiased, of either sign; k2 = d^2 / 2, biased, >= 0; k3 = exp(d) - d - 1, unbiased, >= 0
    (arXiv:2402.03300, eq. 4).

    A loss differentiates the estimate, and the gradient of an estimate is not an estimate of the gradient. In expectation:

        k1   0: it only adds noise            k1 x pi / pi_old   gradient of KL(pi || pi_ref)
        k2   gradient of KL(pi || pi_ref)
        k3   gradient of KL(pi_ref || pi)     k3 x pi / pi_old   gradient of KL(pi || pi_ref)

    `use_bias_correction_kl` multiplies by pi / pi_old.
    """
    difference_N = reference_logprobs_N - logprobs_N
    if estimator == "k1":
        return -difference_N
    if estimator == "k2":
        return difference_N.square() / 2
    return torch.exp(difference_N) - difference_N - 1.0


def token_weights(loss_type: LossType, completions: Completions, denominators: Denominators) -> Tensor:
    """Compute the weight of each token's loss: float32 [N]. Over a whole step:

    - `grpo`: 1 / (C |o_i|), the mean over completions of their token means (DeepSeekMath, arXiv:2402.03300, eq. 3);
    - `bnpo`: 1 / tokens of the batch. TRL's batch is one device's micro-batch; ours is the step, so that packing does not matter;
    - `dapo`, `cispo`: 1 / tokens of the step over all processes (DAPO, arXiv:2503.14476, eq. 8; MiniMax-M1, arXiv:2506.13585, eq. 4). Equal
      to `bnpo` here, as the batch of `bnpo` is the whole step;
    - `dr_grpo`: 1 / (C max_completion_length) (Dr. GRPO, arXiv:2503.20783, section 3.2; TRL's constant).
    """
    if loss_type == "grpo":
        return completions.repeated(1.0 / (denominators.num_completions * completions.lengths_C.to(torch.float32)))
    if loss_type == "dr_grpo":
        weight = 1.0 / (denominators.num_completions * denominators.max_completion_length)
    else:
        weight = 1.0 / denominators.num_tokens
    return torch.full(completions.completion_N.shape, weight, dtype=torch.float32, device=completions.completion_N.device)
