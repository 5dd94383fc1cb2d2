"""End tokens of a model folder, in generation_config.json: engines that serve the folder stop at each of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def add_end_token(folder: Path, token_id: object) -> None:
    """Add an end token to those that the folder has.

    Args:
        folder: a model's folder.
        token_id: a tokenizer's `eos_token_id`; None changes nothing.

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


def copy_tokenizer(model_path: str, folder: Path, revision: str | None = None) -> None:
    """Copy the files of a tokenizer into `folder`, from a model folder, or from a hub model at its revision."""
    source = Path(model_path)
    if not source.is_dir():
        from huggingface_hub import snapshot_download

        source = Path(snapshot_download(model_path, revision=revision, allow_patterns=list(TOKENIZER_FILES)))
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, folder / file.name)
