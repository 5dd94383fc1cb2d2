"""The memory estimate of a quantised base against what the learner really holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.inspection.estimate import estimate, micro_batch
from cluster.models.shape import TINY_SHAPE
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from learner.model.policy import Policy
from learner.model.tiny_model import create_tiny_model
from learner.sft.demonstrations import demonstrations, pack_demonstrations


def config_of(quantization: str, **learner: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": "builtin:tiny_qwen2", "quantization": quantization},
            "data": {"path": "builtin:addition"},
            "actors": {"gpus_per_worker": 0},
            "learner": {"gpus_per_rank": 0} | learner,
        }
    )


def held_bytes(policy: Policy) -> Iterator[int]:
    """Of every frozen parameter, the scales of a quantised one included."""
    for parameter in policy.parameters():
        if parameter.requires_grad:
            continue
        yield parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield state.absmax.numel() + 4 * state.state2.absmax.numel()


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_the_frozen_base_is_estimated_within_two_percent(quantization: str, tmp_path: Path) -> None:
    """The estimate leaves out the biases of q, k and v and int8's scale of each row: 1 % of this narrow model, less of others."""
    config = config_of(quantization)
    policy = Policy.load(config.model, str(create_tiny_model(tmp_path / "tiny", 0)))
    assert estimate(config, TINY_SHAPE).learner["frozen base"] == pytest.approx(sum(held_bytes(policy)), rel=0.02)


def test_an_offloaded_optimizer_takes_no_memory_of_the_device() -> None:
    kept, offloaded = (estimate(config_of("none", offload_optimizer=offload), TINY_SHAPE) for offload in (False, True))
    assert kept.learner_bytes - offloaded.learner_bytes == 16 * kept.adapter_parameters  # float32: master, gradient, two moments


def test_a_fine_tuning_is_estimated_as_it_is_packed() -> None:
    """Of the longest sequences; and with every weight trained nothing is frozen, and each has 16 bytes of optimizer state."""
    tree = {"model": {"path": "builtin:tiny_qwen2"}, "data": {"path": "d", "max_length": 100}}
    learner = {"gpus_per_rank": 0, "train_batch_size": 12, "ranks": 2, "token_budget": 500}
    adapted, full = (SftConfig.model_validate(tree | {"learner": learner | {"use_peft": use_peft}}) for use_peft in (True, False))
    rows, width, _ = micro_batch(adapted, TINY_SHAPE)
    largest = pack_demonstrations(
        demonstrations([([1] * 50, [2] * 50)] * 6), range(6), token_budget=500, attention_width=6.0 * TINY_SHAPE.hidden
    )[0]
    assert (rows, width) == largest.packed.token_ids_BT.shape
    assert (
        estimate(adapted, TINY_SHAPE).adapter_parameters == TINY_SHAPE.adapter_parameters(16) and not estimate(adapted, TINY_SHAPE).rollout
    )
    found = estimate(full, TINY_SHAPE)
    assert found.learner["frozen base"] == 0 and found.learner["optimizer state (ZeRO-2 share)"] == 16 * TINY_SHAPE.parameters // 2
