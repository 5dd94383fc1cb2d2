"""Compare the tokenizers and chat templates of several models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PROBE = "The answer is 3,141.59 – naïve, 机器学习?\n\n  def f(x):\n\treturn x\n"
"""A text that tokenizers with the same entries may still split differently."""


NAMED_DIFFERENCES = 3


def chat_template_of(config: RunConfig, folders: Sequence[Path]) -> str | None:
    """Choose one chat template for all: the run's own, or else the one that is saved with adapters or models.

    Raises:
        ConfigError: they are saved with different ones, and none is given.
    """
    if config.model.chat_template is not None:
        return config.model.chat_template
    found = {text: folder for folder in folders if (text := _saved_template(folder)) is not None}
    if len(found) > 1:
        first, second, *_ = found.values()
        raise ConfigError(
            f"{first} and {second} are saved with different chat templates, and all must be asked the same: give one as model.chat_template=FILE"
        )
    return next(iter(found), None)


def _saved_template(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    template = json.loads(settings.read_text()).get("chat_template") if settings.exists() else None
    return template if isinstance(template, str) else None


def has_tokenizer(folder: Path) -> bool:
    """Return True when a tokenizer is saved in the folder."""
    return (folder / "tokenizer.json").exists() or (folder / "tokenizer_config.json").exists()


def refuse_other_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, reference_name: str, reference: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that makes other tokens than the reference: the models could not be given the same prompt.

    Raises:
        ConfigError: with what differs.
    """
    found = list(_differences(name, tokenizer, reference_name, reference))
    if found:
        raise ConfigError(
            f"{name} has another tokenizer than {reference_name}: {'; '.join(found)}. Models are compared on the same tokens; compare those that "
            "share a tokenizer"
        )


def _differences(name: str, tokenizer: PreTrainedTokenizerBase, reference_name: str, reference: PreTrainedTokenizerBase) -> Iterator[str]:
    own, other = tokenizer.get_vocab(), reference.get_vocab()
    for has, lacks, only in ((name, reference_name, own.keys() - other.keys()), (reference_name, name, other.keys() - own.keys())):
        if only:
            yield f"{len(only)} entries are in {has} and not in {lacks} ({_few(only)})"
    moved = [entry for entry in own.keys() & other.keys() if own[entry] != other[entry]]
    if moved:
        entry = min(moved)
        yield f"{len(moved)} entries have other numbers ({entry!r} is {own[entry]} in {name} and {other[entry]} in {reference_name})"
    if tokenizer.eos_token_id != reference.eos_token_id:
        yield (
            f"the end token is {tokenizer.eos_token!r} in {name} and {reference.eos_token!r} in {reference_name} "
            "(model.eos_token=TOKEN sets one for all)"
        )
    if not moved and tokenizer(PROBE)["input_ids"] != reference(PROBE)["input_ids"]:
        yield "they split the same text differently"


def _few(entries: Iterable[str]) -> str:
    ordered = sorted(entries)
    return ", ".join(map(repr, ordered[:NAMED_DIFFERENCES])) + (", …" if len(ordered) > NAMED_DIFFERENCES else "")
