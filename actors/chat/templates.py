"""Rendering by a tokenizer's chat template, in the form that the template takes, and a look at what it leaves out.

A call of a tool has no content and arguments that are an object. Some templates need an empty text there, others the arguments as JSON text:
the first form that is rendered with the names of all calls is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from actors.chat.messages import Message
from actors.chat.tool_calls import Tool, called_names, with_text_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold what the assistant thought before its answer."""


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tools: list[Tool] | None = None, *, asks: bool, continues: bool = False
) -> str:
    """Render messages.

    Args:
        tools: what the template offers the model to call.
        asks: end with the generation prompt.
        continues: end with the text of the last message, which the completion continues.

    Raises:
        ValueError: the template refuses them.
    """
    from jinja2 import TemplateError

    names = [name for message in messages for name in called_names(message)]
    text, fault = None, ""
    for form in _forms(messages):
        try:
            found = str(
                tokenizer.apply_chat_template(
                    form, tools=[*tools] if tools else None, tokenize=False, add_generation_prompt=asks, continue_final_message=continues
                )  # pyright: ignore[reportArgumentType]
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            fault = fault or str(error)
            continue
        if all(name in found for name in names):
            return found
        text = found if text is None else text
    if text is None:
        raise ValueError(f"is refused by the chat template: {fault}; correct the row or model.chat_template")
    return text


def _forms(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """The messages in every form in which templates take calls; without calls there is one."""
    if not any("tool_calls" in message for message in messages):
        yield [dict(message) for message in messages]
        return
    for as_text in (False, True):
        for content in (None, ""):
            yield [_form(message, content, as_text) for message in messages]


def _form(message: Message, content: str | None, as_text: bool) -> Message:
    if "tool_calls" not in message:
        return dict(message)
    calls = with_text_arguments(message["tool_calls"]) if as_text else message["tool_calls"]
    return {**message, "content": message["content"] or content, "tool_calls": calls}


@dataclass
class TemplateCheck:
    """Look for what a chat template leaves out of a conversation, by rendering it with something changed: the text must change, too.

    What was seen to be rendered once is not tried again.
    """

    tokenizer: PreTrainedTokenizerBase
    _proven: set[tuple[str, bool]] = field(default_factory=set)

    def left_out(self, messages: Sequence[Message], tools: list[Tool] | None, text: str, *, asks: bool) -> list[str]:
        """Name what is not in `text`, into which the messages were rendered: tools, calls of tools, and messages by their role."""
        found = []
        if tools and self._is_ignored(("tools", True), messages, None, text, asks):
            found.append("tools")
        for index, message in enumerate(messages):
            changes = {}
            if message["content"]:
                name = f"the {message['role']} message" if message["role"] == "system" else f"messages of the role {message['role']!r}"
                changes[name] = {"content": message["content"] + "#"}
            if "tool_calls" in message:
                changes["tool_calls"] = {"tool_calls": _renamed(message["tool_calls"])}
            for name, change in changes.items():
                if self._occurs(message, name, text):
                    continue
                changed = [*messages[:index], {**message, **change}, *messages[index + 1 :]]
                if self._is_ignored((name, index == 0), changed, tools, text, asks):
                    found.append(name)
        return list(dict.fromkeys(found))

    def reasoning_left_out(self, messages: Sequence[Message], tools: list[Tool] | None, text: str) -> str | None:
        """The key that holds the reasoning of the last message, if it is not in `text`."""
        last = messages[-1]
        key = next((name for name in REASONING if isinstance(last.get(name), str) and last[name].strip()), None)
        if key is None or last[key].strip() in text:
            return None
        changed = [*messages[:-1], {**last, key: last[key] + "#"}]
        return key if self._is_ignored((key, False), changed, tools, text, False) else None

    @staticmethod
    def _occurs(message: Message, name: str, text: str) -> bool:
        """Look for the words of users and assistants, which are long; a tool's result such as `3` may occur by chance."""
        return name != "tool_calls" and message["role"] in ("user", "assistant") and message["content"].strip() in text

    def _is_ignored(self, proof: tuple[str, bool], changed: Sequence[Message], tools: list[Tool] | None, text: str, asks: bool) -> bool:
        if proof in self._proven:
            return False
        try:
            ignored = rendered(self.tokenizer, changed, tools, asks=asks) == text
        except ValueError:
            ignored = False
        if not ignored:
            self._proven.add(proof)
        return ignored


def _renamed(calls: Sequence[Tool]) -> list[Tool]:
    return [
        {**call, "function": {**function, "name": f"{function['name']}_"}}
        for call in calls
        if isinstance(function := call["function"], dict)
    ]


def with_known_reasoning(messages: Sequence[Message], template: str) -> list[Message]:
    """The messages with their reasoning under the key that the template reads, if it reads one."""
    known = next((name for name in REASONING if f"message.{name}" in template or f"'{name}'" in template or f'"{name}"' in template), None)
    if known is None:
        return list(messages)
    found = []
    for message in messages:
        given = next((name for name in REASONING if name in message), None)
        if given is None or given == known or known in message:
            found.append(message)
        else:
            found.append({**{key: value for key, value in message.items() if key != given}, known: message[given]})
    return found


def end_warning(tokenizer: PreTrainedTokenizerBase, ends: Collection[str] = ()) -> str | None:
    """Warn where the template ends answers with another token than the tokenizer's, as for many base models: engines would not stop there.

    Args:
        ends: other tokens at which engines stop, by the model's generation_config.json.

    Returns:
        A sentence with the remedy; None if all is well, or if the template refuses such a conversation.
    """
    answer = "Yes."
    try:
        text = rendered(tokenizer, [{"role": "user", "content": "Well?"}, {"role": "assistant", "content": answer}], asks=False)
    except ValueError:
        return None
    ending = text.rpartition(answer)[2].strip()
    if not ending or ending.startswith((str(tokenizer.eos_token), *ends)):
        return None
    is_token = tokenizer.tokenize(ending) == [ending]
    remedy = f"set model.eos_token={ending!r}" if is_token else "set model.chat_template to one that ends so"
    return (
        f"the chat template makes answers end with {ending!r}, and the end token is {tokenizer.eos_token!r}: the model will not learn to stop, "
        f"and engines not stop there; "
        f"{remedy}, here and in every later command"
    )
