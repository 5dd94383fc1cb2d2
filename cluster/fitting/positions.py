"""The positions that a model has, by its config.json: an engine refuses longer sequences, and a learner would train on what no one tried."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

SCALED_ALREADY = ("default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling", "mrope")
"""Kinds of RoPE with which `max_position_embeddings` is the length after scaling, as vLLM and transformers have it."""


def positions(settings: Mapping[str, object]) -> int | None:
    """Largest number of tokens in a sequence; None if config.json does not say it. Of the other kinds of RoPE the factor counts."""
    inner = settings.get("text_config")
    found = {**inner, **settings} if isinstance(inner, Mapping) else settings
    limit = found.get("max_position_embeddings")
    if not isinstance(limit, int) or limit < 1:
        return None
    factor = 1.0
    for rope in _ropes(found):
        given = rope.get("factor")
        if (
            isinstance(given, (int, float))
            and "gemma3" not in str(found.get("model_type"))
            and (rope.get("rope_type") or rope.get("type")) not in SCALED_ALREADY
        ):
            factor = float(given)
    longer = found.get("model_max_length")
    return max(int(limit * factor), longer if isinstance(longer, int) else 0)


def require_positions(config: RunConfig | SftConfig, settings: Mapping[str, object]) -> None:
    """Refuse sequences for which the engine has no positions. A fine-tuning has no engine: `position_warning` says it.

    Raises:
        ConfigError: prompt and completion together may be longer.
    """
    limit = positions(settings)
    if (
        isinstance(config, SftConfig)
        or limit is None
        or config.max_model_len <= limit
        or os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1"
    ):
        return
    raise ConfigError(
        f"data.max_prompt_length {config.data.max_prompt_length} + actors.max_completion_length {config.actors.max_completion_length} are "
        f"{config.max_model_len} tokens, and model.path {config.model.path} has positions for {limit} (max_position_embeddings in its "
        f"config.json{_unscaled(settings)}); lower one of them by {config.max_model_len - limit}, or raise the model's in a copy of it"
    )


def position_warning(config: SftConfig, settings: Mapping[str, object]) -> str | None:
    """Warn of demonstrations that may be longer than the model's positions."""
    limit = positions(settings)
    if limit is None or config.data.max_length <= limit:
        return None
    return (
        f"data.max_length {config.data.max_length} is more than the {limit} positions of {config.model.path} (max_position_embeddings in its "
        f"config.json{_unscaled(settings)}): longer demonstrations train positions that the model does not know, and engines refuse them; "
        f"set data.max_length={limit}"
    )


def _unscaled(settings: Mapping[str, object]) -> str:
    """Say it where the model's RoPE is scaled to more positions than its config.json names."""
    limit = settings.get("max_position_embeddings")
    for rope in _ropes(settings):
        factor, original = rope.get("factor"), rope.get("original_max_position_embeddings", limit)
        if isinstance(factor, (int, float)) and isinstance(original, int) and isinstance(limit, int) and original * factor > limit:
            return f", whose RoPE is scaled to {int(original * factor)}, which engines take only if max_position_embeddings says so"
    return ""


def _ropes(settings: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """The parameters of RoPE, which some models have for each kind of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        given = settings.get(name)
        if isinstance(given, Mapping):
            parts = [part for part in given.values() if isinstance(part, Mapping)]
            yield from parts or [given]
