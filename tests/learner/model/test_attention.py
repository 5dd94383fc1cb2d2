"""The masks of packed rows: every implementation sees the same."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema.model import LoraSection, ModelSection
from learner.model.attention import attention_mask
from learner.model.policy import Policy
from learner.packing import MicroBatch, pack
from tests.learner.rollouts import trained_groups

# Two layers in float32 of which only the order of sums differs: as in numerics/test_logprobs.py.
TOLERANCE = 2e-5


def load(path: Path, implementation: str) -> Policy:
    model = ModelSection(path=str(path), dtype="float32", attn_implementation=implementation, lora=LoraSection(r=4))  # type: ignore[arg-type]
    return Policy.load(model, str(path))


@pytest.fixture(scope="module")
def batch() -> MicroBatch:
    """Rows of three blocks of 128 tokens and a part of one, with padding, prompts that several completions share, and unequal lengths."""
    batch = pack(trained_groups(3, prompts=7, generations=8, longest=100), token_budget=4096, attention_width=math.inf)[0]
    assert batch.token_ids_BT.shape[0] > 1 and batch.token_ids_BT.shape[1] > 256 and batch.fill < 1
    return batch


def seen(batch: MicroBatch, row: int, query: int) -> list[int]:
    """The tokens that a token may look at, from the definition: its prompt, and its own segment up to itself."""
    segments, prompts = batch.segment_ids_BT[row], batch.prompt_segments_BT[row]
    return [key for key in range(query + 1) if segments[key] in (segments[query], prompts[query])]


def test_dense_masks_allow_what_is_defined(batch: MicroBatch) -> None:
    mask = attention_mask(torch.from_numpy(batch.segment_ids_BT), torch.from_numpy(batch.prompt_segments_BT), "sdpa", torch.float32)
    assert isinstance(mask, torch.Tensor)
    rows, width = batch.segment_ids_BT.shape
    assert mask.shape == (rows, 1, width, width) and set(mask.unique().tolist()) == {0.0, -math.inf}
    for row, query in ((0, 0), (0, 57), (0, width - 1), (rows - 1, width // 2)):
        assert torch.nonzero(mask[row, 0, query] == 0)[:, 0].tolist() == seen(batch, row, query)


def test_block_masks_allow_what_is_defined_and_skip_blocks_that_nobody_sees(batch: MicroBatch) -> None:
    segments, prompts = torch.from_numpy(batch.segment_ids_BT), torch.from_numpy(batch.prompt_segments_BT)
    dense = attention_mask(segments, prompts, "sdpa", torch.float32)
    blocks = attention_mask(segments, prompts, "flex_attention", torch.float32)
    assert not isinstance(blocks, torch.Tensor) and isinstance(dense, torch.Tensor)
    width = segments.shape[1]
    padded = torch.nn.functional.pad(dense == 0, (0, -width % 128, 0, -width % 128))
    tiles = padded.unflatten(-1, (-1, 128)).unflatten(-3, (-1, 128)).any(-1).any(-2)
    assert torch.equal(blocks.to_dense().bool(), tiles)
    assert int(tiles.sum()) < int(torch.ones_like(tiles).tril().sum()), "blocks of other prompts are skipped as well as those ahead"


@pytest.mark.parametrize("implementation", ["eager", "flex_attention"])
def test_implementations_agree(implementation: str, tiny_qwen2: Path, batch: MicroBatch) -> None:
    """Without gradient: FlexAttention has no backward on the CPU. Not compiled either; on a GPU it is."""
    logprobs = {}
    for name in ("sdpa", implementation):
        policy = load(tiny_qwen2, name)
        assert policy.causal.config._attn_implementation == name
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logprobs[name] = policy(policy.tensors(batch))[0].numpy()
    assert np.abs(logprobs[implementation] - logprobs["sdpa"]).max() < TOLERANCE
    assert logprobs["sdpa"].std() > 0.1


def test_flex_attention_makes_wide_rows_free(tiny_qwen2: Path) -> None:
    groups = trained_groups(3, prompts=4, generations=8, longest=100)
    batches = {
        name: pack(groups, token_budget=4096, attention_width=load(tiny_qwen2, name).attention_width) for name in ("sdpa", "flex_attention")
    }
    computed = {name: sum(batch.tokens for batch in parts) for name, parts in batches.items()}
    assert computed["flex_attention"] < computed["sdpa"], "more completions share a prompt in a wider row"
