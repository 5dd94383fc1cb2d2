"""What of a tokenizer does not fit the model or the run: told before anything starts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from actors.chat.templates import end_warning, rendered
from cluster.fitting.positions import position_warning
from configs.contracts.errors import DataError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INSTRUCT = re.compile(r"(?i)(^|[-_./])(instruct|chat|it|sft|rlhf)([-_.]|$)")
_SHOWN_TOKENS = 3


def fit_warnings(
    config: RunConfig | SftConfig, tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, object], generation: Mapping[str, object]
) -> list[str]:
    """Warn of a tokenizer that does not fit the model or the run.

    Args:
        settings: the content of the model's config.json; empty if it is not here.
        generation: that of its generation_config.json.

    Raises:
        DataError: every prompt or answer would have a token that the model has no embedding for.
    """
    warnings = [
        _beyond_embedding(tokenizer, settings, config.model.path),
        _end(tokenizer, {} if config.model.eos_token else generation),
        _no_template(tokenizer, config),
        position_warning(config, settings) if isinstance(config, SftConfig) else None,
    ]
    return [sentence for sentence in warnings if sentence]


def _beyond_embedding(tokenizer: PreTrainedTokenizerBase, settings: Mapping[str, object], path: str) -> str | None:
    """Compare the tokenizer's numbers with the rows of the model's embedding."""
    inner = settings.get("text_config")
    found = {**inner, **settings} if isinstance(inner, Mapping) else settings
    rows = found.get("vocab_size")
    beyond = {number: token for token, number in tokenizer.get_vocab().items() if isinstance(rows, int) and number >= rows}
    if not beyond:
        return None
    told = (
        f"the tokenizer of {path} has {len(beyond):,} tokens beyond the {rows:,} rows of the model's embedding (vocab_size in config.json)"
    )
    written = [beyond[number] for number in dict.fromkeys(_always_written(tokenizer)) if number in beyond]
    if written:
        raise DataError(
            f"{told}, and prompts and answers have them: {_few(written)}; use the tokenizer and the chat template that belong to the model, or save "
            "a model whose embedding was resized (resize_token_embeddings)"
        )
    return f"{told}: {_few(list(beyond.values()))}. A text that holds one ends the run"


def _always_written(tokenizer: PreTrainedTokenizerBase) -> Iterator[int]:
    """Tokens of every prompt or answer: of a short talk, and the end token."""
    text = "What is 1+1?"
    if tokenizer.chat_template:
        try:
            text = rendered(tokenizer, [{"role": "user", "content": text}, {"role": "assistant", "content": "2"}], asks=False)
        except ValueError:
            text = ""
    yield from tokenizer(text, add_special_tokens=not tokenizer.chat_template)["input_ids"]  # type: ignore[misc]
    if tokenizer.eos_token_id is not None:
        yield int(tokenizer.eos_token_id)  # type: ignore[arg-type]


def _end(tokenizer: PreTrainedTokenizerBase, generation: Mapping[str, object]) -> str | None:
    """Compare the end of answers in the chat template with the tokens at which engines stop.

    Args:
        generation: the content of generation_config.json; empty where `model.eos_token` overrules it.
    """
    if not tokenizer.chat_template:
        return None
    named = generation.get("eos_token_id")
    numbers = named if isinstance(named, list) else [named]
    ends = [str(tokenizer.convert_ids_to_tokens(number)) for number in numbers if isinstance(number, int)]
    return end_warning(tokenizer, ends)


def _no_template(tokenizer: PreTrainedTokenizerBase, config: RunConfig | SftConfig) -> str | None:
    path = config.model.path
    if tokenizer.chat_template or not _INSTRUCT.search(path.rstrip("/").rsplit("/", 1)[-1]):
        return None
    return (
        f"the tokenizer of {path} has no chat template, and the model is called one that follows instructions: prompts are given to it as plain "
        "text; set model.chat_template to the template of its family, such as configs/templates/chatml.jinja"
    )


def _few(tokens: list[str]) -> str:
    return ", ".join(map(repr, tokens[:_SHOWN_TOKENS])) + (", ..." if len(tokens) > _SHOWN_TOKENS else "")
