"""Layers that packed rows cannot train, by config.json: every family that transformers knows, and what published models write."""

from __future__ import annotations

import logging

import pytest

from learner.model.layer_kinds import FULL, untrainable_layers

PUBLISHED = {
    "phi3-mini-4k": {"model_type": "phi3", "sliding_window": 2047},
    "phi3-mini-128k": {"model_type": "phi3", "sliding_window": 262144},
    "mistral-0.1": {"model_type": "mistral", "sliding_window": 4096},
    "mistral-0.3": {"model_type": "mistral", "sliding_window": None},
    "mistral-silent": {"model_type": "mistral"},
    "starcoder2": {"model_type": "starcoder2", "sliding_window": 4096},
    "qwen2.5": {
        "model_type": "qwen2",
        "sliding_window": 512,
        "use_sliding_window": False,
        "max_window_layers": 28,
        "num_hidden_layers": 28,
    },
    "qwen2-old": {"model_type": "qwen2", "sliding_window": 512},
    "qwen2-sliding": {
        "model_type": "qwen2",
        "sliding_window": 512,
        "use_sliding_window": True,
        "max_window_layers": 2,
        "num_hidden_layers": 4,
    },
    "gemma-3-1b": {"model_type": "gemma3_text", "sliding_window": 512, "sliding_window_pattern": 6},
    "gemma-3-4b": {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "sliding_window": 1024}},
    "exaone-4-1.2b": {"model_type": "exaone4", "sliding_window": None},
    "gpt-oss": {"model_type": "gpt_oss", "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen3": {"model_type": "qwen3", "sliding_window": None, "layer_types": ["full_attention"] * 2},
}


@pytest.mark.parametrize(
    ("name", "longest", "told"),
    [
        ("phi3-mini-4k", 2047, None),
        ("phi3-mini-4k", 2048, "sees only the last 2047 tokens"),
        ("phi3-mini-128k", 8192, None),
        ("mistral-0.1", 4097, "sees only the last 4096 tokens"),
        ("mistral-0.3", 99999, None),
        ("mistral-silent", 4097, "sees only the last 4096 tokens"),
        ("starcoder2", 4097, "keep sequences within 4096 tokens"),
        ("qwen2.5", 4096, None),
        ("qwen2-old", 4096, None),
        ("qwen2-sliding", 4096, "sliding_attention"),
        ("gemma-3-1b", 64, "sliding_attention"),
        ("gemma-3-4b", 64, "sliding_attention"),
        ("exaone-4-1.2b", 99999, None),
        ("gpt-oss", 64, "sliding_attention"),
        ("qwen3", 99999, None),
    ],
)
def test_published_models(name: str, longest: int, told: str | None) -> None:
    fault = untrainable_layers(PUBLISHED[name], longest)
    assert fault is None if told is None else fault is not None and told in fault


def test_every_family_of_transformers_is_judged_as_its_own_class_fills_in_what_config_json_leaves_out() -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    logging.getLogger("transformers").setLevel(logging.ERROR)
    longest, judged = 1_000_000, 0
    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if family.startswith("musicgen"):  # has no default configuration
            continue
        whole = CONFIG_MAPPING[family]().get_text_config().to_dict()
        kinds = set(whole.get("layer_types") or [FULL])
        windowed = whole.get("sliding_window") is not None and "layer_types" not in whole and whole.get("use_sliding_window", True)
        if kinds != {FULL} or windowed:
            judged += 1
            assert untrainable_layers({"model_type": family}, longest) is not None, f"{family} has {kinds}, {whole.get('sliding_window')}"
    assert judged > 30
