"""Sizes of a model, from which its memory is computed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from configs.schema.model import BUILTIN


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a decoder from which its memory is computed."""

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
        """Count the parameters of LoRA of rank `r` on every linear module except the head."""
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
    """Find the shape of a local folder, a `builtin:` model or a well-known hub id; None if that needs a download."""
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
