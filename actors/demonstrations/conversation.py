"""A conversation -> its tokens, and a mask of those that are imitated.

The chat template gives the prompt of the assistant's turn i, as an engine would see it, and the text to imitate:

    prompt_i = template(messages[:i]) with the generation prompt
    full_i   = template(messages[:i + 1]), which must begin with prompt_i; the rest is imitated, up to its end token

If full_i is the beginning of the next turn's text, both turns form one sequence:

    <user> 2+2? <assistant> [4 <end>] <user> 3+3? <assistant> [6 <end>]          [imitated]

A template that drops the reasoning of earlier turns makes a sequence of each turn, with the history that the model sees there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from actors.chat.messages import Message, is_listed, messages_of
from actors.chat.templates import REASONING, TemplateCheck, rendered
from actors.chat.tool_calls import Tool
from actors.prompts.asking import Asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN_CHARACTERS = 40
_NOT_TRAINED = {"weight": 0, "loss": False, "train": False}
"""Keys of a message of the assistant -> the value for which it is not imitated, in the files of OpenAI, ms-swift and Axolotl."""


class NoAnswerError(ValueError):
    """A conversation in which the assistant answers nothing."""


class NotRenderedError(ValueError):
    """The chat template leaves out a part of the conversation, so that the model would answer what it never saw."""


@dataclass(frozen=True, slots=True)
class Imitation:
    """A text, and its imitated parts: (first character, character after the last), ascending."""

    text: str
    spans: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()
    """Part of the answers that is not trained, as a clause about rows."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A sequence as the model reads it, and a mask of its imitated tokens: both [T]."""

    token_ids_T: np.ndarray
    trained_T: np.ndarray


def continued(asked: Asked, completion: object, reasoning: object = None) -> list[Message]:
    """The messages of a prompt followed by those of its completion, which is text or a list of messages.

    Args:
        reasoning: what the assistant thought before a completion that is text.

    Raises:
        ValueError: the completion is neither, or does not begin with the assistant's answer.
    """
    if isinstance(completion, str) and not is_listed(completion):
        answer: list[Message] = [{"role": "assistant", "content": completion}]
        if isinstance(reasoning, str) and reasoning.strip():
            answer[0][REASONING[0]] = reasoning
    else:
        answer = messages_of(completion)
    if asked.messages[-1]["role"] == "assistant":
        raise ValueError("ends with a message of the assistant; put it into the completion")
    if answer[0]["role"] != "assistant":
        raise ValueError(f"is followed by a message of {answer[0]['role']!r}; a completion begins with the assistant's")
    return [*asked.messages, *answer]


def imitations(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    first: int = 1,
    tools: list[Tool] | None = None,
    check: TemplateCheck | None = None,
) -> list[Imitation]:
    """Render every turn of the assistant from message `first` on, in as few texts as the template allows.

    Args:
        tools: what the template offers the model to call.
        check: looks for parts that the template leaves out.

    Raises:
        ValueError: there is no such turn, its text does not begin with the template's generation prompt, or a part of it is left out.
    """
    check = check or TemplateCheck(tokenizer)
    turns = [index for index, message in enumerate(messages) if index >= max(1, first) and _is_imitated(message)]
    if not turns:
        raise NoAnswerError("has no message of the assistant that answers another")
    found: list[Imitation] = []
    for index in turns:
        turn = _turn(tokenizer, messages[: index + 1], tools, check)
        before = found[-1] if found else None
        if before and turn.text.startswith(before.text) and turn.spans[0][0] >= len(before.text):
            found[-1] = Imitation(turn.text, before.spans + turn.spans, before.notes + turn.notes)
        else:
            found.append(turn)
    return found


def _is_imitated(message: Message) -> bool:
    """Look whether this is a message of the assistant that its row does not take out of the loss.

    Raises:
        ValueError: its weight is neither 0 nor 1.
    """
    if message["role"] != "assistant":
        return False
    if message.get("weight", 1) not in (0, 1):
        raise ValueError(f"has a message of the weight {message['weight']!r}; a weight is 0 or 1")
    return not any(key in message and message[key] == value for key, value in _NOT_TRAINED.items())


def _turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: list[Tool] | None, check: TemplateCheck) -> Imitation:
    """Render the last message after its prompt, and imitate it."""
    prompt, full = rendered(tokenizer, messages[:-1], tools, asks=True), rendered(tokenizer, messages, tools, asks=False)
    if missing := check.left_out(messages, tools, full, asks=False):
        raise NotRenderedError(
            f"has {' and '.join(missing)}, which the chat template does not render; set model.chat_template to one that does"
        )
    if not full.startswith(prompt):
        raise ValueError(
            f"is not rendered after the generation prompt: that ends in {prompt[-_SHOWN_CHARACTERS:]!r}, and the conversation with the "
            f"assistant's answer in {full[-_SHOWN_CHARACTERS:]!r}; set model.chat_template to one that keeps the assistant's text unchanged"
        )
    unread = check.reasoning_left_out(messages, tools, full)
    notes = (f"have {unread}, which the chat template does not render: it is not trained",) if unread else ()
    end_token, content = str(tokenizer.eos_token or ""), messages[-1]["content"]
    if content and full.endswith(content):
        return Imitation(full + end_token, ((len(prompt), len(full) + len(end_token)),), notes)
    # Text after the end token, mostly a line feed, is never generated, so it is not imitated.
    end = len(full.rstrip()) if end_token and full.rstrip().endswith(end_token) else len(full)
    if end_token and "tool_calls" in messages[-1] and not full[:end].endswith(end_token):
        notes += (
            f"end calls with {tokenizer.tokenize(full[-_SHOWN_CHARACTERS:].rstrip())[-1]!r}, as the chat template writes them, and not with the end "
            f"token {end_token!r}: engines stop there only if generation_config.json names it",
        )
    return Imitation(full, ((len(prompt), end),), notes)


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
