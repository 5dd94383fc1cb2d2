"""What a step computes, counted: tokens, operations, and their share of a device's peak."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from configs.contracts.metrics import Mean, merge, values
from configs.schema.model import LoraSection, ModelSection
from learner.engine.throughput import (
    FlopCount,
    allowed_pairs,
    packing_metrics,
    peak_flops,
    peak_memory_bytes,
    speed_metrics,
    unshared_tokens,
)
from learner.model.policy import Policy, one_sequence
from learner.packing import TrainedCompletion, TrainedGroup, pack
from tests.learner.rollouts import trained_groups


def load(path: Path, *, full: bool = False) -> Policy:
    """Eager attention: its products are plain ones, which torch's counter counts over all pairs."""
    model = ModelSection(path=str(path), dtype="float32", attn_implementation="eager", lora=LoraSection(r=4))
    return Policy.load(model, str(path), full=full)


@pytest.mark.parametrize("full", [False, True])
def test_operations_are_those_that_torch_counts(full: bool, tiny_qwen2: Path) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    policy = load(tiny_qwen2, full=full)
    packed = policy.tensors(one_sequence(range(1, 42)))
    tokens = packed.token_ids_BT.numel()
    with FlopCounterMode(display=False) as counter:
        decoder = policy.causal.get_decoder()
        decoder(
            input_ids=packed.token_ids_BT, position_ids=packed.position_ids_BT, attention_mask=packed.mask, use_cache=False
        ).last_hidden_state.sum().backward()
    count = FlopCount.of(policy)
    # Nothing is differentiated through the frozen embedding, so q, k and v of the first layer, and their A matrices, pass nothing back.
    first = policy.causal.get_decoder().layers[0].self_attn
    idle = 0
    if not full:
        for module in (first.q_proj, first.k_proj, first.v_proj):
            idle += 2 * (module.base_layer.weight.numel() + module.lora_A["default"].weight.numel())
    assert counter.get_total_flops() == (count.linear_per_token - idle) * tokens + count.attention_per_pair * tokens**2
    assert count.head_per_prediction == (6 if full else 4) * 64 * 32


def test_pairs_and_tokens_are_those_of_the_sequences() -> None:
    groups = trained_groups(5, prompts=3, generations=4)
    for width in (1.0, 1e9):
        batches = pack(groups, token_budget=4096, attention_width=width)
        lengths = [(len(g.prompt_ids_T), len(c.token_ids_T)) for g in groups for c in g.completions]
        assert sum(map(unshared_tokens, batches)) == sum(prompt + length - 1 for prompt, length in lengths)
    shared = TrainedGroup(np.arange(5), tuple(TrainedCompletion(np.arange(n), np.zeros(n, np.float32), 1.0) for n in (5, 4)))
    (batch,) = pack([shared], token_budget=64, attention_width=1e9)
    # The prompt's five see 1..5 tokens; the completions' 4 and 3 (the last of each is never computed) see 6..9 and 6..8.
    assert batch.tokens == 12 and allowed_pairs(batch) == 15 + 30 + 21
    assert values(packing_metrics([batch])) == {"packing/fill": 12 / 16, "packing/prefix_saving": pytest.approx(5 / 17)}
    (empty,) = pack([], token_budget=64, attention_width=1.0)
    assert allowed_pairs(empty) == unshared_tokens(empty) == 0 and values(packing_metrics([empty])) == {"packing/fill": 0.0}


def test_rates_of_ranks_add_up(tiny_qwen2: Path) -> None:
    batches = pack(trained_groups(5), token_budget=4096, attention_width=1e9)
    count = FlopCount.of(load(tiny_qwen2))
    cpu = torch.device("cpu")
    one, two = (speed_metrics(batches, count, 2.0, ranks, cpu) for ranks in (1, 2))
    together, alone = values(merge([two, two])), values(one)
    for name in ("learner/computed_tokens_per_s", "learner/completion_tokens_per_s"):
        assert together[name] == pytest.approx(2 * alone[name])
    assert alone["learner/computed_tokens_per_s"] == sum(batch.tokens for batch in batches) / 2.0
    assert "mfu" not in alone, "a CPU's peak is not known"
    assert isinstance(one["learner/computed_tokens_per_s"], Mean)


def test_peak_memory_on_a_cpu_is_the_most_that_was_resident() -> None:
    """The block is mapped anew: an allocator may hand out pages that are resident already.

    Linux counts residents in batches: 4 MiB is more than it is ever off with so few cores.
    """
    cpu, slack, block_bytes = torch.device("cpu"), 4 << 20, 128 << 20
    resident = psutil.Process().memory_info().rss
    with mmap.mmap(-1, block_bytes) as block:
        block[:: mmap.PAGESIZE] = bytes(block_bytes // mmap.PAGESIZE)
        with_block = peak_memory_bytes(cpu)
    assert with_block > resident + block_bytes - slack
    assert psutil.Process().memory_info().rss < with_block - block_bytes // 2, "the block is not resident any more"
    assert peak_memory_bytes(cpu) > with_block - slack


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA A10", 125),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_are_found_by_the_name_of_the_device(name: str, tera: int | None) -> None:
    assert peak_flops(name) == (None if tera is None else tera * 1e12)
