"""The ZeRO-2 engine alone, one rank in this process: bfloat16, losses that are not finite, and what a driver's import must not load."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.contracts.errors import CheckpointError
from configs.schema.learner import OptimizerSection
from configs.schema.model import LoraSection, ModelSection
from learner.engine.schedule import Schedule
from learner.engine.zero2_engine import LearnerEngine
from learner.model.adapters import export_adapter
from learner.model.policy import PackedTensors, Policy
from tests.learner.rollouts import VOCABULARY

TOKEN_IDS = [1 + i * 7 % (VOCABULARY - 1) for i in range(200)]


pytestmark = pytest.mark.usefixtures("one_rank")


def load(path: Path, dtype: str) -> Policy:
    return Policy.load(ModelSection(path=str(path), dtype=dtype, lora=LoraSection(r=4, alpha=8.0)), str(path))  # type: ignore[arg-type]


def engine_of(policy: Policy, rate: float = 1e-2, *, offload: bool = False) -> LearnerEngine:
    return LearnerEngine(policy, OptimizerSection(), Schedule("constant", rate, 0, 10), offload=offload)


def packed(policy: Policy) -> PackedTensors:
    from learner.model.policy import one_sequence

    return policy.tensors(one_sequence(TOKEN_IDS))


def unlikelihood(tensors: PackedTensors, model: Policy, *, plus: float = 0.0) -> Tensor:
    return model(tensors)[0].mean() + plus


def test_a_bfloat16_engine_computes_what_the_policy_alone_computes(tiny_qwen2: Path) -> None:
    """Rotary frequencies must stay in float32, or long positions rotate by wrong angles."""
    policy = load(tiny_qwen2, "bfloat16")
    before = policy.sequence_logprobs(TOKEN_IDS)
    engine_of(policy)
    assert np.array_equal(before, policy.sequence_logprobs(TOKEN_IDS))
    assert all(buffer.dtype == torch.float32 for name, buffer in policy.named_buffers() if "inv_freq" in name)


def test_bfloat16_steps_too_small_for_bfloat16_add_up_and_survive_a_checkpoint(tiny_qwen2: Path, tmp_path: Path) -> None:
    policy = load(tiny_qwen2, "bfloat16")
    engine = engine_of(policy, rate=1e-5)  # the A matrices are about 0.1, where bfloat16 steps are 5e-4
    tensors = packed(policy)
    (tmp_path / "a").mkdir()
    for _ in range(3):
        assert engine.step([partial(unlikelihood, tensors)]).applied
    engine.save(tmp_path / "a", {"num_tokens": 7})
    masters = engine._gather()
    again = load(tiny_qwen2, "bfloat16")
    other = engine_of(again, rate=1e-5)
    assert other.load(tmp_path / "a") == {"num_tokens": 7} and other.steps_done == 3
    assert all(torch.equal(tensor, masters[name]) for name, tensor in other._gather().items())
    assert np.array_equal(export_adapter(again, 3).buffer, export_adapter(policy, 3).buffer)
    name = next(iter(policy.trainable()))
    assert masters[f"master/{name}"].dtype == torch.float32
    assert not torch.equal(masters[f"master/{name}"], masters[f"master/{name}"].bfloat16().float())


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_is_skipped_even_where_gradients_are(tiny_qwen2: Path, dtype: str, offload: bool) -> None:
    policy = load(tiny_qwen2, dtype)
    engine = engine_of(policy, offload=offload)
    tensors = packed(policy)
    before = export_adapter(policy, 0).buffer
    outcome = engine.step([partial(unlikelihood, tensors), partial(unlikelihood, tensors, plus=float("inf"))])
    assert not outcome.applied and engine.steps_done == 1 and np.array_equal(before, export_adapter(policy, 0).buffer)
    after = engine.step([partial(unlikelihood, tensors)])
    assert after.applied and engine.steps_done == 2
    other = load(tiny_qwen2, dtype)
    alone = engine_of(other, offload=offload).step([partial(unlikelihood, tensors)])
    assert after.grad_norm == alone.grad_norm and np.array_equal(export_adapter(policy, 0).buffer, export_adapter(other, 0).buffer)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_offloaded_optimizer_makes_the_same_steps(tiny_qwen2: Path, dtype: str) -> None:
    """The gradients' norm, by which they are clipped, is summed in another order: 1e-6 of a step of 1e-2, over four steps."""
    norms, states = [], []
    for offload in (False, True):
        policy = load(tiny_qwen2, dtype)
        engine = engine_of(policy, offload=offload)
        assert engine._engine.optimizer.cpu_offload == offload
        tensors = packed(policy)
        norms.append([engine.step([partial(unlikelihood, tensors)] * micro_batches).grad_norm for micro_batches in (1, 3, 2, 1)])
        states.append(engine._gather())
    assert norms[0] == pytest.approx(norms[1], rel=1e-5) and min(norms[0]) > 1, "the steps must be clipped for clipping to be compared"
    assert all(tensor.device.type == "cpu" and (tensor - states[1][name]).abs().max() < 1e-6 for name, tensor in states[0].items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_frozen_base_has_no_gradients_no_copies_and_no_optimizer_state(tiny_qwen2: Path, dtype: str) -> None:
    policy = load(tiny_qwen2, dtype)
    engine = engine_of(policy)
    assert engine.step([partial(unlikelihood, packed(policy))]).applied
    trained = policy.trainable()
    frozen = {name: parameter for name, parameter in policy.named_parameters() if name not in trained}
    assert trained and all(".lora_" in name for name in trained) and not any(".lora_" in name for name in frozen)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in frozen.values())
    assert {parameter.dtype for parameter in policy.parameters()} == {getattr(torch, dtype)}
    # Two moments of each trained value in float32, and a count of steps; ZeRO pads the flat partition to a few values.
    values = sum(parameter.numel() for parameter in trained.values())
    held = [tensor for moments in engine._engine.optimizer.state.values() for tensor in moments.values() if tensor.numel() > 1]
    assert all(tensor.dtype == torch.float32 for tensor in held) and 2 * values <= sum(tensor.numel() for tensor in held) < 2 * values + 64


