"""Arithmetic of a run before it starts: batch, memory, and bytes of a sync. For `--dry-run` and the model card."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster.models.shape import ModelShape
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes, by part. `learner` is for one rank."""

    parameters: int
    adapter_parameters: int
    sync_bytes: int
    learner: dict[str, int]
    rollout: dict[str, int]

    @property
    def learner_bytes(self) -> int:
        return sum(self.learner.values())


CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""As in `learner.model.logprob`, which this module may not import."""

ATTENTION_WIDTH_PER_HIDDEN = 6.0
"""As in `learner.model.policy`."""

BUCKET_ELEMENTS = {"cpu": int(5e6), "cuda": int(5e7)}
"""Most that DeepSpeed reduces at once; as in `learner.engine.zero2_engine`."""


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight: 4 bits, a block of 64 shares a scale of 8 bits, 256 of those a float32 (QLoRA, arXiv:2305.14314, section 3)."""
INT8_BYTES = 1.0


def frozen_base_bytes(config: RunConfig | SftConfig, shape: ModelShape) -> int:
    """The base as a learner rank holds it: quantised are the linear layers but the head."""
    element_bytes = 2 if config.model.dtype == "bfloat16" else 4
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linear_shapes)
    linear_bytes = {"none": element_bytes, "nf4": NF4_BYTES, "int8": INT8_BYTES}[config.model.quantization]
    return int(linear * linear_bytes) + (shape.parameters - linear) * element_bytes


def estimate(config: RunConfig | SftConfig, shape: ModelShape) -> Estimate:
    """Memory of one learner rank and one engine, and the bytes of one sync; of a supervised fine-tuning, of a rank alone.

    The learner's is for full micro-batches of the longest prompts and completions, at the end of a forward pass: all activations and a chunk
    of logits. Shown within 15 % of what a step takes in float32 on a CPU (tests/learner/test_memory.py). In bfloat16 on GPUs it is the same
    arithmetic, not yet measured. Not in it: libraries, the CUDA context, LoRA dropout's copies, the scores that eager attention keeps, and
    the float32 copies of a bfloat16 head on a CPU.
    """
    element_bytes = 2 if config.model.dtype == "bfloat16" else 4
    full = isinstance(config, SftConfig) and not config.learner.use_peft
    adapter = shape.parameters if full else shape.adapter_parameters(config.model.lora.r)
    learner = (
        {"frozen base": 0 if full else frozen_base_bytes(config, shape)}
        | _training_state(config, adapter, element_bytes)
        | _activations(config, shape, element_bytes)
    )
    if isinstance(config, SftConfig):
        return Estimate(shape.parameters, adapter, adapter * element_bytes, learner, {})
    kv_per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * element_bytes
    rollout = {
        "weights": shape.parameters * element_bytes,
        f"key-value cache for {config.actors.max_num_seqs} full-length completions": kv_per_token
        * config.max_model_len
        * config.actors.max_num_seqs,
    }
    return Estimate(shape.parameters, adapter, adapter * element_bytes, learner, rollout)


def _training_state(config: RunConfig | SftConfig, adapter: int, element_bytes: int) -> dict[str, int]:
    """What DeepSpeed's ZeRO-2 keeps of the adapter on one rank.

    Every rank has all weights, their gradients and the buckets of the reduction; and a share of the float32 master weights, their gradients
    and Adam's two moments.
    """
    device = "cuda" if config.learner.gpus_per_rank else "cpu"
    buckets = (2 if device == "cuda" else 1) * min(BUCKET_ELEMENTS[device], adapter)
    return {
        "trained weights and their gradient": 2 * adapter * element_bytes,
        "gradient buckets": buckets * element_bytes,
        "optimizer state (ZeRO-2 share)": 0 if config.learner.offload_optimizer else 16 * adapter // config.learner.ranks,
    }


def _activations(config: RunConfig | SftConfig, shape: ModelShape, element_bytes: int) -> dict[str, int]:
    """What one micro-batch keeps for its backward, its attention mask, and the log-probabilities' two buffers of a chunk.

    A layer keeps, per token: the inputs of its two norms in float32 (2 H); the norms' outputs (2 H), query, key and value (repeated to all
    heads) and the attention's output (4 A), gate, its activation, up and their product (4 I), and 7 r of the adapter, in the model's type. With
    gradient checkpointing the layers keep their inputs, and one of them at a time all of that, with its gradients, about as much as half of it.
    """
    rows, width, predictions = micro_batch(config, shape)
    tokens = rows * width
    inside = element_bytes * (2 * shape.hidden + 4 * shape.heads * shape.head_dim + 4 * shape.intermediate + 7 * config.model.lora.r)
    layer = tokens * (inside + 4 * (2 * shape.hidden + shape.heads + 2))
    device = "cuda" if config.learner.gpus_per_rank else "cpu"
    chunk_bytes = 8 if element_bytes == 4 else 10  # two buffers in float32, and the factors of the product with a bfloat16 head
    chunk = chunk_bytes * min(max(CHUNK_LOGITS[device], shape.vocabulary), predictions * shape.vocabulary)
    flex = config.model.attn_implementation == "flex_attention"
    ends = tokens * shape.hidden * element_bytes * 3
    if config.learner.gradient_checkpointing:
        kept, workspace = shape.layers * tokens * shape.hidden * element_bytes + ends, {"chunk": chunk, "layer": layer * 3 // 2}
    else:
        kept, workspace = shape.layers * layer + ends, {"chunk": chunk, "layer": layer // 2}
    return {
        "activations of one micro-batch": kept,
        "attention mask": 0 if flex else tokens * width * element_bytes,
        "chunk of logits, or one layer's backward": max(workspace.values()),
    }


def micro_batch(config: RunConfig | SftConfig, shape: ModelShape) -> tuple[int, int, int]:
    """(rows, width, predicted tokens) of a full micro-batch of longest prompts and completions, as `learner.packing.pack` makes it.

    A row of width P + k C holds k completions with their prompt; the k is chosen that costs least, attention included. Of demonstrations, a row
    is one of the longest.
    """
    if isinstance(config, SftConfig):
        width_T = -(-config.data.max_length // 8) * 8
        rows = max(1, min(config.learner.token_budget // width_T, -(-config.learner.train_batch_size // config.learner.ranks)))
        return rows, width_T, rows * width_T
    prompt, completion, group = config.data.max_prompt_length, config.actors.max_completion_length - 1, config.actors.num_generations
    flex = config.model.attn_implementation == "flex_attention"
    attention_width = math.inf if flex else ATTENTION_WIDTH_PER_HIDDEN * shape.hidden

    def width(k: int) -> int:
        return -(-(prompt + k * completion) // 8) * 8

    def cost(k: int) -> float:
        return -(-group // k) * width(k) * (1 + width(k) / attention_width)

    best = min((k for k in range(1, group + 1) if k == 1 or width(k) <= config.learner.token_budget), key=cost)
    rows = min(config.learner.token_budget // width(best), -(-config.groups_per_step // config.learner.ranks) * -(-group // best))
    rows = max(1, rows)
    return rows, width(best), rows * best * (completion + 1)
