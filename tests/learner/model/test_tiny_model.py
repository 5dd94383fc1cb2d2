"""The tiny model is what transformers and vLLM expect of a Qwen2 folder, and its tokenizer keeps what the rewards look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from learner.model.tiny_model import TAGS, TinyShape, build_tokenizer, create_tiny_model

DIALOGUE = "<|im_start|>user\nWhat is  17+25?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_tiny_model(tmp_path_factory.mktemp("tiny"), seed=0)


def test_the_folder_loads_as_a_small_qwen2_with_an_end_token(folder: Path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert (config["vocab_size"], config["tie_word_embeddings"], config["hidden_size"] // config["num_attention_heads"]) == (128, True, 32)
    assert model.num_parameters() == 607_872
    assert model.generation_config.eos_token_id == build_tokenizer().eos_token_id
    # The standard error of a spread over 16,384 values is 0.55 % of it; 3 % is five of them.
    assert model.state_dict()["model.embed_tokens.weight"].std().item() == pytest.approx(0.05, rel=0.03)


def test_the_tokenizer_is_the_same_after_loading(folder: Path):
    """AutoTokenizer re-makes Qwen2 tokenizers by rules of its own; one that it changes loses its line ends and spaces."""
    from transformers import AutoTokenizer

    loaded, built = AutoTokenizer.from_pretrained(folder), build_tokenizer()
    text = f"{DIALOGUE}<think>\n7+5=12\n</think>\n<answer>\n42\n</answer>"
    token_ids = built(text)["input_ids"]
    assert loaded(text)["input_ids"] == token_ids
    assert loaded.decode(token_ids) == text
    assert (
        loaded.apply_chat_template([{"role": "user", "content": "What is  17+25?"}], tokenize=False, add_generation_prompt=True) == DIALOGUE
    )
    assert len(loaded) == 128


def test_characters_and_tags_are_single_tokens_and_tags_stay_when_specials_are_skipped():
    tokenizer = build_tokenizer()
    assert len(tokenizer("".join(TAGS))["input_ids"]) == len(TAGS)
    assert len(tokenizer("17+25?\n\n  x")["input_ids"]) == 11
    decoded = tokenizer.decode(tokenizer("<|im_start|><think>\n7</think><|im_end|><|endoftext|>")["input_ids"], skip_special_tokens=True)
    assert decoded == "<think>\n7</think>"


def test_the_seed_decides_the_weights_and_the_global_random_state_is_left_alone(folder: Path, tmp_path: Path):
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    same = create_tiny_model(tmp_path / "same", seed=0)
    assert torch.equal(torch.rand(3), expected)
    other = create_tiny_model(tmp_path / "other", seed=1)
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, same, other)]
    assert weights[0] == weights[1] != weights[2]


def test_other_shapes_can_be_asked_for(tmp_path: Path):
    create_tiny_model(tmp_path, seed=0, shape=TinyShape(hidden_size=64, layers=2, heads=2, key_value_heads=1, intermediate_size=128))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"], config["num_key_value_heads"], config["intermediate_size"]) == (
        64,
        2,
        1,
        128,
    )