def test_a_step_of_several_updates_is_one_version_and_ends_at_the_first_that_is_not_finite(tiny_qwen2: Path) -> None:
    policy = load(tiny_qwen2, "float32")
    engine = engine_of(policy)
    tensors = packed(policy)
    seen: list[int] = []

    def loss(model: Policy) -> Tensor:
        seen.append(engine.steps_done)
        return unlikelihood(tensors, model, plus=float("nan") if len(seen) == 5 else 0.0)

    outcome = engine.step([loss], num_iterations=3)
    assert (outcome.applied, outcome.updates, engine.steps_done, seen) == (True, 3, 1, [0, 0, 0])
    outcome = engine.step([loss], num_iterations=3)
    assert (outcome.applied, outcome.updates, engine.steps_done, seen) == (False, 2, 2, [0, 0, 0, 1, 1])
    assert engine._updates == 4 and engine._engine.optimizer.state


@pytest.mark.parametrize("name", ["learner.json", "optimizer.safetensors", "rng-0.safetensors"])
def test_a_truncated_checkpoint_is_recognised(name: str, tiny_qwen2: Path, tmp_path: Path) -> None:
    engine = engine_of(load(tiny_qwen2, "float32"))
    engine.save(tmp_path, {})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read as a learner checkpoint"):
        engine.load(tmp_path)


@pytest.mark.parametrize(("on_gpu", "compiles"), [(True, True), (False, False)])
def test_deepspeed_leaves_compilation_to_gpus(on_gpu: bool, compiles: bool) -> None:
    """FlexAttention must be compiled to be of use; on a CPU nothing may look for a C++ compiler."""
    program = (
        f"from learner.engine.zero2_engine import import_deepspeed; import_deepspeed(on_gpu={on_gpu})\n"
        "import torch; print(torch.compile(abs) is not abs and hasattr(torch.compile(abs), '_torchdynamo_orig_callable'))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("TORCHDYNAMO_DISABLE", "DS_ACCELERATOR")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, env=environment)
    assert done.stdout.strip().splitlines()[-1] == str(compiles), done.stderr


def test_the_driver_can_import_the_group_without_torch() -> None:
    program = "import sys, learner.grpo.learner; sys.exit(str([m for m in ('torch', 'deepspeed', 'transformers', 'peft', 'vllm') if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == "[]"
