"""What a step takes: log-probabilities without the logits, the estimate of a dry run, and ZeRO-2's shares. Processes of their own are
measured, by the most memory that was resident."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.inspection import estimate
from cluster.models.shape import ModelShape
from configs.schema.model import LoraSection, ModelSection
from configs.schema.run import RunConfig

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
"""Memory that is freed goes back to the system at once, so that what is resident is what is used."""

LOGPROBS = """
import sys, torch
from learner.model.logprob import token_logprobs
from learner.engine.throughput import peak_memory_bytes
num, vocabulary = map(int, sys.argv[1:])
torch.manual_seed(0)
hidden, head, targets = torch.randn(num, 8, requires_grad=True), torch.randn(vocabulary, 8), torch.randint(0, vocabulary, (num,))
token_logprobs(hidden[:8], head[:64], targets[:8] % 64)[0].sum().backward()
before = peak_memory_bytes(hidden.device)
token_logprobs(hidden, head, targets)[0].sum().backward()
print(peak_memory_bytes(hidden.device) - before)
"""


def output_of(*arguments: str, text: str = "") -> str:
    done = subprocess.run([sys.executable, *arguments], input=text, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_memory_is_flat_in_tokens_times_vocabulary() -> None:
    """41 M logits and 655 M (2.6 GB in float32): both take two chunks of 64 MiB, and no more than a tenth beside."""
    small, large = (int(output_of("-c", LOGPROBS, *sizes)) for sizes in (("1024", "40000"), ("4096", "160000")))
    two_chunks = 2 * (64 << 20)
    assert 0.5 * two_chunks < small < 1.1 * two_chunks and 0.5 * two_chunks < large < 1.1 * two_chunks


SHAPES = {
    "weights": (ModelShape(512, 16, 8, 2, 2048, 8000, True, 64), {"token_budget": 128, "train_batch_size": 4}, (24, 40)),
    "activations": (ModelShape(128, 6, 4, 2, 512, 32_000, True, 32), {"token_budget": 4096, "train_batch_size": 8}, (128, 384)),
}
"""A model, the learner's settings, and the longest prompt and completion: one of which most is weights, one of which most is activations."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    found = {}
    for name, (shape, _, _) in SHAPES.items():
        config = Qwen2Config(
            vocab_size=shape.vocabulary,
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            intermediate_size=shape.intermediate,
            tie_word_embeddings=shape.tied,
        )
        found[name] = tmp_path_factory.mktemp(name)
        Qwen2ForCausalLM(config).save_pretrained(found[name])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_the_estimate_of_a_dry_run_is_within_15_percent(name: str, gradient_checkpointing: bool, folders: dict[str, Path]) -> None:
    shape, learner, (prompt, completion) = SHAPES[name]
    config = RunConfig.model_validate(
        {
            "model": {"path": str(folders[name]), "dtype": "float32", "lora": {"r": 16}},
            "data": {"path": "builtin:addition", "max_prompt_length": prompt},
            "actors": {"num_generations": 4, "max_completion_length": completion, "gpus_per_worker": 0},
            "learner": {"gpus_per_rank": 0, "gradient_checkpointing": gradient_checkpointing, **learner},
        }
    )
    measured = json.loads(output_of("-m", "tests.learner.step_memory", text=config.model_dump_json()))
    assert tuple(measured["micro_batch"]) == estimate.micro_batch(config, shape)
    found = estimate.estimate(config, shape)
    assert found.learner_bytes == pytest.approx(measured["peak_bytes"], rel=0.15)
    dominant = found.learner["frozen base" if name == "weights" else "activations of one micro-batch"]
    assert gradient_checkpointing or dominant > 0.5 * found.learner_bytes


def optimizer_elements(path: str, port: int, world_size: int, rank: int) -> tuple[int, int]:
    """(elements of moments and master weights that this rank keeps after a step, parameters of the adapter)."""
    import torch

    from configs.schema.learner import OptimizerSection
    from learner.engine.schedule import Schedule
    from learner.engine.zero2_engine import LearnerEngine, join_process_group
    from learner.model.policy import Policy, one_sequence

    torch.set_num_threads(1)
    join_process_group(rank=rank, world_size=world_size, address="127.0.0.1", port=port, on_gpu=False, timeout_s=60)
    policy = Policy.load(ModelSection(path=path, dtype="float32", lora=LoraSection(r=4)), path)
    engine = LearnerEngine(policy, OptimizerSection(), Schedule("constant", 1e-3, 0, 10))
    packed = policy.tensors(one_sequence(range(1, 20)))
    engine.step([lambda model: model(packed)[0].sum()])
    optimizer: Any = engine._engine.optimizer
    kept = [tensor for state in optimizer.state.values() for tensor in state.values() if tensor.numel() > 1]
    kept += optimizer.single_partition_of_fp32_groups
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return sum(tensor.numel() for tensor in kept), sum(parameter.numel() for parameter in policy.trainable().values())


@pytest.mark.slow
def test_each_of_two_ranks_keeps_half_of_the_optimizer_state(tiny_qwen2: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for world_size in (1, 2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with context.Pool(world_size) as pool:
            results = pool.map(partial(optimizer_elements, str(tiny_qwen2), port, world_size), range(world_size))
        for kept, adapter in results:
            # Two moments and the master weights; parts are padded to a few elements, so that all ranks' are equal.
            assert 0 <= kept - 3 * adapter / world_size <= 3 * 16
