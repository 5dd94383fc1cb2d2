"""One distributed step (Ray, DeepSpeed ZeRO-2, gloo, packing, accumulation) against the one-file GRPO, which has none of these."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from configs.contracts.records import ScoredGroup
from configs.schema.model import LoraSection, ModelSection
from examples.grpo_in_one_file import Batch, group_advantages, grpo_step, pad
from learner.grpo.learner import GrpoLearner
from learner.model.adapters import save_adapter
from learner.model.policy import Policy
from tests.bodies import opened
from tests.learner.rollouts import MAX_COMPLETION_LENGTH, run_config, scored_groups

TEMPERATURE = 0.8
# Losses and norms are sums of about 200 float32 terms of size 1, through a model whose log-probabilities are good to 2e-5.
LOSS_TOLERANCE, NORM_TOLERANCE = 2e-5, 1e-4
# The step is lr x g / (|g| + eps) with lr 1e-2 and eps 1e-3: an error in a gradient of 1e-6 moves a weight by at most 1e-5.
WEIGHT_TOLERANCE = 1e-5
SETTINGS: dict[str, Any] = {"learning_rate": 1e-2, "adam_epsilon": 1e-3, "adam_beta2": 0.99, "weight_decay": 0.1, "max_grad_norm": 0.2}


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


def padded(groups: list[ScoredGroup]) -> Batch:
    bodies = [opened(group) for group in groups]
    rows = [(body, index) for body in bodies for index in range(len(body))]
    batch = pad([body.prompt_token_ids.tolist() for body, _ in rows], [body.token_ids_T(index).tolist() for body, index in rows])
    batch.advantages_B = group_advantages(torch.tensor([group.scores.rewards_G for group in groups])).flatten()
    for row, (body, index) in enumerate(rows):
        logprobs_T = torch.from_numpy(body.logprobs_T(index).copy())
        batch.behaviour_logprobs_BT[row, len(body.prompt_token_ids) : len(body.prompt_token_ids) + len(logprobs_T)] = logprobs_T
    return batch


@pytest.mark.usefixtures("ray_local")
@pytest.mark.parametrize(
    ("ranks", "loss_type", "beta", "mode"),
    [
        (1, "bnpo", 0.0, "token_truncate"),
        (2, "grpo", 0.1, "sequence_truncate"),
        (2, "dr_grpo", 0.0, "token_truncate"),
        (1, "dapo", 0.1, "token_truncate"),
    ],
)
def test_a_step_is_the_one_file_step(
    ranks: int, loss_type: str, beta: float, mode: str, tiny_qwen2: Path, adapter_folder: Path, tmp_path: Path
) -> None:
    model = {"adapter": str(adapter_folder)}
    objective = {"loss_type": loss_type, "beta": beta, "importance_sampling_mode": mode}
    config = run_config(tiny_qwen2, model=model, actors={"temperature": TEMPERATURE}, ranks=ranks, token_budget=96, **objective, **SETTINGS)
    groups = scored_groups(11, ray.put, left_out=0)

    async def distributed_step() -> tuple[Any, dict[str, np.ndarray]]:
        group = GrpoLearner.create(config, ray_options={}, log_dir=tmp_path)
        await group.start(str(tiny_qwen2), 10)
        report = await group.step(groups, step=0)
        adapter = await group.export_adapter()
        manifest, buffer_ref = adapter.manifest, adapter.buffer
        buffer: Any = await buffer_ref
        await group.close()
        return report, {slot.name: buffer[slot.start_byte : slot.end_byte].view(np.float32).reshape(slot.shape) for slot in manifest.slots}

    report, weights = asyncio.run(distributed_step())

    policy = Policy.load(config.model, str(tiny_qwen2))
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-2, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.1)
    loss, norm = grpo_step(
        policy.model,
        optimizer,
        padded(groups),
        temperature=TEMPERATURE,
        max_grad_norm=0.2,
        max_completion_length=MAX_COMPLETION_LENGTH,
        **objective,
    )
    assert norm > 0.2, "the step must be clipped for clipping to be tested"
    assert report.metrics["train/loss"] == pytest.approx(loss, abs=LOSS_TOLERANCE)
    assert report.metrics["train/grad_norm"] == pytest.approx(norm, rel=NORM_TOLERANCE)
    for name, expected in policy.trainable().items():
        ours = weights[name.removeprefix("model.").replace(".default.", ".")]
        assert np.abs(ours - expected.detach().numpy()).max() < WEIGHT_TOLERANCE, name
