"""Conversations with tools: calls and results in ShareGPT's layout as chat messages that a chat template renders.

{"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}   ->  {"role": "assistant", "tool_calls": [...]}
{"from": "observation",   "value": "2"}                                          ->  {"role": "tool", "content": "2"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

TOOL_CALLS = ("function_call", "tool_call")
TOOL_RESULTS = ("observation", "function_response", "tool_response")
"""Names of the speakers in `from`."""


class NoToolsInTemplateError(ValueError):
    """The row has tools, and the chat template does not render them."""


def tool_message(speaker: str, value: object) -> dict[str, object] | None:
    """The chat message of a tool's call or result; None for other speakers.

    Raises:
        ValueError: a call is not the JSON of a name and arguments.
    """
    if speaker in TOOL_RESULTS:
        return {"role": "tool", "content": value}
    if speaker not in TOOL_CALLS:
        return None
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = None
    given = found if isinstance(found, list) else [found]
    calls = [call for call in given if isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call]
    if not calls or len(calls) < len(given):
        raise ValueError(f"holds the call {str(value)[:80]!r}; a call is JSON with `name` and `arguments`")
    functions = [{"type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}} for call in calls]
    return {"role": "assistant", "content": "", "tool_calls": functions}


def tools_of(value: object) -> list[Any] | None:
    """The tools that a row offers: a list, or its JSON. None if there are none.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise ValueError(f"has the tools {value[:80]!r}; tools are a list, or the JSON of one") from None
    if not value:
        return None
    if not isinstance(value, list):
        raise ValueError(f"has the tools {str(value)[:80]!r}; tools are a list, or the JSON of one")
    return value


def require_rendered_tools(template: str, messages: Sequence[Mapping[str, Any]], tools: Sequence[Any] | None) -> None:
    """Refuse a conversation with tools where the template does not mention what it holds: the model would answer what it never saw.

    Raises:
        NoToolsInTemplateError: the template does not.
    """
    wanted = {"tool_calls"} if any("tool_calls" in message for message in messages) else set()
    wanted |= {"tools"} if tools else set()
    wanted |= {"tool"} if any(message["role"] == "tool" for message in messages) else set()
    missing = sorted(word for word in wanted if word not in template)
    if missing:
        raise NoToolsInTemplateError(f"has {' and '.join(missing)}, which the chat template does not render")
