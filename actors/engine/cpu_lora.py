"""LoRA on the CPU as plain matrix products; loaded by vLLM's worker, in the engine process, on the CPU only.

vLLM 0.32 gathers a copy of A and B for every *token* of a batch, and takes "no adapter" (slot -1) for the last slot, so that
base-model rows batched with LoRA rows silently get the adapter. Here each slot's rows are multiplied by that slot's A and B
once: the same sums, several times faster, and rows without an adapter stay untouched. A's of one packed layer (q, k, v) are
laid side by side in memory, so that one product shrinks for all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from actors.engine.follow_actor import EngineExtension

if TYPE_CHECKING:
    from vllm.lora.layers import LoRAMapping

Rows = slice | torch.Tensor
"""The rows of a batch that one slot serves: all of them as a slice (a view), or their indices."""


class CpuLoraExtension(EngineExtension):
    """The class for `worker_extension_cls`. It is empty: vLLM imports this module for it, and the import installs the products."""


def rows_by_slot(lora_ids: tuple[int, ...], slot_of: dict[int, int]) -> list[tuple[int, Rows]]:
    """Group rows by the slot that serves them; rows of the base model (id 0) are in no group.

    Example: `rows_by_slot((1, 0, 1), {1: 0})` is `[(0, tensor([0, 2]))]`; `rows_by_slot((1, 1), {1: 0})` is `[(0, slice(None))]`.
    """
    distinct = set(lora_ids)
    if len(distinct) == 1 and 0 not in distinct:
        return [(slot_of[lora_ids[0]], slice(None))]
    ids = torch.tensor(lora_ids)
    return [(slot_of[lora_id], (ids == lora_id).nonzero().flatten()) for lora_id in sorted(distinct - {0})]


def add_product(y: torch.Tensor, h: torch.Tensor, b_t: torch.Tensor, rows: Rows) -> None:
    """`y[rows] += h @ b_t`, in place: y [T, out], h [rows, r], b_t [r, out]."""
    if isinstance(rows, slice):
        y.addmm_(h.to(y.dtype), b_t.to(y.dtype))
    else:
        y.index_add_(0, rows, (h @ b_t).to(y.dtype))


class PackedA:
    """The A matrices of one layer's slices as one matrix per slot, and its B matrices, ready to multiply.

    A layer whose output holds q, k and v side by side has three adapters of rank r. One product shrinks x [T, in] for all three:

        x [T, in] @ [ A_q^T | A_k^T | A_v^T ]  =  [ h_q | h_k | h_v ]  [T, 3r]
        y [T, q columns] += h_q @ B_q^T        y [T, k columns] += h_k @ B_k^T        y [T, v columns] += h_v @ B_v^T
    """

    @torch.inference_mode(False)  # the first step makes it, and a tensor of inference mode could not be loaded into later
    def __init__(self, lora_a_stacked: tuple[torch.Tensor, ...], lora_b_stacked: tuple[torch.Tensor, ...]) -> None:
        self.owners = lora_a_stacked  # keeps the ids alive that `PRODUCTS` is keyed by
        packed = torch.cat([a[:, 0] for a in lora_a_stacked], dim=1)
        start = 0
        for a in lora_a_stacked:
            # vLLM loads adapters into `a` in place: let it write straight into the packed matrix
            a.data = packed[:, start : start + a.shape[2]].unsqueeze(1)
            start += a.shape[2]
        self.a_t = [packed[slot].t() for slot in range(packed.shape[0])]
        self.b_t = [[b[slot, 0].t() for b in lora_b_stacked] for slot in range(packed.shape[0])]

    def add(self, y: torch.Tensor, x: torch.Tensor, scale: float, widths: tuple[int, ...], slots: list[tuple[int, Rows]]) -> None:
        """`y[rows, slice] += scale * x[rows] @ A[slot]^T @ B[slot, slice]^T` for every slot and slice."""
        for slot, rows in slots:
            h = x[rows] @ self.a_t[slot]
            if scale != 1.0:
                h *= scale
            column = rank = 0
            for b_t, width in zip(self.b_t[slot], widths, strict=True):
                r = b_t.shape[0]
                add_product(y[:, column : column + width], h[:, rank : rank + r], b_t, rows)
                column, rank = column + width, rank + r


PRODUCTS: dict[int, PackedA] = {}
"""Products by the `id` of a layer's tuple of A's, which lives as long as the model."""


class Wrapper(Protocol):
    """vLLM's wrapper of the products, as the three methods below see it."""

    is_prefill: bool
    token_slots: list[tuple[int, Rows]]
    """Rows of the hidden states that each slot serves."""
    sampler_slots: list[tuple[int, Rows]]
    """Rows of the logits that each slot serves."""

    def _update_base_metadata(self, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int) -> None: ...


def update_metadata(
    self: Wrapper, mapping: LoRAMapping, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **_: object
) -> None:
    """Record the rows of the coming batch that each slot serves."""
    self._update_base_metadata(mapping, lora_index_to_id, max_loras, vocab_size)
    self.is_prefill = False
    slot_of = {lora_id: slot for slot, lora_id in enumerate(lora_index_to_id) if lora_id is not None}
    self.token_slots = rows_by_slot(mapping.index_mapping, slot_of)
    self.sampler_slots = rows_by_slot(mapping.prompt_mapping, slot_of)


def add_lora_linear(
    self: Wrapper,
    y: torch.Tensor,
    x: torch.Tensor,
    lora_a_stacked: tuple[torch.Tensor, ...],
    lora_b_stacked: tuple[torch.Tensor, ...],
    scale: float,
    output_slices: tuple[int, ...],
    **_: object,
) -> None:
    """Add the adapter's part to a linear layer's output, in place: y [T, sum of slices], x [T, in]."""
    products = PRODUCTS.get(id(lora_a_stacked))
    if products is None:
        products = PRODUCTS[id(lora_a_stacked)] = PackedA(lora_a_stacked, lora_b_stacked)
    products.add(y, x, scale, output_slices, self.token_slots)


def add_lora_logits(
    self: Wrapper, y: torch.Tensor, x: torch.Tensor, lora_a_stacked: torch.Tensor, lora_b_stacked: torch.Tensor, scale: float, **_: object
) -> None:
    """Add the adapter's part to the logits, in place: y [B, V], x [B, in]."""
    for slot, rows in self.sampler_slots:
        b = lora_b_stacked[slot, 0]
        add_product(y[:, : b.shape[0]], (x[rows] @ lora_a_stacked[slot, 0].t()) * scale, b.t(), rows)


PunicaWrapperCPU.update_metadata = update_metadata  # type: ignore[method-assign]
PunicaWrapperCPU.add_lora_linear = add_lora_linear  # type: ignore[method-assign]
PunicaWrapperCPU.add_lora_logits = add_lora_logits  # type: ignore[method-assign]
