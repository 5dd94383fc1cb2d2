"""A prompt in a row -> chat messages and tools -> the text that the model reads.

A prompt is text or messages in any layout of `actors.chat.messages`. Other columns of its row belong to it: a system message, tools, Alpaca's
`history` and, beside `instruction`, its `input`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from actors.chat.markers import Markers
from actors.chat.messages import Message, is_listed, messages_of, shown
from actors.chat.templates import TemplateCheck, rendered
from actors.chat.tool_calls import Tool, tools_of
from actors.rows.rows import Rows
from configs.contracts.errors import DataError
from configs.schema.sources import SourceSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, TOOLS, HISTORY, INPUT = ("system_prompt", "system"), ("tools", "functions"), "history", "input"
"""Columns that belong to the prompt or the conversation of their row."""

OF_CHAT = (*SYSTEM, *TOOLS, HISTORY)
"""Those of them that need a chat template."""

_OPENED_TAG = re.compile(r"(^|\n)[ \t]*<[A-Za-z_]+>\s*$")
"""A last line such as `<think>`: the beginning of an answer, not an answer."""

FinalAnswer = Literal["refuse", "drop", "continue"]


@dataclass(frozen=True)
class Asked:
    """A prompt before it is rendered."""

    messages: tuple[Message, ...] = ()
    """Empty without a chat template."""
    tools: list[Tool] | None = None
    plain: str | None = None
    """The text itself, if nothing is to be wrapped around it."""
    earlier: bool = False
    """True if turns of Alpaca's `history` are among the messages."""
    notes: tuple[str, ...] = ()
    """All that was converted or is not used, as a clause about prompts."""


def columns_beside(data: SourceSection, prompt_column: str) -> tuple[str, ...]:
    """Name the columns that belong to a prompt where rows have them. `input` does only beside Alpaca's `instruction`, under whatever new name."""
    parts = [part.columns for part in data.mixture.datasets] if data.mixture else [data.columns]
    renames = [columns for columns in parts if isinstance(columns, dict)]
    is_alpaca = prompt_column == "instruction" or any(columns.get("instruction") == prompt_column for columns in renames)
    names = (*SYSTEM, *TOOLS, HISTORY, *((INPUT,) if is_alpaca else ()))
    return tuple(name for name in names if name != prompt_column)


def beside_of(rows: Rows, names: Sequence[str], indices: Sequence[int]) -> list[dict[str, object]]:
    """The values of these columns for each row, of those that the data have."""
    there = [name for name in names if name in rows.columns]
    columns = [rows.values(name, indices) for name in there]
    return [dict(zip(there, found, strict=True)) for found in zip(*columns, strict=True)] if there else [{} for _ in indices]


