"""The end tokens that a model folder names in generation_config.json: engines that serve the folder stop at each of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def add_end_token(folder: Path, token_id: Any) -> None:
    """Name another end token, beside those that are named.

    Args:
        folder: of a model.
        token_id: a tokenizer's `eos_token_id`; None, of one that has none, changes nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    file = folder / "generation_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    named = settings.get("eos_token_id")
    named = named if isinstance(named, list) else [] if named is None else [named]
    if token_id is None or token_id in named:
        return
    settings["eos_token_id"] = [*named, token_id] if named else token_id
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "chat_template*", "*.model")


def copy_tokenizer(model_path: str, folder: Path) -> None:
    """Copy what a tokenizer is loaded from, out of a model folder or a hub id."""
    source = Path(model_path)
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        source = Path(snapshot_download(model_path, allow_patterns=list(TOKENIZER_FILES)))
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
