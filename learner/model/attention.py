"""Who looks at whom in packed rows: a token at its own segment and at the prompt of its block, never ahead.

Dimensions: `_B` rows, `_T` tokens of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

FLEX = "flex_attention"


def attention_mask(segment_ids_BT: Tensor, prompt_segments_BT: Tensor, implementation: str, dtype: torch.dtype) -> Tensor | BlockMask:
    """The mask that transformers' attention of this name takes.

    Returns: for `flex_attention` a BlockMask, whose size and cost go with the blocks of 128 x 128 in which any token sees another; else
    what to add to the scores, 0 or -inf, [B, 1, T, T] in `dtype`.
    """
    if implementation == FLEX:
        return _block_mask(segment_ids_BT, prompt_segments_BT)
    own = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
    allowed = (own | (prompt_segments_BT[:, :, None] == segment_ids_BT[:, None, :])).tril_()
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)[:, None]


def _block_mask(segment_ids_BT: Tensor, prompt_segments_BT: Tensor) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        segment = segment_ids_BT[b, key]
        return (query >= key) & ((segment_ids_BT[b, query] == segment) | (prompt_segments_BT[b, query] == segment))

    rows, width = segment_ids_BT.shape
    # Compiled, it looks at one block at a time; otherwise it makes all T x T answers first.
    return create_block_mask(sees, rows, None, width, width, device=segment_ids_BT.device, _compile=segment_ids_BT.is_cuda)
