"""Calls of tools, their results and the tools themselves, in the layouts of OpenAI and ShareGPT -> what a chat template renders.

{"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}   ->  {"role": "assistant", "tool_calls": [...]}
{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]}  ->  the same, with arguments as an object
{"name": "add", "parameters": {...}}                                           ->  {"type": "function", "function": {...}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

Tool = dict[str, object]
"""A tool as templates expect it: `{"type": "function", "function": {"name": ..., "parameters": ...}}`."""

_SHOWN_CHARACTERS = 80


def calls_of(value: object) -> list[Tool]:
    """The calls in a message: one or a list, as objects or as JSON text, with or without `function` around them.

    Raises:
        ValueError: one is not a name and arguments.
    """
    found = _parsed(value)
    given = found if isinstance(found, list) else [found]
    calls = [call for part in given if (call := _call(part)) is not None]
    if not calls or len(calls) < len(given):
        raise ValueError(
            f"holds the call {str(value)[:_SHOWN_CHARACTERS]!r}; a call is JSON with `name` and `arguments`, which are JSON again"
        )
    return calls


def tools_of(value: object) -> list[Tool] | None:
    """The tools that a row offers: a list of them, or its JSON. None if there are none. Nulls, which Parquet adds, are taken out.

    Raises:
        ValueError: the value is neither.
    """
    found = _parsed(value) if not isinstance(value, str) or value.strip() else None
    if not found:
        return None
    given = [found] if isinstance(found, dict) else [_parsed(tool) for tool in found] if isinstance(found, list) else []
    if not given or not all(_is_tool(tool) for tool in given):
        raise ValueError(
            f"has the tools {str(value)[:_SHOWN_CHARACTERS]!r}; tools are a list, or the JSON of one, of objects with a `name` and mostly "
            "`description` and `parameters`; correct the row, or give the column another name (data.columns)"
        )
    return [_wrapped(without_nulls(tool)) for tool in given]


def without_nulls(value: object) -> object:
    """The value without the keys that hold null: a Parquet file gives each object the keys of all of them."""
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    if isinstance(value, list):
        return [without_nulls(part) for part in value]
    return value


def called_names(message: Mapping[str, object]) -> list[str]:
    """Names of the functions that a message of `calls_of` calls."""
    calls = message.get("tool_calls")
    return [str(call["function"]["name"]) for call in calls] if isinstance(calls, list) else []


def with_text_arguments(calls: Sequence[Mapping[str, object]]) -> list[Tool]:
    """The calls with their arguments as JSON text, which some templates expect."""
    return [{**call, "function": _text_arguments(call["function"])} for call in calls]


def _text_arguments(function: object) -> object:
    if not isinstance(function, dict):
        return function
    return {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _call(part: object) -> Tool | None:
    """One call; None if it has no name, or arguments that are no JSON object."""
    part = _parsed(part)
    if not isinstance(part, dict):
        return None
    function = part.get("function", part)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    given = function.get("arguments", function.get("parameters"))
    arguments = _parsed(given) if given != "" else {}
    if not isinstance(arguments, dict):
        return None
    if isinstance(given, dict):
        arguments = without_nulls(arguments)
    beside = {"id": part["id"]} if isinstance(part.get("id"), str) else {}
    return {**beside, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _is_tool(tool: object) -> bool:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _wrapped(tool: object) -> Tool:
    assert isinstance(tool, dict)
    return tool if "function" in tool else {"type": "function", "function": tool}
