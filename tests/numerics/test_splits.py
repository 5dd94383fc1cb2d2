"""The loss and its gradient do not depend on how a step is cut: packing, micro-batches, shared prompts, ranks. Twice a step, as with
`num_iterations` 2: in the second update the ratio is not 1.

The ranks here are shares of one process's work; `test_iterations.py` has real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.contracts.metrics import merge, values
from configs.schema.learner import ObjectiveSection
from configs.schema.model import LoraSection, ModelSection
from learner.grpo.micro_batch_loss import MicroBatchLoss
from learner.model.policy import Policy
from learner.packing import Denominators, MicroBatch, TrainedCompletion, TrainedGroup, balance, pack
from tests.learner.rollouts import MAX_COMPLETION_LENGTH, trained_groups

# Log-probabilities are good to 2e-5 however they are packed (test_logprobs). A loss averages them, times advantages and weights up to 2;
# a gradient of the adapter sums over 200 tokens products of such errors with activations of size 1, weighted by 1 / 200.
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 2e-5, 5e-5

Split = Callable[[list[TrainedGroup]], list[MicroBatch]]


def packed(groups: list[TrainedGroup], token_budget: int = 4096) -> list[MicroBatch]:
    return pack(groups, token_budget=token_budget, attention_width=100.0)


def alone(groups: list[TrainedGroup]) -> list[TrainedGroup]:
    """Every completion in a group of its own, so that no prompt is shared."""
    return [replace(group, completions=(completion,)) for group in groups for completion in group.completions]


def over_two_ranks(groups: list[TrainedGroup]) -> list[MicroBatch]:
    parts = balance([group.tokens for group in groups], 2)
    return [batch for part in parts for batch in packed([groups[i] for i in part], 96)]


SPLITS: dict[str, Split] = {
    "accumulated": lambda groups: packed(groups, 48),
    "unshared": lambda groups: packed(alone(groups)),
    "unpacked": lambda groups: [batch for group in alone(groups) for batch in packed([group])],
    "two ranks": over_two_ranks,
}

MADE_OF: dict[str, Callable[[], list[TrainedGroup]]] = {
    "ragged": lambda: trained_groups(1, prompts=3, generations=3),
    "one token": lambda: trained_groups(2, prompts=2, longest=1),
    "the longest": lambda: [
        replace(group, completions=tuple(longest(completion) for completion in group.completions))
        for group in trained_groups(3, prompts=2, generations=3)
    ],
    "one left": lambda: (
        [replace(group, completions=group.completions[:1]) for group in trained_groups(4, prompts=2)] + trained_groups(5, prompts=1)
    ),
}

CASES: list[dict[str, Any]] = [
    {"loss_type": "grpo", "beta": 0.1, "kl_estimator": "k3"},
    {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.005}
    | {"importance_sampling_mode": "sequence_truncate", "importance_sampling_floor": 0.5},
    {
        "loss_type": "dapo",
        "epsilon": 0.02,
        "epsilon_high": 0.03,
        "importance_sampling_mode": "token_mask",
        "importance_sampling_floor": 0.3,
    },
    {"loss_type": "cispo", "epsilon_high": 1.01, "importance_sampling_mode": "none", "beta": 0.1, "kl_estimator": "k2"},
    {"loss_type": "dr_grpo", "entropy_coef": 0.2, "importance_sampling_mode": "sequence_mask", "importance_sampling_cap": 50.0},
    {"loss_type": "bnpo", "entropy_coef": 0.2, "beta": 0.1, "kl_estimator": "k1", "use_bias_correction_kl": True},
]


def longest(completion: TrainedCompletion) -> TrainedCompletion:
    """As long as a completion may be, by repetition."""
    return replace(
        completion,
        token_ids_T=np.resize(completion.token_ids_T, MAX_COMPLETION_LENGTH),
        logprobs_T=np.resize(completion.logprobs_T, MAX_COMPLETION_LENGTH),
    )


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model is slower on several, and much slower where others compute too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def policy(tiny_qwen2: Path) -> Policy:
    policy = Policy.load(ModelSection(path=str(tiny_qwen2), dtype="float32", lora=LoraSection(r=4, alpha=8.0)), str(tiny_qwen2))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return policy


def two_updates(
    policy: Policy, groups: list[TrainedGroup], split: Split, objective: ObjectiveSection
) -> tuple[list[float], list[list[Tensor]], dict[str, float]]:
    """Losses and gradients before and after a change of the weights, and all metrics."""
    lengths_PG = [[len(c.token_ids_T) for c in group.completions] for group in groups]
    advantages_PG = [[c.advantage for c in group.completions] for group in groups]
    masked_PG = [[False] * len(group.completions) for group in groups]
    denominators = Denominators.of(lengths_PG, advantages_PG, masked_PG, MAX_COMPLETION_LENGTH)
    parts = [MicroBatchLoss(policy, batch, objective, denominators, temperature=0.8, num_iterations=2) for batch in split(groups)]
    parameters = policy.trainable().values()
    before = [parameter.detach().clone() for parameter in parameters]
    losses, gradients = [], []
    for _ in range(2):
        policy.zero_grad()
        total = 0.0
        for part in parts:
            loss = part(policy)
            loss.backward()
            total += loss.item()
        losses.append(total)
        gradients.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])
        with torch.no_grad():
            generator = torch.Generator().manual_seed(9)
            for parameter in parameters:
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
    return losses, gradients, values(merge(metrics for part in parts for metrics in part.metrics))


@pytest.mark.parametrize(
    ("made_of", "case"),
    [("ragged", case) for case in CASES] + [(made_of, CASES[i]) for made_of in ("one token", "the longest", "one left") for i in (1, 5)],
    ids=str,
)
def test_a_step_is_the_same_however_it_is_cut(made_of: str, case: dict[str, Any], policy: Policy) -> None:
    groups = MADE_OF[made_of]()
    objective = ObjectiveSection(**case)
    losses, gradients, metrics = two_updates(policy, groups, packed, objective)
    assert np.isfinite(losses).all() and losses[0] != losses[1]
    assert all(max(float(part.abs().max()) for part in update) > 20 * GRADIENT_TOLERANCE for update in gradients)
    for name, split in SPLITS.items():
        other_losses, other_gradients, other_metrics = two_updates(policy, groups, split, objective)
        assert np.abs(np.subtract(losses, other_losses)).max() < LOSS_TOLERANCE, name
        for update, other_update in zip(gradients, other_gradients, strict=True):
            assert max(float((a - b).abs().max()) for a, b in zip(update, other_update, strict=True)) < GRADIENT_TOLERANCE, name
        assert other_metrics.keys() == metrics.keys()
        for metric in metrics.keys() - {"packing/fill"}:  # that one does depend on it
            assert other_metrics[metric] == pytest.approx(metrics[metric], rel=1e-4, abs=1e-4), (name, metric)


def test_the_splits_are_splits_and_the_cases_clip_something(policy: Policy) -> None:
    groups = MADE_OF["ragged"]()
    assert len(packed(groups)) == 1 and len(SPLITS["accumulated"](groups)) >= 4 and len(SPLITS["unpacked"](groups)) == 9
    assert sum(batch.tokens for batch in SPLITS["unshared"](groups)) > sum(batch.tokens for batch in packed(groups))
    found = [two_updates(policy, groups, packed, ObjectiveSection(**case))[2] for case in CASES[1:4]]
    clipped = [metrics.get("clip_ratio/region_mean", metrics.get("cispo_clip_ratio", 0.0)) for metrics in found]
    assert all(0 < share < 1 for share in clipped), clipped
