"""Sequences longer than the model's positions are refused or told, with the rules of the engine for scaled RoPE."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.fitting.positions import position_warning, positions, require_positions
from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig


def run(prompt: int, completion: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": "models/mine"},
            "data": {"path": "rows.jsonl", "max_prompt_length": prompt},
            "actors": {"max_completion_length": completion, "num_generations": 2},
            "learner": {"train_batch_size": 4, "token_budget": 10**6},
        }
    )


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, None),
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        ({"max_position_embeddings": 4096, "rope_scaling": {"rope_type": "dynamic", "factor": 4}}, 16384),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, 8192),
        ({"max_position_embeddings": 16384, "rope_scaling": YARN}, 16384),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 4096, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2.0}}}, 8192),
        ({"model_type": "gemma3_text", "max_position_embeddings": 4096, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 4096),
        ({"text_config": {"max_position_embeddings": 2048}}, 2048),
        ({"max_position_embeddings": 4096, "model_max_length": 8192}, 8192),
    ],
)
def test_positions_are_counted_as_the_engine_counts_them(settings: dict[str, Any], limit: int | None) -> None:
    assert positions(settings) == limit


def test_prompt_and_completion_must_fit_into_the_positions() -> None:
    require_positions(run(1024, 3072), {"max_position_embeddings": 4096})
    with pytest.raises(ConfigError) as caught:
        require_positions(run(1024, 4096), {"max_position_embeddings": 4096})
    told = str(caught.value)
    assert "1024 + actors.max_completion_length 4096 are 5120 tokens, and model.path models/mine has positions for 4096" in told
    assert "lower one of them by 1024" in told
    require_positions(run(1024, 4096), {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}})
    with pytest.raises(ConfigError, match="whose RoPE is scaled to 16384, which engines take only if max_position_embeddings says so"):
        require_positions(run(1024, 4096), {"max_position_embeddings": 4096, "rope_scaling": YARN})


def test_the_engines_own_permission_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "1")
    require_positions(run(1024, 4096), {"max_position_embeddings": 4096})


def test_long_demonstrations_are_told() -> None:
    config = SftConfig.model_validate(
        {"model": {"path": "m"}, "data": {"path": "rows.jsonl", "max_length": 5000}, "learner": {"token_budget": 8000}}
    )
    require_positions(config, {"max_position_embeddings": 4096})
    told = position_warning(config, {"max_position_embeddings": 4096}) or ""
    assert "data.max_length 5000 is more than the 4096 positions of m" in told and "set data.max_length=4096" in told
    assert position_warning(config, {"max_position_embeddings": 8192}) is None and position_warning(config, {}) is None
