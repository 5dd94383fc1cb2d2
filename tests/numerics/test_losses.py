"""Each loss type against a float64 transcription of its paper, in values and gradients.

The transcription below loops over completions and tokens and shares no code with `learner.loss`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.metrics import values
from learner.batch import Denominators
from learner.loss import Objective, grpo_loss, importance_weights

LENGTHS = (3, 7, 1, 5)
MAX_LENGTH = 9
# Our sums are float32 of about 16 terms of size 1: 16 x 2^-24 = 1e-6, doubled for exp.
TOLERANCE = 2e-6


def made_up(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = sum(LENGTHS)
    logprobs_N = -torch.rand(n, generator=generator, dtype=torch.float64) * 3
    return {
        "logprobs_N": logprobs_N,
        "old_N": logprobs_N + 0.3 * torch.randn(n, generator=generator, dtype=torch.float64),
        "behaviour_N": logprobs_N + 0.5 * torch.randn(n, generator=generator, dtype=torch.float64),
        "reference_N": logprobs_N + 0.4 * torch.randn(n, generator=generator, dtype=torch.float64),
        "advantages_C": torch.randn(len(LENGTHS), generator=generator, dtype=torch.float64),
    }


def from_the_paper(data: dict[str, Tensor], objective: Objective, *, one_update: bool) -> Tensor:
    """arXiv:2402.03300 eq. 3 and 4 (grpo), arXiv:2503.14476 eq. 8 (dapo; bnpo over one batch), arXiv:2503.20783 section 3.2 (dr_grpo)."""
    epsilon_high = objective.epsilon if objective.epsilon_high is None else objective.epsilon_high
    per_completion, start = [], 0
    for i, length in enumerate(LENGTHS):
        tokens = []
        log_ratios = []
        for t in range(start, start + length):
            old = data["logprobs_N"][t].detach() if one_update else data["old_N"][t]
            log_ratios.append(float(old - data["behaviour_N"][t]))
        for t, log_ratio in zip(range(start, start + length), log_ratios, strict=True):
            logprob = data["logprobs_N"][t]
            old = logprob.detach() if one_update else data["old_N"][t]
            exponent = log_ratio if objective.importance_sampling_level == "token" else sum(log_ratios)
            weight = min(math.exp(exponent), objective.importance_sampling_cap)
            ratio = torch.exp(logprob - old)
            advantage = data["advantages_C"][i]
            surrogate = torch.minimum(ratio * advantage, torch.clamp(ratio, 1 - objective.epsilon, 1 + epsilon_high) * advantage)
            gap = data["reference_N"][t] - logprob
            tokens.append(-weight * surrogate + objective.beta * (torch.exp(gap) - gap - 1))
        per_completion.append(torch.stack(tokens))
        start += length
    if objective.loss_type == "grpo":
        return torch.stack([tokens.mean() for tokens in per_completion]).mean()
    total = torch.cat(per_completion).sum()
    return total / (len(LENGTHS) * MAX_LENGTH) if objective.loss_type == "dr_grpo" else total / sum(LENGTHS)


def ours(data: dict[str, Tensor], objective: Objective, *, one_update: bool, logprobs_N: Tensor) -> tuple[Tensor, dict[str, float]]:
    lengths_C = torch.tensor(LENGTHS)
    loss, metrics = grpo_loss(
        logprobs_N,
        behaviour_logprobs_N=data["behaviour_N"].float(),
        advantages_C=data["advantages_C"].float(),
        lengths_C=lengths_C,
        completion_N=torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths_C),
        objective=objective,
        denominators=Denominators(len(LENGTHS), sum(LENGTHS), MAX_LENGTH),
        old_logprobs_N=None if one_update else data["old_N"].float(),
        reference_logprobs_N=data["reference_N"].float(),
        entropies_N=torch.ones(len(logprobs_N)),
    )
    return loss, values(metrics)


@pytest.mark.parametrize(
    ("loss_type", "beta", "level", "one_update"),
    list(itertools.product(["grpo", "bnpo", "dr_grpo", "dapo"], [0.0, 0.04], ["token", "sequence"], [True, False])),
)
def test_loss_is_the_papers_in_value_and_gradient(loss_type: Any, beta: float, level: Any, one_update: bool) -> None:
    objective = Objective(
        loss_type, epsilon=0.1, epsilon_high=0.28, beta=beta, importance_sampling_level=level, importance_sampling_cap=1.2
    )
    data = made_up(3)
    exact_N = data["logprobs_N"].requires_grad_()
    expected = from_the_paper(data, objective, one_update=one_update)
    expected.backward()
    logprobs_N = data["logprobs_N"].detach().float().requires_grad_()
    loss, metrics = ours(data, objective, one_update=one_update, logprobs_N=logprobs_N)
    loss.backward()
    assert logprobs_N.grad is not None and exact_N.grad is not None
    assert abs(loss.item() - expected.item()) < TOLERANCE
    assert (logprobs_N.grad.double() - exact_N.grad).abs().max() < TOLERANCE
    assert metrics["train/loss"] == pytest.approx(loss.item()) and metrics["entropy"] == 1.0
    assert ("kl" in metrics) == (beta > 0)
    assert metrics["sampling/importance_ratio/max"] <= 1.2 + TOLERANCE
    assert (metrics["clip_ratio/region_mean"] == 0) == one_update


def test_split_into_micro_batches_the_parts_add_up() -> None:
    data = made_up(5)
    objective = Objective("grpo", beta=0.1)
    lengths_C = torch.tensor(LENGTHS)
    whole, _ = ours(data, objective, one_update=True, logprobs_N=data["logprobs_N"].float())
    total, start = torch.zeros(()), 0
    for i, length in enumerate(LENGTHS):
        here = slice(start, start + length)
        part, _ = grpo_loss(
            data["logprobs_N"][here].float(),
            behaviour_logprobs_N=data["behaviour_N"][here].float(),
            advantages_C=data["advantages_C"][i : i + 1].float(),
            lengths_C=lengths_C[i : i + 1],
            completion_N=torch.zeros(length, dtype=torch.long),
            objective=objective,
            denominators=Denominators(len(LENGTHS), sum(LENGTHS), MAX_LENGTH),
            reference_logprobs_N=data["reference_N"][here].float(),
        )
        total, start = total + part, start + length
    assert abs(total - whole) < TOLERANCE


def test_a_hopeless_sample_overflows_nothing_and_is_truncated() -> None:
    weights_N = importance_weights(
        torch.tensor([0.0, -200.0]), torch.tensor([-300.0, 0.0]), torch.tensor([0, 1]), 2, level="token", cap=2.0
    )
    assert weights_N.tolist() == pytest.approx([2.0, 0.0])


def test_beta_without_a_reference_is_refused() -> None:
    with pytest.raises(ValueError, match=r"beta 0\.1 needs"):
        n = sum(LENGTHS)
        lengths_C = torch.tensor(LENGTHS)
        grpo_loss(
            torch.zeros(n),
            behaviour_logprobs_N=torch.zeros(n),
            advantages_C=torch.zeros(len(LENGTHS)),
            lengths_C=lengths_C,
            completion_N=torch.repeat_interleave(torch.arange(len(LENGTHS)), lengths_C),
            objective=Objective("grpo", beta=0.1),
            denominators=Denominators(4, n, MAX_LENGTH),
        )
