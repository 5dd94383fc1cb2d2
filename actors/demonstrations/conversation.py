"""A conversation -> its tokens, and a mask of those that are imitated.

The chat template gives the prompt of the assistant's turn i, as an engine would see it, and the text to imitate:

    prompt_i = template(messages[:i]) with the generation prompt
    full_i   = template(messages[:i + 1]), which must begin with prompt_i; the rest is imitated, up to its end token

If full_i is the beginning of the next turn's text, both turns form one sequence:

    <user> 2+2? <assistant> [4 <end>] <user> 3+3? <assistant> [6 <end>]          [imitated]

A template that drops the reasoning of earlier turns makes a sequence of each turn, with the history that the model sees there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.demonstrations.tool_turns import TOOL_CALLS, TOOL_RESULTS, tool_message
from actors.prompts.rendering import PromptRenderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]
"""A chat message: the texts `role` and `content`, and whatever else the chat template reads, such as tool calls."""

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
SPEAKERS = (*SHAREGPT_ROLES, *TOOL_CALLS, *TOOL_RESULTS)
_SHOWN_CHARACTERS = 40


class NoAnswerError(ValueError):
    """A conversation in which the assistant answers nothing."""


@dataclass(frozen=True, slots=True)
class Imitation:
    """A text, and its imitated parts: (first character, character after the last), ascending."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sequence as the model reads it, and a mask of its imitated tokens: both [T]."""

    token_ids_T: np.ndarray
    trained_T: np.ndarray


def conversation(value: object, system_prompt: str | None = None) -> list[Message]:
    """The messages in a column's value. `from` and `value` become `role` and `content`; other keys stay for the template.

    Raises:
        ValueError: the value is no list of messages.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"holds {_shown(value)}; a conversation is a list of chat messages")
    messages: list[Message] = [_message(part) for part in value]
    if system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def continued(renderer: PromptRenderer, prompt: object, completion: object) -> list[Message]:
    """The messages of a prompt followed by those of its completion. Each is text, or a list of messages.

    Raises:
        ValueError: one is neither, or the completion does not begin with the assistant's answer.
    """
    asked = renderer.messages(prompt)
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else conversation(completion)
    if asked[-1]["role"] == "assistant":
        raise ValueError("ends with a message of the assistant; put it into the completion")
    if answer[0]["role"] != "assistant":
        raise ValueError(f"is followed by a message of {answer[0]['role']!r}; a completion begins with the assistant's")
    return [*asked, *answer]


def imitations(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], first: int = 1, tools: list[Any] | None = None
) -> list[Imitation]:
    """Render every turn of the assistant from message `first` on, in as few texts as the template allows.

    Args:
        tools: what the template offers the model to call.

    Raises:
        ValueError: there is no such turn, or its text does not begin with the template's generation prompt.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant" and index >= max(1, first)]
    if not turns:
        raise NoAnswerError("has no message of the assistant that answers another")
    found: list[Imitation] = []
    for index in turns:
        turn = _turn(tokenizer, messages[: index + 1], tools)
        before = found[-1] if found else None
        if before and turn.text.startswith(before.text) and turn.spans[0][0] >= len(before.text):
            found[-1] = Imitation(turn.text, before.spans + turn.spans)
        else:
            found.append(turn)
    return found


