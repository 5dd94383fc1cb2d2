"""Arithmetic of a run before it starts: batch, memory, and bytes of a sync. For `--dry-run` and the model card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from configs.schema import BUILTIN, RunConfig


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder that memory depends on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    tied: bool
    head_dim: int

    @property
    def linear_shapes(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the linear modules of one layer: q, k, v, o, gate, up, down."""
        attention, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, intermediate = self.hidden, self.intermediate
        return (
            (hidden, attention),
            (hidden, kv),
            (hidden, kv),
            (attention, hidden),
            (hidden, intermediate),
            (hidden, intermediate),
            (intermediate, hidden),
        )

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        norms = self.hidden * (2 * self.layers + 1)
        return embeddings + norms + self.layers * sum(inputs * outputs for inputs, outputs in self.linear_shapes)

    def adapter_parameters(self, r: int) -> int:
        """LoRA of rank r on every linear module but the head."""
        return self.layers * sum(r * (inputs + outputs) for inputs, outputs in self.linear_shapes)


KNOWN_SHAPES = {
    "Qwen2.5-0.5B": ModelShape(896, 24, 14, 2, 4864, 151_936, True, 64),
    "Qwen2.5-1.5B": ModelShape(1536, 28, 12, 2, 8960, 151_936, True, 128),
    "Qwen2.5-Math-1.5B": ModelShape(1536, 28, 12, 2, 8960, 151_936, True, 128),
    "DeepSeek-R1-Distill-Qwen-1.5B": ModelShape(1536, 28, 12, 2, 8960, 151_936, False, 128),
    "Qwen2.5-3B": ModelShape(2048, 36, 16, 2, 11_008, 151_936, True, 128),
    "Qwen2.5-7B": ModelShape(3584, 28, 28, 4, 18_944, 152_064, False, 128),
    "DeepSeek-R1-Distill-Qwen-7B": ModelShape(3584, 28, 28, 4, 18_944, 152_064, False, 128),
}
"""Shapes of models that the shipped configurations name, so that a dry run needs no network."""

TINY_SHAPE = ModelShape(128, 3, 4, 2, 384, 128, True, 32)


def model_shape(path: str) -> ModelShape | None:
    """The shape of a local folder, a `builtin:` model, or a well-known hub id; None when it is not known without a download."""
    if path.startswith(BUILTIN):
        return TINY_SHAPE
    config_file = Path(path) / "config.json"
    if config_file.is_file():
        return _shape_of(json.loads(config_file.read_text()))
    name = path.rsplit("/", 1)[-1]
    return KNOWN_SHAPES.get(name) or KNOWN_SHAPES.get(name.removesuffix("-Instruct"))


def _shape_of(config: dict) -> ModelShape | None:
    try:
        heads = config["num_attention_heads"]
        return ModelShape(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads", heads),
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        )
    except KeyError:
        return None


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


LOGPROB_CHUNK_BYTES = 64 << 20
"""About what one chunk of the vocabulary projection takes; the learner never holds the whole logits."""


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight: 4 bits, a block of 64 shares a scale of 8 bits, 256 of those a float32 (QLoRA, arXiv:2305.14314, section 3)."""
INT8_BYTES = 1.0


def frozen_base_bytes(config: RunConfig, shape: ModelShape) -> int:
    """The base as a learner rank holds it: quantised are the linear layers but the head."""
    element_bytes = 2 if config.model.dtype == "bfloat16" else 4
    linear = shape.layers * sum(inputs * outputs for inputs, outputs in shape.linear_shapes)
    linear_bytes = {"none": element_bytes, "nf4": NF4_BYTES, "int8": INT8_BYTES}[config.model.quantization]
    return int(linear * linear_bytes) + (shape.parameters - linear) * element_bytes


def estimate(config: RunConfig, shape: ModelShape) -> Estimate:
    """Memory of one learner rank and one engine, and the bytes of one sync.

    The activations that a layer keeps for its backward pass are counted as tokens x (34 x hidden + 4 x intermediate) / 2 elements:
    inputs of the norms, projections, attention and MLP. With gradient checkpointing only the layer inputs and one layer's set are kept.
    """
    element_bytes = 2 if config.model.dtype == "bfloat16" else 4
    adapter = shape.adapter_parameters(config.model.lora.r)
    tokens = config.learner.token_budget
    one_layer = tokens * (17 * shape.hidden + 4 * shape.intermediate) * element_bytes
    if config.learner.gradient_checkpointing:
        activations = one_layer + shape.layers * tokens * shape.hidden * element_bytes
    else:
        activations = one_layer * shape.layers
    learner = {
        "frozen base": frozen_base_bytes(config, shape),
        "adapter and its gradient (float32)": adapter * 8,
        "optimizer state (ZeRO-2 share)": 0 if config.learner.offload_optimizer else adapter * 12 // config.learner.ranks,
        "activations of one micro-batch": activations,
        "one chunk of logits": LOGPROB_CHUNK_BYTES,
    }
    kv_per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * element_bytes
    rollout = {
        "weights": shape.parameters * element_bytes,
        f"key-value cache for {config.actors.max_num_seqs} full-length completions": kv_per_token
        * config.max_model_len
        * config.actors.max_num_seqs,
    }
    return Estimate(shape.parameters, adapter, adapter * element_bytes, learner, rollout)
