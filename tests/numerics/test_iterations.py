"""Several updates a step, and the KL penalty in the reward, on real ranks (Ray, DeepSpeed ZeRO-2, gloo) against loops in float64."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from configs.contracts.records import RolloutGroup, ScoredGroup, StepReport
from configs.schema.model import LoraSection, ModelSection
from configs.schema.run import RunConfig
from learner.grpo.learner import GrpoLearner
from learner.model.adapters import save_adapter
from learner.model.policy import Policy
from tests.bodies import opened
from tests.learner.rollouts import run_config, scored_groups

pytestmark = [pytest.mark.usefixtures("ray_local"), pytest.mark.slow]

TEMPERATURE, RATE = 0.8, 1e-2
# A first update is good to 1e-5 (test_step_against_one_file); so wrong a policy is differentiated in the next, whose errors add to it.
WEIGHT_TOLERANCE, LOSS_TOLERANCE, NORM_TOLERANCE = 4e-5, 4e-5, 2e-4
SETTINGS: dict[str, Any] = {"learning_rate": RATE, "adam_epsilon": 1e-3, "adam_beta2": 0.99, "weight_decay": 0.1, "max_grad_norm": 0.2}


@pytest.fixture(scope="module")
def adapter_folder(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that does something: a fresh one has B = 0."""
    folder = tmp_path_factory.mktemp("adapter")
    policy = Policy.load(ModelSection(path=str(tiny_qwen2), dtype="float32", lora=LoraSection(r=4, alpha=8.0)), str(tiny_qwen2))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in policy.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    save_adapter(policy, folder)
    return folder


def distributed_step(config: RunConfig, groups: list[ScoredGroup], log_dir: Path) -> tuple[StepReport, dict[str, np.ndarray]]:
    async def step() -> tuple[StepReport, dict[str, np.ndarray]]:
        group = GrpoLearner.create(config, ray_options={}, log_dir=log_dir)
        await group.start(config.model.path, 10)
        report = await group.step(groups, step=0)
        adapter = await group.export_adapter()
        manifest, buffer_ref = adapter.manifest, adapter.buffer
        buffer: Any = await buffer_ref
        await group.close()
        return report, {slot.name: buffer[slot.start_byte : slot.end_byte].view(np.float32).reshape(slot.shape) for slot in manifest.slots}

    return asyncio.run(step())


def logprobs_and_entropies(policy: Policy, body: RolloutGroup, index: int) -> tuple[Tensor, Tensor]:
    """Of one completion, alone, through transformers: float64 [T] each."""
    prompt_ids, ids = body.prompt_token_ids.tolist(), body.token_ids_T(index).tolist()
    logits_TV = policy.model(input_ids=torch.tensor([prompt_ids + ids])).logits[0, len(prompt_ids) - 1 : -1] / TEMPERATURE
    distribution = torch.distributions.Categorical(logits=logits_TV)
    return distribution.log_prob(torch.tensor(ids)), distribution.entropy()


def in_float64(
    config: RunConfig, bodies: list[RolloutGroup], advantages_PG: list[list[float]]
) -> tuple[list[float], list[float], dict[str, Tensor], float]:
    """Losses and norms of every update, the weights after the last, and the share of tokens that was clipped: DAPO with k3 and entropy bonus,
    or GSPO averaged as GRPO. No packing, no batches, no ranks."""
    learner = config.learner
    policy = Policy.load(config.model, config.model.path).double()
    parameters = policy.trainable()
    optimizer = torch.optim.AdamW(parameters.values(), lr=RATE, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1)
    samples = [(body, i, advantage) for body, row in zip(bodies, advantages_PG, strict=True) for i, advantage in enumerate(row)]
    num_tokens = sum(len(body.token_ids_T(i)) for body, i, _ in samples)
    with torch.no_grad():
        old = [logprobs_and_entropies(policy, body, i)[0] for body, i, _ in samples]
        with policy.model.disable_adapter():
            reference = [logprobs_and_entropies(policy, body, i)[0] for body, i, _ in samples]
    high = learner.epsilon if learner.epsilon_high is None else learner.epsilon_high
    losses, norms, clipped, seen = [], [], 0, 0
    for _ in range(learner.num_iterations):
        loss = torch.zeros((), dtype=torch.float64)
        for (body, i, advantage), old_T, reference_T in zip(samples, old, reference, strict=True):
            logprobs_T, entropies_T = logprobs_and_entropies(policy, body, i)
            whole = torch.exp((logprobs_T - old_T).mean())
            for t, logprob in enumerate(logprobs_T):
                weight = min(math.exp(float(old_T[t]) - float(body.logprobs_T(i)[t])), 2.0)
                ratio = whole if learner.importance_sampling_level == "sequence" else torch.exp(logprob - old_T[t])
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - learner.epsilon, 1 + high) * advantage)
                clipped += bool(surrogate < ratio * advantage)
                seen += 1
                gap = reference_T[t] - logprob
                token_loss = -weight * surrogate + learner.beta * (gap.exp() - gap - 1)
                share = 1 / (len(samples) * len(logprobs_T)) if learner.loss_type == "grpo" else 1 / num_tokens
                loss = loss + share * token_loss - learner.entropy_coef * entropies_T[t] / num_tokens
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(parameters.values(), learner.max_grad_norm)))
        optimizer.step()
        losses.append(loss.item())
    return losses, norms, {name: parameter.detach() for name, parameter in parameters.items()}, clipped / seen


