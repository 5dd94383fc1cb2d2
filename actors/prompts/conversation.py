"""A conversation -> its tokens, and which of them are imitated.

What an engine would be given for the assistant's turn i, and what it should go on with, both come from the chat template:

    prompt_i = template(messages[:i]) with the generation prompt
    full_i   = template(messages[:i + 1]), which must begin with prompt_i; the rest is imitated, up to its end token

Where full_i is the beginning of the next turn's, both are one sequence. Templates that drop the reasoning of earlier turns make a sequence of each
turn, with the history that the model sees at that turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.prompts.rendering import PromptRenderer
from actors.rows.files import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, Any]

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, slots=True)
class Imitation:
    """A text, and the parts of it that are imitated: (first character, character after the last), ascending."""

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A sequence as the model reads it, and which of its tokens are imitated: both [T]."""

    token_ids_T: np.ndarray
    trained_T: np.ndarray


def conversation(value: Any, system_prompt: str | None = None) -> list[Message]:
    """The messages of a column's value; `from` and `value` become `role` and `content`, and other keys stay for the template.

    Raises:
        ValueError: it is no list of messages.
    """
    if not isinstance(value, list) or not value:
        raise ValueError(f"holds {_shown(value)}; a conversation is a list of chat messages")
    messages: list[Message] = [_message(part) for part in value]
    if system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def continued(renderer: PromptRenderer, prompt: Any, completion: Any) -> list[Message]:
    """The messages of a prompt and of what follows it, each a text or messages.

    Raises:
        ValueError: they are neither, or the completion is not the assistant's answer.
    """
    asked = renderer.messages(prompt)
    answer = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else conversation(completion)
    if asked[-1]["role"] == "assistant":
        raise ValueError("ends with a message of the assistant; put it into the completion")
    if answer[0]["role"] != "assistant":
        raise ValueError(f"is followed by a message of {answer[0]['role']!r}; a completion begins with the assistant's")
    return [*asked, *answer]


def imitations(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], first: int = 1) -> list[Imitation]:
    """Every turn of the assistant from message `first` on, as few texts as the template allows.

    Raises:
        ValueError: there is no such turn, or the template does not render one behind its own generation prompt.
    """
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant" and index >= max(1, first)]
    if not turns:
        raise ValueError("has no message of the assistant that answers another")
    found: list[Imitation] = []
    for index in turns:
        turn = _turn(tokenizer, messages[: index + 1])
        before = found[-1] if found else None
        if before and turn.text.startswith(before.text) and turn.spans[0][0] >= len(before.text):
            found[-1] = Imitation(turn.text, before.spans + turn.spans)
        else:
            found.append(turn)
    return found


def _turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> Imitation:
    """The last message, behind the prompt for it."""
    prompt, full = _rendered(tokenizer, messages[:-1], True), _rendered(tokenizer, messages, False)
    if not full.startswith(prompt):
        raise ValueError(
            f"is not rendered behind the generation prompt: that ends in {prompt[-_SHOWN_CHARACTERS:]!r}, and the conversation with the "
            f"assistant's answer in {full[-_SHOWN_CHARACTERS:]!r}; set model.chat_template to one that keeps what the assistant says whole"
        )
    end_token, content = str(tokenizer.eos_token or ""), messages[-1]["content"]
    if isinstance(content, str) and full.endswith(content):
        return Imitation(full + end_token, ((len(prompt), len(full) + len(end_token)),))
    # What the template writes behind the end token, a line feed mostly, is never generated.
    end = len(full.rstrip()) if end_token and full.rstrip().endswith(end_token) else len(full)
    return Imitation(full, ((len(prompt), end),))


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, add_generation_prompt=generation_prompt))
    except TemplateError as error:
        raise ValueError(f"is refused by the chat template: {error}; correct the row or model.chat_template") from None


def tokenise(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Imitation]) -> list[Sample]:
    """Tokens of rendered conversations, which hold their own BOS. No token is partly imitated: such a text is cut where the imitation begins
    or ends, as an engine's prompt is."""
    whole = _encoded(tokenizer, [each.text for each in texts]) if tokenizer.is_fast else [None] * len(texts)
    return [_sample(tokenizer, text, found) for text, found in zip(texts, whole, strict=True)]


Encoded = tuple[np.ndarray, np.ndarray]
"""Token ids [T], and the characters that each stands for, the end excluded: [T, 2]."""


def _sample(tokenizer: PreTrainedTokenizerBase, imitation: Imitation, whole: Encoded | None) -> Sample:
    borders = sorted({border for span in imitation.spans for border in span} - {0, len(imitation.text)})
    cuts = borders if whole is None else [border for border in borders if not _is_clean(whole[1], border)]
    token_ids_T, places_T2 = _encoded_apart(tokenizer, imitation.text, cuts) if cuts or whole is None else whole
    firsts_T = places_T2[:, 0]
    trained_T = np.zeros(len(token_ids_T), bool)
    for start, end in imitation.spans:
        trained_T |= (firsts_T >= start) & (firsts_T < end)
    return Sample(token_ids_T, trained_T)


def _is_clean(places_T2: np.ndarray, border: int) -> bool:
    """Whether a token ends here and none spans it. Some tokenizers leave a token's leading space out of its place: there none ends."""
    first, last = places_T2.T
    return bool(((last == border) & (first < border)).any() and not ((first < border) & (border < last)).any())


def _encoded_apart(tokenizer: PreTrainedTokenizerBase, text: str, cuts: Sequence[int]) -> Encoded:
    """The pieces between the cuts, each tokenised by itself. A slow tokenizer does not tell places: its tokens stand where their piece begins."""
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in pairwise(edges)]
    if tokenizer.is_fast:
        encoded = _encoded(tokenizer, pieces)
    else:
        ids: Any = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
        encoded = [(np.asarray(each, np.int32), np.zeros((len(each), 2), np.int64)) for each in ids]
    shifted = [places_T2 + start for start, (_, places_T2) in zip(edges, encoded, strict=False)]
    return np.concatenate([token_ids_T for token_ids_T, _ in encoded]), np.concatenate(shifted)


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Encoded]:
    found: Any = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [
        (np.asarray(ids, np.int32), np.asarray(places, np.int64).reshape(-1, 2))
        for ids, places in zip(found["input_ids"], found["offset_mapping"], strict=True)
    ]


def _message(part: Any) -> Row:
    kept = {key: value for key, value in part.items() if value is not None} if isinstance(part, dict) else {}
    if "from" in kept and "value" in kept:
        role, content = SHAREGPT_ROLES.get(str(kept.pop("from"))), kept.pop("value")
        kept |= {"role": role, "content": content}
    if not isinstance(kept.get("role"), str) or not isinstance(kept.get("content", ""), str) or len(kept) < 2:
        raise ValueError(
            f"holds the message {_shown(part)}; a message has the texts `role` and `content`, or `from` ({', '.join(SHAREGPT_ROLES)}) and `value`"
        )
    return kept


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 2 * _SHOWN_CHARACTERS else f"{text[: 2 * _SHOWN_CHARACTERS]}..."
