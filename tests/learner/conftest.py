"""A model small enough that any test may load it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.learner.rollouts import VOCABULARY


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Qwen2 with 2 layers, grouped queries and tied embeddings; weights large enough that log-probabilities vary."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny_qwen2")
    torch.manual_seed(7)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def quantisable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the quickstart's model: its sizes are multiples of 64, the block of NF4."""
    from learner.model.tiny_model import create_tiny_model

    return create_tiny_model(tmp_path_factory.mktemp("quantisable"), seed=3)


@pytest.fixture(scope="session")
def process_group() -> Iterator[dict[str, str]]:
    """This process as the only rank of a learner, and the environment that makes it one. DeepSpeed can join but once in a process."""
    import torch.distributed

    from learner.engine.zero2_engine import join_process_group

    before = dict(os.environ)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    join_process_group(rank=0, world_size=1, address="127.0.0.1", port=port, on_gpu=False, timeout_s=30)
    joined = dict(os.environ)
    restore(before)
    yield joined
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def one_rank(process_group: dict[str, str]) -> Iterator[None]:
    """For modules that make engines in this process; others must not see the environment of a rank."""
    before = dict(os.environ)
    restore(process_group)
    yield
    restore(before)


def restore(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