@dataclass(frozen=True)
class PromptRenderer:
    """A prompt in a column -> the text that the model reads.

    With a chat template, a string becomes one user message after the system prompt. Without one, it stays plain text.

    Raises:
        DataError: the system prompt carries marks of a chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None = None
    final_answer: FinalAnswer = "refuse"
    """Treatment of a last message of the assistant: `data.final_answer`."""
    check: TemplateCheck = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "check", TemplateCheck(self.tokenizer))
        if self.system_prompt is None or not self.conversational:
            return
        carried, mark = self.markers.carried(self.system_prompt)
        if carried != "none":
            raise DataError(f"data.system_prompt carries {mark!r}, a mark that chat templates write themselves; give the bare text")

    @property
    def conversational(self) -> bool:
        return bool(self.tokenizer.chat_template)

    @cached_property
    def markers(self) -> Markers:
        return Markers.of(self.tokenizer)

    def asked(self, prompt: object, beside: Mapping[str, object] | None = None) -> Asked:
        """The messages and tools of a prompt. A system message in it replaces that of the row, and that replaces `system_prompt`.

        Args:
            beside: the columns of its row that belong to it.

        Raises:
            ValueError: the prompt is neither text nor messages, needs a chat template that the tokenizer does not have, carries the marks of
                one, or ends with the assistant's answer.
        """
        beside = given_beside(beside or {})
        if not isinstance(prompt, (str, list, dict)) or not prompt or (isinstance(prompt, str) and not prompt.strip()):
            raise ValueError(f"holds {prompt!r}; a prompt is text or a list of chat messages")
        listed = not isinstance(prompt, str) or is_listed(prompt)
        if not self.conversational:
            return self._without_template(prompt, beside, listed)
        notes = ["hold their messages as JSON text, which is read as messages"] if listed and isinstance(prompt, str) else []
        if not listed:
            asked = self._of_text(_with_input(str(prompt), beside), beside, notes)
            if asked.plain is not None:
                return asked
            messages = list(asked.messages)
        else:
            messages = self._bare(messages_of(prompt), notes)
        earlier = _earlier_turns(beside.get(HISTORY))
        start = 1 if messages[0]["role"] == "system" else 0
        messages[start:start] = self._bare(earlier, notes)
        self._set_system(messages, beside, notes)
        self._end(messages, notes)
        return Asked(tuple(messages), tools_beside(beside), earlier=bool(earlier), notes=tuple(dict.fromkeys(notes)))

    def rendered(self, asked: Asked) -> str:
        """Render a prompt up to where the completion begins. If the last message is the assistant's, the completion continues it.

        Raises:
            ValueError: the template refuses the messages, or leaves one out.
        """
        if asked.plain is not None:
            return asked.plain
        begun = asked.messages[-1]["role"] == "assistant"
        text = rendered(self.tokenizer, asked.messages, asked.tools, asks=not begun, continues=begun)
        missing = [] if begun else self.check.left_out(asked.messages, asked.tools, text, asks=True)
        if missing:
            raise ValueError(
                f"has {' and '.join(missing)}, which the chat template does not render, so that the model would not see it; set "
                "model.chat_template to one that does, or take it out of the data"
            )
        return text

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered prompts. A template writes BOS itself, so no special tokens are added then."""
        return self.tokenizer(texts, add_special_tokens=not self.conversational, verbose=False)["input_ids"]  # type: ignore[return-value]

    def with_system(self, messages: Sequence[Message], beside: Mapping[str, object], notes: list[str]) -> list[Message]:
        """A conversation to imitate, with its system message; refuses marks of a template as in prompts."""
        found = self._bare(messages, notes)
        self._set_system(found, beside, notes)
        return found

    def _without_template(self, prompt: object, beside: Mapping[str, object], listed: bool) -> Asked:
        names = [f"its column {name!r}" for name in beside if name in OF_CHAT]
        what = "a prompt of chat messages" if listed else "data.system_prompt" if self.system_prompt is not None else "".join(names[:1])
        if what:
            raise ValueError(f"cannot be rendered: {what} needs a chat template and the tokenizer has none; set model.chat_template")
        return Asked(plain=_with_input(str(prompt), beside))

    def _of_text(self, text: str, beside: Mapping[str, object], notes: list[str]) -> Asked:
        """One message of the user; or the text itself, if it is what the template makes."""
        carried, mark = self.markers.carried(text)
        messages = ({"role": "user", "content": text},)
        if carried != "whole":
            self._refuse_begun(carried, mark, text)
            notes += _stray(carried, mark)
            return Asked(messages)
        more = ["data.system_prompt"] * (self.system_prompt is not None) + [f"its column {name!r}" for name in beside if name in OF_CHAT]
        if more:
            raise ValueError(
                f"carries the chat template's {mark!r} already, so that {more[0]} cannot be put into it: {shown(text)}; give the bare text of "
                "the user, or remove the setting or column"
            )
        answer = self.markers.answer_begun(text)
        if answer and not _OPENED_TAG.search(answer) and self.final_answer != "continue":
            raise ValueError(
                f"carries the chat template's {mark!r} already and ends with the assistant's answer {shown(answer)}, which the model would be "
                "shown; take it out, or set data.final_answer: continue if each completion is to go on from it"
            )
        note = f"carry the chat template's {mark!r} already and are taken as they are, with nothing wrapped around them"
        return Asked(messages, plain=self.markers.with_beginning(text), notes=(note,))

    def _bare(self, messages: Sequence[Message], notes: list[str]) -> list[Message]:
        """The messages, none of which may carry the marks of a template around its text."""
        for message in messages:
            if message["role"] == "tool" or not message["content"]:
                continue
            carried, mark = self.markers.carried(message["content"])
            self._refuse_begun(carried, mark, message["content"])
            notes += _stray(carried, mark)
        return list(messages)

    @staticmethod
    def _refuse_begun(carried: str, mark: str, text: str) -> None:
        if carried in ("whole", "begun"):
            raise ValueError(
                f"carries the mark {mark!r} of a chat template, which would be wrapped a second time: {shown(text)}; give the bare text, or "
                "chat messages"
            )

    def _set_system(self, messages: list[Message], beside: Mapping[str, object], notes: list[str]) -> None:
        """Put the system message of the row, or of the settings, before messages that begin without one."""
        name, own = next(((name, beside[name]) for name in SYSTEM if beside.get(name)), ("", None))
        if own is not None and not isinstance(own, str):
            raise ValueError(
                f"has {shown(own)} in its column {name!r}; a system message is text, so give the column another name (data.columns)"
            )
        if messages[0]["role"] == "system":
            if own and own.strip() != str(messages[0]["content"]).strip():
                notes.append(f"have a system message among their messages and another in column {name!r}, which is not used")
            if self.system_prompt and self.system_prompt.strip() != str(messages[0]["content"]).strip():
                notes.append("have a system message among their messages, which takes the place of data.system_prompt")
            return
        content = own or self.system_prompt
        if own and self.system_prompt and own.strip() != self.system_prompt.strip():
            notes.append(f"have a system message in column {name!r}, which takes the place of data.system_prompt")
        if own:
            self._bare([{"role": "system", "content": own}], notes)
        if content is not None:
            messages.insert(0, {"role": "system", "content": content})

    def _end(self, messages: list[Message], notes: list[str]) -> None:
        """Refuse, take out or keep the assistant's message at the end, by `final_answer`."""
        last = messages[-1]
        if last["role"] != "assistant" or self.final_answer == "continue":
            return
        if _OPENED_TAG.search(last["content"] or ""):
            notes.append("end with the beginning of the assistant's answer, an opened tag, which each completion continues")
            return
        if self.final_answer == "refuse":
            raise ValueError(
                f"ends with the assistant's message {shown(last['content'])}: the model would be shown the answer; set data.final_answer: "
                "drop to take it out, or continue if each completion is to go on from it"
            )
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages or messages[-1]["role"] == "system":
            raise ValueError("holds nothing before the assistant's answer, which data.final_answer: drop takes out; correct the row")
        notes.append("ended with the assistant's answer, which is taken out (data.final_answer: drop); no reward sees it")


