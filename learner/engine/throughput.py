"""Cost of a step: tokens, floating-point operations, their share of the device's peak rate (MFU), and peak memory.

Dimensions: `_B` rows, `_T` tokens of a row, `_C` completions of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.contracts.metrics import Max, Mean, Metric
from learner.packing import MicroBatch

if TYPE_CHECKING:
    import torch

    from learner.model.policy import Policy

PEAK_BF16_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H20": 148e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bfloat16 operations per second with float32 accumulation, from the makers' data sheets. The longest matching name counts."""


def peak_flops(device_name: str) -> float | None:
    """Peak rate of a device, by the name that torch gives it; None if it is not known."""
    known = [name for name in PEAK_BF16_FLOPS if f"{name} " in f"{device_name} ".replace("-", " ")]
    return PEAK_BF16_FLOPS[max(known, key=len)] if known else None


@dataclass(frozen=True, slots=True)
class FlopCount:
    """Floating-point operations of one forward and backward pass ("model FLOPs"); gradient checkpointing's second forward is not counted.

    For each token, a matrix of n weights takes 2 n operations forward, 2 n to pass the gradient through, and 2 n for its own gradient if it
    is trained (Kaplan et al. 2020, arXiv:2001.08361, section 2.1). So a frozen base costs 4 n and an adapter 6 n.
    """

    linear_per_token: int
    """Operations in all linear layers except the head, for every token of a row."""
    head_per_prediction: int
    """Operations in the vocabulary projection, for every predicted token."""
    attention_per_pair: int
    """Operations in all layers, for every pair of a token and one that it sees: two products of a head's width forward, four backward."""

    @classmethod
    def of(cls, policy: Policy) -> FlopCount:
        import torch

        head = policy.causal.get_output_embeddings()
        linears = [module for module in policy.modules() if isinstance(module, torch.nn.Linear) and module is not head]
        config = policy.causal.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            linear_per_token=sum(_flops(linear) for linear in linears),
            head_per_prediction=_flops(head),
            attention_per_pair=12 * config.num_hidden_layers * config.num_attention_heads * head_dim,
        )

    def step(self, batches: Sequence[MicroBatch]) -> int:
        """Operations of a step on these micro-batches, without padding."""
        tokens = sum(batch.tokens for batch in batches)
        predictions = sum(len(batch.source_N) for batch in batches)
        return (
            self.linear_per_token * tokens
            + self.head_per_prediction * predictions
            + self.attention_per_pair * sum(allowed_pairs(batch) for batch in batches)
        )


def allowed_pairs(batch: MicroBatch) -> int:
    """Count the pairs of a token and one that it sees. A token at position p sees p earlier tokens and itself."""
    return int((batch.position_ids_BT[batch.segment_ids_BT >= 0] + 1).sum())


def unshared_tokens(batch: MicroBatch) -> int:
    """Count the tokens to compute if every completion had its own copy of the prompt.

    In the drawing of `learner.packing` these are 3 + 3 for a, 3 + 2 for b and 2 + 4 for c: 17, where sharing computes 14.
    """
    firsts = np.cumsum(batch.lengths_C) - batch.lengths_C
    prompt_tokens_C = batch.position_ids_BT.ravel()[batch.source_N[firsts]] + 1
    return int((prompt_tokens_C + batch.lengths_C - 1).sum())


def packing_metrics(batches: Sequence[MicroBatch]) -> dict[str, Metric]:
    """Measure `packing/fill`, the used share of the rows, and `packing/prefix_saving`, the share of tokens saved by sharing prompts."""
    tokens = sum(batch.tokens for batch in batches)
    unshared = sum(unshared_tokens(batch) for batch in batches)
    return packing_fill(batches) | {"packing/prefix_saving": Mean(unshared - tokens, unshared)}


def packing_fill(batches: Sequence[MicroBatch]) -> dict[str, Metric]:
    """Measure `packing/fill`, the used share of the rows."""
    return {"packing/fill": Mean(sum(batch.tokens for batch in batches), sum(batch.segment_ids_BT.size for batch in batches))}


def speed_metrics(batches: Sequence[MicroBatch], flops: FlopCount, seconds: float, ranks: int, device: torch.device) -> dict[str, Metric]:
    """Measure one rank's part of the step's rates, which add up to the whole group's, and its peak memory.

    `mfu` is absent if the device's peak is not known. `seconds` is the duration of this rank's step, with the time it waited for others.
    """
    tokens = sum(batch.tokens for batch in batches)
    predictions = sum(len(batch.source_N) for batch in batches)
    metrics: dict[str, Metric] = {
        "learner/computed_tokens_per_s": Mean(tokens, seconds / ranks),
        "learner/completion_tokens_per_s": Mean(predictions, seconds / ranks),
        "learner/peak_memory_bytes": Max(peak_memory_bytes(device)),
    }
    peak = _peak_of(device)
    return metrics | ({"mfu": Mean(flops.step(batches), peak * seconds)} if peak else {})


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory since the process began: allocated by torch on a GPU, resident (VmHWM) on a CPU; 0 if the system does not report it."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def _peak_of(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    import torch

    return peak_flops(torch.cuda.get_device_name(device))


def _flops(linear: torch.nn.Linear) -> int:
    return (6 if linear.weight.requires_grad else 4) * linear.in_features * linear.out_features
