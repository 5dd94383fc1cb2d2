"""Which policy a step's updates are compared with, and which passes that costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from configs.contracts.metrics import Max, Min, values
from configs.schema.learner import ObjectiveSection
from configs.schema.model import LoraSection, ModelSection
from learner.grpo.importance import Completions
from learner.grpo.loss import TokenLogprobs, grpo_loss
from learner.grpo.micro_batch_loss import MicroBatchLoss
from learner.model.policy import Policy
from learner.packing import Denominators, pack
from tests.learner.rollouts import trained_groups

DENOMINATORS = Denominators(4, 40, 24)


def policy_of(path: Path, dropout: float) -> Policy:
    policy = Policy.load(ModelSection(path=str(path), dtype="float32", lora=LoraSection(r=4, alpha=8.0, dropout=dropout)), str(path))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return policy


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("num_iterations", [1, 2])
def test_several_updates_under_dropout_are_compared_with_an_evaluating_pass(num_iterations: int, dropout: float, tiny_qwen2: Path) -> None:
    policy = policy_of(tiny_qwen2, dropout)
    assert policy.has_dropout == (dropout > 0)
    (batch,) = pack(trained_groups(1, prompts=1), token_budget=4096, attention_width=100.0)
    objective = ObjectiveSection(loss_type="dapo", epsilon=0.01)
    loss = MicroBatchLoss(policy, batch, objective, DENOMINATORS, temperature=0.8, num_iterations=num_iterations)
    packed = policy.tensors(batch)
    evaluated_N = policy.evaluated_logprobs(packed, 0.8)
    olds = []
    for seed in range(num_iterations):
        torch.manual_seed(seed)
        value = loss(policy)
        torch.manual_seed(seed)
        logprobs_N = policy(packed, 0.8).logprobs_N
        olds.append(logprobs_N.detach())
        expected, _ = grpo_loss(
            TokenLogprobs(logprobs_N, packed.behaviour_logprobs_N, evaluated_N if num_iterations > 1 and dropout else olds[0]),
            Completions(packed.completion_N, packed.lengths_C),
            packed.advantages_C,
            objective,
            DENOMINATORS,
        )
        assert value.item() == expected.item()
    assert torch.equal(olds[0], evaluated_N) == (dropout == 0)
    clipped = [values(metrics)["clip_ratio/region_mean"] for metrics in loss.metrics]
    assert (max(clipped) > 0) == (num_iterations > 1 and dropout > 0)


def test_the_reference_is_computed_once_a_step_and_only_for_the_loss(tiny_qwen2: Path) -> None:
    policy = policy_of(tiny_qwen2, 0.0)
    passes: list[bool] = []
    policy.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
    (batch,) = pack(trained_groups(1, prompts=1), token_budget=4096, attention_width=100.0)
    for objective, expected in (
        (ObjectiveSection(loss_type="dapo", beta=0.1), [False, True, True]),
        (ObjectiveSection(loss_type="dapo", beta=0.1, kl_in_reward=True, kl_estimator="k1"), [True, True]),
        (ObjectiveSection(loss_type="dapo"), [True, True]),
    ):
        passes.clear()
        loss = MicroBatchLoss(policy, batch, objective, DENOMINATORS, temperature=1.0, num_iterations=2)
        assert [loss(policy).requires_grad for _ in range(2)] == [True, True]
        assert passes == expected


@pytest.mark.parametrize(
    "objective",
    [
        ObjectiveSection(
            loss_type="grpo", importance_sampling_level="sequence", importance_sampling_mode="sequence_mask", beta=0.1, entropy_coef=0.1
        ),
        ObjectiveSection(loss_type="cispo", epsilon_high=5.0, importance_sampling_mode="none"),
    ],
)
def test_a_rank_with_nothing_to_train_takes_part(objective: ObjectiveSection, tiny_qwen2: Path) -> None:
    """Its loss is 0, differentiable (the ranks reduce gradients together), and it has no part in smallest and largest values."""
    policy = policy_of(tiny_qwen2, 0.0)
    (batch,) = pack([], token_budget=64, attention_width=100.0)
    loss = MicroBatchLoss(policy, batch, objective, DENOMINATORS, temperature=1.0, num_iterations=2)
    for _ in range(2):
        value = loss(policy)
        value.backward()
        assert value.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
    assert not any(isinstance(metric, (Min, Max)) for metrics in loss.metrics for metric in metrics.values())
