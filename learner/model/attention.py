"""Attention masks of packed rows: a token sees its own segment and the prompt of its block, never ahead.

Example: prompt p with completions a and b, then prompt q with completion c. Row = token that looks, column = token that is seen.

         p p a a b q c        segment          0 0 1 1 2 3 4
    p    x                    prompt's segment 0 0 0 0 0 3 3
    p    x x
    a    x x x
    a    x x x x
    b    x x     x            b sees the prompt, but not its sibling a
    q              x          another block starts from nothing
    c              x x

Dimensions: `_B` rows, `_T` tokens of a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from learner.packing import FLEX_ATTENTION

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


def attention_mask(segment_ids_BT: Tensor, prompt_segments_BT: Tensor, implementation: str, dtype: torch.dtype) -> Tensor | BlockMask:
    """Make the mask for transformers' attention of the name `implementation`.

    Returns: for `flex_attention` a BlockMask, whose size and cost grow with the number of 128 x 128 blocks in which any token sees another;
    otherwise the values 0 or -inf to add to the scores, [B, 1, T, T] in `dtype`.
    """
    if implementation == FLEX_ATTENTION:
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
    # Compiled, it evaluates one block at a time; otherwise it makes all T x T answers first.
    return create_block_mask(sees, rows, None, width, width, device=segment_ids_BT.device, _compile=segment_ids_BT.is_cuda)
