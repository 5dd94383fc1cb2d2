"""One learner step in this process, and what it took: run by test_memory.py, since a peak is that of a process's whole life.

Reads a RunConfig as JSON from standard input; its model is a folder. Prints JSON: `peak_bytes`, the most resident memory beyond what the
imports took, and `micro_batch`, the rows, width and predicted tokens of the first.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from functools import partial

import numpy as np
import psutil
import torch

from configs.schema.learner import OptimizerSection
from configs.schema.run import RunConfig
from learner.engine.schedule import Schedule
from learner.engine.throughput import peak_memory_bytes
from learner.engine.zero2_engine import LearnerEngine, join_process_group
from learner.model.policy import Policy, one_sequence
from learner.packing import MicroBatch, TrainedCompletion, TrainedGroup, pack
from learner.sft.trainer import sft_loss


def groups_of(config: RunConfig, vocabulary: int) -> list[TrainedGroup]:
    """A step's groups with the longest prompts and completions that the configuration allows."""
    draw = np.random.default_rng(0)
    length = config.actors.max_completion_length

    def completion() -> TrainedCompletion:
        return TrainedCompletion(draw.integers(1, vocabulary, length).astype(np.int32), np.full(length, -5.0, np.float32), 1.0)

    return [
        TrainedGroup(
            draw.integers(1, vocabulary, config.data.max_prompt_length).astype(np.int32),
            tuple(completion() for _ in range(config.actors.num_generations)),
        )
        for _ in range(config.groups_per_step)
    ]


def loss_of(policy: Policy, batch: MicroBatch, model: Policy) -> torch.Tensor:
    return sft_loss(model(policy.tensors(batch))[0], num_tokens=1000)[0]


def after_a_small_step(config: RunConfig) -> int:
    """Resident memory when all libraries are loaded, with what they keep once they have computed anything."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    with tempfile.TemporaryDirectory() as folder:
        Qwen2ForCausalLM(Qwen2Config(**size, intermediate_size=32)).save_pretrained(folder)  # type: ignore[arg-type]
        policy = Policy.load(config.model, folder)
    policy(policy.tensors(one_sequence(range(1, 60))))[0].sum().backward()
    return psutil.Process().memory_info().rss


def main() -> None:
    config = RunConfig.model_validate_json(sys.stdin.read())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    join_process_group(rank=0, world_size=1, address="127.0.0.1", port=port, on_gpu=False, timeout_s=30)
    imports_bytes = after_a_small_step(config)
    policy = Policy.load(config.model, config.model.path, gradient_checkpointing=config.learner.gradient_checkpointing)
    engine = LearnerEngine(policy, OptimizerSection(), Schedule("constant", 1e-3, 0, 10))
    batches = pack(
        groups_of(config, policy.causal.config.vocab_size),
        token_budget=config.learner.token_budget,
        attention_width=policy.attention_width,
    )
    for _ in range(2):  # the second has Adam's moments beside the activations
        engine.step([partial(loss_of, policy, batch) for batch in batches])
    rows, width = batches[0].token_ids_BT.shape
    micro_batch = (rows, width, len(batches[0].source_N))
    print(json.dumps({"peak_bytes": peak_memory_bytes(policy.device) - imports_bytes, "micro_batch": micro_batch}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
