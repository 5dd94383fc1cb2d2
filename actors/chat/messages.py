"""A value of a data set -> chat messages with `role` and `content`, whatever the layout: OpenAI's, ShareGPT's, or either as JSON text."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from actors.chat.tool_calls import calls_of

Message = dict[str, Any]
"""A chat message: the texts `role` and `content`, and whatever else the chat template reads, such as tool calls."""

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "chatbot", "chatgpt", "model", "ai"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "function_response", "ipython"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),
}
"""Name of a speaker -> role in chat templates."""

CALLERS = ("function_call", "tool_call")
"""Speakers whose text is the JSON of a call."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA_PARTS = ("image", "image_url", "input_image", "video", "video_url", "audio", "input_audio", "file")
_LISTED = re.compile(r"""\s*\[\s*\{\s*(["'])(role|from|content|value)\1\s*:""")
_SHOWN_CHARACTERS = 80


def messages_of(value: object) -> list[Message]:
    """The messages in a value: a list, one message, or the JSON text of either.

    Raises:
        ValueError: the value is no list of messages, or one of them is malformed.
    """
    if isinstance(value, str):
        value = listed(value)
    given = [value] if isinstance(value, dict) and ("role" in value or "from" in value) else value
    if not isinstance(given, list) or not given:
        raise ValueError(f"holds {shown(value)}; a conversation is a list of chat messages")
    return [_message(part) for part in given]


def is_listed(text: str) -> bool:
    """Look whether a text begins as a list of messages in JSON, or as Python prints it."""
    return bool(_LISTED.match(text))


def listed(text: str) -> object:
    """Read a list of messages from its text, JSON or as Python prints it; a text that does not begin like one stays.

    Raises:
        ValueError: it begins like one, and cannot be read.
    """
    if not is_listed(text):
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    raise ValueError(f"holds {shown(text)}, which begins as a list of chat messages and is no JSON; correct the row")


def shown(value: object) -> str:
    """The value for an error, cut off."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _message(part: object) -> Message:
    if not isinstance(part, dict):
        raise _malformed(part)
    kept: Message = {key: value for key, value in part.items() if value is not None}
    of_sharegpt = "role" not in kept
    given, content = (kept.pop("from", None), kept.pop("value", None)) if of_sharegpt else (kept.pop("role"), kept.pop("content", None))
    if not isinstance(given, str):
        raise _malformed(part)
    speaker = given.strip().lower()
    role = ROLES.get(speaker, None if of_sharegpt else given)
    if role is None:
        raise _malformed(part)
    calls = [*_own_calls(kept), *(calls_of(content) if speaker in CALLERS else ())]
    if speaker in CALLERS:
        content = None
    if content is None and not calls:
        raise _malformed(part)
    text = _text_of(content, role, part)
    return {"role": role, "content": text, **kept, **({"tool_calls": calls} if calls else {})}


def _own_calls(kept: Message) -> list[dict[str, object]]:
    """Take the calls out of a message: `tool_calls`, or `function_call` of OpenAI's older layout."""
    given = [found for name in ("tool_calls", "function_call") if (found := kept.pop(name, None))]
    return [call for found in given for call in calls_of(found)]


def _text_of(content: object, role: str, part: object) -> str | None:
    """The text of a message. A tool's result may be any JSON value."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and content and all(_is_part(each, role) for each in content):
        return "\n".join(_text_of_part(each) for each in content)
    if role == "tool":
        return json.dumps(content, ensure_ascii=False)
    raise _malformed(part)


def _is_part(part: object, role: str) -> bool:
    """Look whether this is a part of a content. In a tool's result, objects with a `type` of their own are data."""
    if not isinstance(part, dict):
        return False
    return part.get("type") in (*_TEXT_PARTS, *_MEDIA_PARTS) or (role != "tool" and ("type" in part or "text" in part))


def _text_of_part(part: object) -> str:
    """The text of one part of a content.

    Raises:
        ValueError: it is an image or another thing that is no text.
    """
    assert isinstance(part, dict)
    kind = part.get("type") or "text"
    if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
        raise ValueError(f"has content of type {kind!r}: {shown(part)}; only text is trained, so take such parts or rows out")
    return part["text"]


def _malformed(part: object) -> ValueError:
    return ValueError(
        f"holds the message {shown(part)}; a message has the texts `role` and `content`, or `from` ({', '.join(ROLES)}) and `value`"
    )
