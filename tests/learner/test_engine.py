"""The ZeRO-2 engine alone, one rank in this process: bfloat16, losses that are not finite, and what a driver's import must not load."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.errors import CheckpointError
from configs.schema import LoraSection, ModelSection
from learner.engine import LearnerEngine, OptimizerSettings, join_process_group
from learner.policy import PackedTensors, Policy
from learner.schedule import Schedule
from tests.learner.rollouts import VOCABULARY

TOKEN_IDS = [1 + i * 7 % (VOCABULARY - 1) for i in range(200)]


@pytest.fixture(scope="module", autouse=True)
def one_rank() -> Iterator[None]:
    environment = dict(os.environ)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    join_process_group(rank=0, world_size=1, address="127.0.0.1", port=port, on_gpu=False, timeout_s=30)
    yield
    torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(environment)


def load(path: Path, dtype: str) -> Policy:
    return Policy.load(ModelSection(path=str(path), dtype=dtype, lora=LoraSection(r=4, alpha=8.0)), str(path))  # type: ignore[arg-type]


def engine_of(policy: Policy, rate: float = 1e-2) -> LearnerEngine:
    return LearnerEngine(policy, OptimizerSettings(), Schedule("constant", rate, 0, 10))


def packed(policy: Policy) -> PackedTensors:
    from learner.policy import one_sequence

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
    assert np.array_equal(again.export(3).buffer, policy.export(3).buffer)
    name = next(iter(policy.trainable()))
    assert masters[f"master/{name}"].dtype == torch.float32
    assert not torch.equal(masters[f"master/{name}"], masters[f"master/{name}"].bfloat16().float())


def test_a_loss_that_is_not_finite_is_skipped_even_where_gradients_are(tiny_qwen2: Path) -> None:
    policy = load(tiny_qwen2, "float32")
    engine = engine_of(policy)
    tensors = packed(policy)
    before = policy.export(0).buffer
    outcome = engine.step([partial(unlikelihood, tensors), partial(unlikelihood, tensors, plus=float("inf"))])
    assert not outcome.applied and engine.steps_done == 1 and np.array_equal(before, policy.export(0).buffer)
    assert engine.step([partial(unlikelihood, tensors)]).applied and engine.steps_done == 2


@pytest.mark.parametrize("name", ["learner.json", "optimizer.safetensors", "rng-0.safetensors"])
def test_a_truncated_checkpoint_is_recognised(name: str, tiny_qwen2: Path, tmp_path: Path) -> None:
    engine = engine_of(load(tiny_qwen2, "float32"))
    engine.save(tmp_path, {})
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="no learner checkpoint"):
        engine.load(tmp_path)


@pytest.mark.parametrize(("on_gpu", "compiles"), [(True, True), (False, False)])
def test_deepspeed_leaves_compilation_to_gpus(on_gpu: bool, compiles: bool) -> None:
    """FlexAttention must be compiled to be of use; on a CPU nothing may look for a C++ compiler."""
    program = (
        f"from learner.engine import import_deepspeed; import_deepspeed(on_gpu={on_gpu})\n"
        "import torch; print(torch.compile(abs) is not abs and hasattr(torch.compile(abs), '_torchdynamo_orig_callable'))"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("TORCHDYNAMO_DISABLE", "DS_ACCELERATOR")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, env=environment)
    assert done.stdout.strip().splitlines()[-1] == str(compiles), done.stderr


def test_the_driver_can_import_the_group_without_torch() -> None:
    program = (
        "import sys, learner.group; sys.exit(str([m for m in ('torch', 'deepspeed', 'transformers', 'peft', 'vllm') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stderr.strip() == "[]"