def given_beside(beside: Mapping[str, object]) -> dict[str, object]:
    """The columns beside a prompt that hold something."""
    return {name: value for name, value in beside.items() if (value.strip() if isinstance(value, str) else value)}


def tools_beside(beside: Mapping[str, object]) -> list[Tool] | None:
    """The tools in the columns of a row.

    Raises:
        ValueError: they are malformed.
    """
    return next((found for name in TOOLS if (found := tools_of(beside.get(name)))), None)


def _with_input(text: str, beside: Mapping[str, object]) -> str:
    """Alpaca's instruction and, in a line below it, its input."""
    given = beside.get(INPUT)
    return f"{text}\n{given}" if isinstance(given, str) and given.strip() else text


def _stray(carried: str, mark: str) -> list[str]:
    return [f"hold {mark!r} in their text, which is a mark of chat templates and no word"] if carried == "stray" else []


def _earlier_turns(history: object) -> list[Message]:
    """The turns before a prompt, from Alpaca's pairs of a question and its answer.

    Raises:
        ValueError: it is no such list.
    """
    given = history
    if isinstance(history, str):
        try:
            given = json.loads(history)
        except ValueError:
            given = None
    if not history or given == []:
        return []
    if not isinstance(given, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in given
    ):
        raise ValueError(
            f"has {shown(history)} in its column {HISTORY!r}; a history is a list of pairs, [question, answer], so give the column another name "
            "(data.columns)"
        )
    roles = ("user", "assistant")
    return [{"role": role, "content": text} for pair in given for role, text in zip(roles, pair, strict=True)]
