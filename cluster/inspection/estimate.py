"""Estimate the memory of a run and the bytes of an adapter sync, before it starts; for `--dry-run`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster.models.shape import ModelShape
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from learner.buffer_sizes import BUCKET_ELEMENTS, CHUNK_LOGITS
from learner.packing import FLEX_ATTENTION, BatchShape, TrainedCompletion, TrainedGroup, attention_width, batch_shapes


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Memory of one learner rank and of one engine."""

    parameters: int
    adapter_parameters: int
    """Trained parameters."""
    sync_bytes: int
    """Bytes of one adapter sent to the engines."""
    learner: dict[str, int]
    """Part -> bytes, of one learner rank."""
    rollout: dict[str, int]
    """Part -> bytes, of one engine; empty for supervised fine-tuning."""

    @property
    def learner_bytes(self) -> int:
        """Bytes of one learner rank, all parts together."""
        return sum(self.learner.values())


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of one weight: 4 bits, an 8-bit scale for every 64 weights, and a float32 for every 256 scales (QLoRA, arXiv:2305.14314, section 3)."""
INT8_BYTES = 1.0


def frozen_base_bytes(config: RunConfig | SftConfig, shape: ModelShape) -> int:
    """Bytes of the frozen base model on a learner rank; quantisation applies to the linear layers except the head."""
    element_bytes = 2 if config.model.dtype == "bfloat16" else 4
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linear_shapes)
    linear_bytes = {"none": element_bytes, "nf4": NF4_BYTES, "int8": INT8_BYTES}[config.model.quantization]
    return int(linear * linear_bytes) + (shape.parameters - linear) * element_bytes


def estimate(config: RunConfig | SftConfig, shape: ModelShape) -> MemoryEstimate:
    """Estimate the memory of one learner rank and one engine, and the bytes of one sync; for supervised fine-tuning, of a rank alone.

    The learner's estimate is for full micro-batches of the longest prompts and completions, at the end of a forward pass: all activations and
    a chunk of logits. It is within 15 % of the memory of a step in float32 on a CPU (tests/learner/test_memory.py); for bfloat16 on GPUs the
    arithmetic is the same, but not yet measured. It leaves out libraries, the CUDA context, the copies of LoRA dropout, the scores that eager
    attention keeps, and the float32 copies of a bfloat16 head on a CPU.
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
        return MemoryEstimate(shape.parameters, adapter, adapter * element_bytes, learner, {})
    kv_per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * element_bytes
    rollout = {
        "weights": shape.parameters * element_bytes,
        f"key-value cache for {config.actors.max_num_seqs} full-length completions": kv_per_token
        * config.max_model_len
        * config.actors.max_num_seqs,
    }
    return MemoryEstimate(shape.parameters, adapter, adapter * element_bytes, learner, rollout)


def _training_state(config: RunConfig | SftConfig, adapter: int, element_bytes: int) -> dict[str, int]:
    """Bytes that DeepSpeed's ZeRO-2 keeps of the trained weights on one rank.

    Every rank holds all weights, their gradients and the buckets of the reduction, and its share of the float32 master weights, their
    gradients and Adam's two moments.
    """
    device = "cuda" if config.learner.gpus_per_rank else "cpu"
    buckets = (2 if device == "cuda" else 1) * min(BUCKET_ELEMENTS[device], adapter)
    return {
        "trained weights and their gradient": 2 * adapter * element_bytes,
        "gradient buckets": buckets * element_bytes,
        "optimizer state (ZeRO-2 share)": 0 if config.learner.offload_optimizer else 16 * adapter // config.learner.ranks,
    }


def _activations(config: RunConfig | SftConfig, shape: ModelShape, element_bytes: int) -> dict[str, int]:
    """Bytes that one micro-batch keeps for its backward pass: activations, attention mask, and the larger of two temporary buffers.

    A layer keeps for each token, in float32: the inputs of its two norms (2 H); and in the model's type: the norms' outputs (2 H), query, key
    and value, repeated to all heads, and the attention's output (4 A), gate, its activation, up and their product (4 I), and 7 r of the adapter.
    With gradient checkpointing every layer keeps only its input, and one layer at a time keeps all of the above and its gradients, about half
    as much again.
    """
    rows, width, predictions = micro_batch(config, shape)
    tokens = rows * width
    inside = element_bytes * (2 * shape.hidden + 4 * shape.heads * shape.head_dim + 4 * shape.intermediate + 7 * config.model.lora.r)
    layer = tokens * (inside + 4 * (2 * shape.hidden + shape.heads + 2))
    device = "cuda" if config.learner.gpus_per_rank else "cpu"
    chunk_bytes = 8 if element_bytes == 4 else 10  # two buffers in float32, and the factors of the product with a bfloat16 head
    chunk = chunk_bytes * min(max(CHUNK_LOGITS[device], shape.vocabulary), predictions * shape.vocabulary)
    flex = config.model.attn_implementation == FLEX_ATTENTION
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


def micro_batch(config: RunConfig | SftConfig, shape: ModelShape) -> BatchShape:
    """Size of the largest micro-batch that the learner packs if all prompts and completions, or demonstrations, have the longest length."""
    learner = config.learner
    if isinstance(config, SftConfig):
        groups = [_longest_group(1, config.data.max_length - 1, 1)] * -(-learner.train_batch_size // learner.ranks)
    else:
        group = _longest_group(config.data.max_prompt_length, config.actors.max_completion_length, config.actors.num_generations)
        groups = [group] * -(-config.groups_per_step // learner.ranks)
    width = attention_width(shape.hidden, config.model.attn_implementation)
    return max(batch_shapes(groups, token_budget=learner.token_budget, attention_width=width), key=lambda batch: batch.rows * batch.width)


def _longest_group(prompt: int, completion: int, generations: int) -> TrainedGroup:
    """A group by its lengths alone; its tokens are views of one 0, which take no memory."""
    prompt_T, completion_T = (np.broadcast_to(np.int32(0), length) for length in (prompt, completion))
    return TrainedGroup(prompt_T, (TrainedCompletion(completion_T, completion_T, 0.0),) * generations)