def end_warning(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Warn where the template ends answers with another token than the tokenizer's, as for many base models: engines would not stop there.

    Returns:
        A sentence with the remedy; None if all is well, or if the template refuses such a conversation.
    """
    answer = "Yes."
    try:
        (found,) = imitations(tokenizer, [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": answer}])
    except ValueError:
        return None
    ending = found.text[slice(*found.spans[0])].rpartition(answer)[2].strip()
    if not ending or ending.startswith(str(tokenizer.eos_token)):
        return None
    is_token = tokenizer.tokenize(ending) == [ending]
    remedy = f"set model.eos_token={ending!r}" if is_token else "set model.chat_template to one that ends so"
    return (
        f"the chat template makes answers end with {ending!r}, and the end token is {tokenizer.eos_token!r}: the model will not learn to stop; "
        f"{remedy}, here and in every later command"
    )


def _turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: list[Any] | None) -> Imitation:
    """Render the last message after its prompt, and imitate it."""
    prompt, full = _rendered(tokenizer, messages[:-1], True, tools), _rendered(tokenizer, messages, False, tools)
    if not full.startswith(prompt):
        raise ValueError(
            f"is not rendered after the generation prompt: that ends in {prompt[-_SHOWN_CHARACTERS:]!r}, and the conversation with the "
            f"assistant's answer in {full[-_SHOWN_CHARACTERS:]!r}; set model.chat_template to one that keeps the assistant's text unchanged"
        )
    end_token, content = str(tokenizer.eos_token or ""), messages[-1].get("content")
    if isinstance(content, str) and content and full.endswith(content):
        return Imitation(full + end_token, ((len(prompt), len(full) + len(end_token)),))
    # Text after the end token, mostly a line feed, is never generated, so it is not imitated.
    end = len(full.rstrip()) if end_token and full.rstrip().endswith(end_token) else len(full)
    return Imitation(full, ((len(prompt), end),))


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation_prompt: bool, tools: list[Any] | None) -> str:
    from jinja2 import TemplateError

    try:
        plain = [dict(m) for m in messages]
        return str(tokenizer.apply_chat_template(plain, tools=tools, tokenize=False, add_generation_prompt=generation_prompt))
    except TemplateError as error:
        raise ValueError(f"is refused by the chat template: {error}; correct the row or model.chat_template") from None


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Imitation]) -> list[Sample]:
    """Tokenise rendered conversations, which hold their own BOS. If a token would be partly imitated, the text is cut there first: an engine
    tokenises its prompt apart from the completion, too."""
    whole = _encoded(tokenizer, [each.text for each in texts]) if texts and tokenizer.is_fast else [None] * len(texts)
    return [_sample(tokenizer, text, found) for text, found in zip(texts, whole, strict=True)]


Encoded = tuple[np.ndarray, np.ndarray]
"""Token ids [T], and the first character of each and the one after its last: [T, 2]."""


def _sample(tokenizer: PreTrainedTokenizerBase, imitation: Imitation, whole: Encoded | None) -> Sample:
    borders = sorted({border for span in imitation.spans for border in span} - {0, len(imitation.text)})
    cuts = borders if whole is None else [border for border in borders if not _is_clean(whole[1], border)]
    token_ids_T, offsets_T2 = _encoded_apart(tokenizer, imitation.text, cuts) if cuts or whole is None else whole
    firsts_T = offsets_T2[:, 0]
    trained_T = np.zeros(len(token_ids_T), bool)
    for start, end in imitation.spans:
        trained_T |= (firsts_T >= start) & (firsts_T < end)
    return Sample(token_ids_T, trained_T)


def _is_clean(offsets_T2: np.ndarray, border: int) -> bool:
    """Look whether a token ends at the border and none spans it.

    Some tokenizers do not count a token's leading space among its characters: then no token ends at a border before a space.
    """
    first, last = offsets_T2.T
    return bool(((last == border) & (first < border)).any() and not ((first < border) & (border < last)).any())


def _encoded_apart(tokenizer: PreTrainedTokenizerBase, text: str, cuts: Sequence[int]) -> Encoded:
    """Tokenise each piece between the cuts by itself. A slow tokenizer gives no offsets: its tokens get the start of their piece."""
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    if tokenizer.is_fast:
        encoded = _encoded(tokenizer, pieces)
    else:
        ids = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
        encoded = [(np.asarray(each, np.int32), np.zeros((len(each), 2), np.int64)) for each in ids]
    shifted = [offsets_T2 + start for start, (_, offsets_T2) in zip(edges, encoded, strict=False)]
    return np.concatenate([token_ids_T for token_ids_T, _ in encoded]), np.concatenate(shifted)


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoded]:
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (np.asarray(ids, np.int32), np.asarray(offsets, np.int64).reshape(-1, 2))
        for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]


def _message(part: object) -> Message:
    kept: dict[str, object] = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
    if "from" in kept and "value" in kept:
        speaker, content = str(kept.pop("from")), kept.pop("value")
        kept |= tool_message(speaker, content) or {"role": SHAREGPT_ROLES.get(speaker), "content": content}
    if not isinstance(kept.get("role"), str) or not isinstance(kept.get("content", ""), str) or len(kept) < 2:
        raise ValueError(
            f"holds the message {_shown(part)}; a message has the texts `role` and `content`, or `from` ({', '.join(SPEAKERS)}) and `value`"
        )
    return kept


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 2 * _SHOWN_CHARACTERS else f"{text[: 2 * _SHOWN_CHARACTERS]}..."
