"""`builtin:tiny_qwen2`: a Qwen2-architecture model with a character tokenizer, small enough to train on one CPU core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

VOCABULARY_SIZE = 128
MAX_POSITIONS = 4096

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""One token each, and not special: they must stay in a text that is decoded with special tokens skipped."""

PAD, TURN_START, TURN_END = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@dataclass(frozen=True)
class TinyShape:
    """Sizes of the model. The default has 0.6 M parameters; `TinyShape(256, 4, 8, 4, 768)` has 3 M (for benchmarks)."""

    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    """Attention heads; `hidden_size / heads` should be 32 or more: vLLM's CPU attention has kernels for those."""
    key_value_heads: int = 2
    intermediate_size: int = 384


def create_tiny_model(folder: Path, seed: int, shape: TinyShape = TinyShape()) -> Path:
    """Write a randomly initialised model and its tokenizer into `folder`, and return the folder.

    The folder holds what transformers and vLLM load: config, safetensors in float32, tokenizer with chat template, and a
    generation config whose end token is the end of a turn. The same seed gives the same weights; torch's own random state
    is left as it was.

    Raises:
        OSError: the folder cannot be written.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    tokenizer = build_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        # The usual 0.02 starves so narrow a model of signal: it needs several times the steps to learn.
        initializer_range=0.05,
        dtype="float32",
        **ends,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer of 128 entries: specials, tags, LF, the printable ASCII characters, and unused entries up to 128.

    Other characters are dropped from a text: there are not enough entries for every byte.
    """
    from transformers import AddedToken, Qwen2Tokenizer

    # transformers loads any Qwen2 model's tokenizer with the byte-level rules of this class, whatever was saved. They write
    # LF and the space as these two letters; without merges, every character is a token.
    characters = ["\u010a", "\u0120", *map(chr, range(0x21, 0x7F))]
    entries = [*SPECIALS, *TAGS, *characters]
    entries += [f"<|unused_{index}|>" for index in range(VOCABULARY_SIZE - len(entries))]
    tokenizer = Qwen2Tokenizer(
        vocab={entry: index for index, entry in enumerate(entries)},
        merges=[],
        unk_token=PAD,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(TURN_START, special=True, normalized=False)], special_tokens=True)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return tokenizer
