"""Refuse a model that the learner cannot train, by its config.json alone: before W&B, Ray or an engine, and without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.fitting.positions import require_positions
from cluster.fitting.tokenizer import fit_warnings
from configs.contracts.errors import ConfigError
from configs.schema.model import BUILTIN
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from learner.model.layer_kinds import untrainable_layers
from learner.model.tiny_model import MAX_POSITIONS, VOCABULARY_SIZE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HUB_TIMEOUT_S = 10.0
"""For one small file. Where the hub does not answer, the engines and the learner say what is wrong with the model."""


def require_trainable(config: RunConfig | SftConfig) -> None:
    """Refuse a model whose weights are quantised where it is published, whose layers packed rows cannot train, or with too few positions.

    Raises:
        ConfigError: its config.json says so. A model whose config.json cannot be read is not refused here.
    """
    model = config.model
    settings = model_settings(model.path, model.revision)
    quantised = settings.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method", "quantization_config") if isinstance(quantised, Mapping) else "quantization_config"
        raise ConfigError(
            f"model.path {model.path} is quantised already ({method} in its config.json), and a run quantises plain weights itself, so that "
            "engines and learner can agree; give the original model, and for QLoRA set model.quantization to nf4"
        )
    require_positions(config, settings)
    fault = untrainable_layers(settings, config.data.max_length if isinstance(config, SftConfig) else config.max_model_len)
    if fault is not None:
        raise ConfigError(f"model.path {model.path} {fault}")


def model_settings(path: str, revision: str | None = None) -> Mapping[str, object]:
    """The content of a model's config.json: of a folder, of the hub's cache, or of the hub. Empty if it cannot be read."""
    from httpx2 import HTTPError
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    found = settings_here(path, "config.json", revision)
    if found or path.startswith(BUILTIN) or Path(path).expanduser().is_dir():
        return found
    try:  # one request: the hub's own download tries for half a minute where there is no network
        url = hf_hub_url(path, "config.json", revision=revision)
        text = get_session().get(url, headers=build_hf_headers(), timeout=HUB_TIMEOUT_S, follow_redirects=True).raise_for_status().text
        settings = json.loads(text)
    except (OSError, ValueError, HTTPError):
        return {}
    return settings if isinstance(settings, dict) else {}


def settings_here(path: str, name: str, revision: str | None = None) -> Mapping[str, object]:
    """The content of a JSON file of a model, in its folder or the hub's cache. Empty if it is not on this machine, or cannot be read."""
    if path.startswith(BUILTIN):
        return {"max_position_embeddings": MAX_POSITIONS, "vocab_size": VOCABULARY_SIZE} if name == "config.json" else {}
    from huggingface_hub import try_to_load_from_cache

    folder = Path(path).expanduser()
    try:
        file = folder / name if folder.is_dir() else try_to_load_from_cache(path, name, revision=revision)
        settings = json.loads(Path(file).read_text(encoding="utf-8")) if isinstance(file, str | Path) else {}
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def warnings_of_fit(config: RunConfig | SftConfig, tokenizer: PreTrainedTokenizerBase, path: str) -> list[str]:
    """Warn of a tokenizer that does not fit the model or the run, by the files of the model that are on this machine.

    Args:
        path: the model that is loaded: `model.path`, or what a run made of it.

    Raises:
        DataError: every prompt or answer would have a token that the model has no embedding for.
    """
    settings, generation = (settings_here(path, name, config.model.revision) for name in ("config.json", "generation_config.json"))
    return fit_warnings(config, tokenizer, settings, generation)