def group_relative(rewards_PG: list[list[float]]) -> list[list[float]]:
    rewards = torch.tensor(rewards_PG, dtype=torch.float64)
    return ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).tolist()


def compare(weights: dict[str, np.ndarray], expected: dict[str, Tensor]) -> None:
    for name, tensor in expected.items():
        assert np.abs(weights[name.removeprefix("model.").replace(".default.", ".")] - tensor.numpy()).max() < WEIGHT_TOLERANCE, name


@pytest.mark.parametrize(
    ("ranks", "objective"),
    [
        (1, {"loss_type": "dapo", "epsilon": 0.05, "epsilon_high": 0.08, "beta": 0.1, "entropy_coef": 0.05, "num_iterations": 2}),
        (2, {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "num_iterations": 3}),
    ],
)
def test_several_updates_a_step_are_those_of_a_loop(
    ranks: int, objective: dict[str, Any], tiny_qwen2: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    options = {"ranks": ranks, "token_budget": 96, **objective, **SETTINGS}
    config = run_config(tiny_qwen2, model={"adapter": str(adapter_folder)}, actors={"temperature": TEMPERATURE}, **options)
    groups = scored_groups(11, ray.put, prompts=3, left_out=0)
    report, weights = distributed_step(config, groups, tmp_path)
    advantages_PG = group_relative([list(group.scores.rewards_G) for group in groups])  # type: ignore[arg-type]
    losses, norms, expected, clipped = in_float64(config, [opened(group) for group in groups], advantages_PG)
    assert report.policy_version == 1 and not report.skipped
    assert report.metrics["train/loss"] == pytest.approx(np.mean(losses), abs=LOSS_TOLERANCE)
    assert report.metrics["train/grad_norm"] == pytest.approx(np.mean(norms), rel=NORM_TOLERANCE)
    assert 0.01 < clipped < 0.9, "clipping must do something to be tested"
    if objective.get("importance_sampling_level") != "sequence":  # there it is a share of completions
        assert report.metrics["clip_ratio/region_mean"] == pytest.approx(clipped)
    compare(weights, expected)


@pytest.mark.parametrize(("ranks", "estimator"), [(1, "rloo"), (2, "grpo")])
def test_a_divergence_in_the_reward_is_subtracted_before_advantages(
    ranks: int, estimator: str, tiny_qwen2: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    """The step is that of rewards from which a loop in float64 has taken the divergence."""
    common: dict[str, Any] = {"loss_type": "dapo", "advantage_estimator": estimator, "token_budget": 96, **SETTINGS}
    model, actors = {"adapter": str(adapter_folder)}, {"temperature": TEMPERATURE}
    penalty = {"beta": 0.3, "kl_estimator": "k1", "kl_in_reward": True}
    groups = scored_groups(11, ray.put, left_out=1)  # a completion without a reward has no divergence either
    report, weights = distributed_step(
        run_config(tiny_qwen2, model=model, actors=actors, ranks=ranks, **common, **penalty), groups, tmp_path
    )

    config = run_config(tiny_qwen2, model=model, actors=actors, **common)
    policy = Policy.load(config.model, config.model.path).double()
    total, tokens, penalised = 0.0, 0, []
    for group in groups:
        body, rewards = opened(group), []
        for index, reward in enumerate(group.scores.rewards_G):
            with torch.no_grad():
                logprobs_T, _ = logprobs_and_entropies(policy, body, index)
                with policy.model.disable_adapter():
                    divergence = float((logprobs_T - logprobs_and_entropies(policy, body, index)[0]).sum())
            if reward is not None:
                total, tokens = total + divergence, tokens + len(logprobs_T)
            rewards.append(None if reward is None else reward - 0.3 * divergence)
        penalised.append(replace(group, scores=replace(group.scores, rewards_G=tuple(rewards))))
    expected_report, expected = distributed_step(config, penalised, tmp_path)
    assert abs(total / tokens) > 0.01, "the divergence must be large enough to be tested"
    assert report.metrics["kl"] == pytest.approx(total / tokens, abs=2e-5)  # log-probabilities are good to that
    assert report.metrics["train/loss"] == pytest.approx(expected_report.metrics["train/loss"], abs=LOSS_TOLERANCE)
    assert report.metrics["reward"] == pytest.approx(np.mean([r for g in groups for r in g.scores.rewards_G if r is not None]))
    compare(weights, {name: torch.from_numpy(value.copy()) for name, value in expected.items()})
