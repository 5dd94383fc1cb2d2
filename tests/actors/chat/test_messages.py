"""Chat messages of every layout become one: names of roles, JSON text, parts of a content, calls and tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors.chat.messages import messages_of
from actors.chat.tool_calls import tools_of

ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}


def call(**message: Any) -> dict[str, Any]:
    (found,) = messages_of([message])
    return found


@pytest.mark.parametrize(
    ("speaker", "role"),
    [
        *[("human", "user"), ("Human", "user"), ("user", "user"), ("gpt", "assistant"), ("bot", "assistant"), ("chatgpt", "assistant")],
        *[("model", "assistant"), ("system", "system"), ("developer", "system"), ("observation", "tool"), ("tool", "tool")],
        *[("function", "tool"), ("tool_response", "tool")],
    ],
)
def test_names_of_speakers_are_roles_in_both_layouts(speaker: str, role: str) -> None:
    assert messages_of([{"from": speaker, "value": "a"}]) == messages_of([{"role": speaker, "content": "a"}])
    assert call(role=speaker, content="a") == {"role": role, "content": "a"}


def test_a_role_that_only_the_template_may_know_stays() -> None:
    assert call(role="critic", content="a")["role"] == "critic"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [ADD]},
        {"role": "assistant", "tool_calls": [ADD]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "add", "arguments": {"a": 1, "b": 2, "c": None}}]},
        {"role": "assistant", "content": None, "tool_calls": json.dumps([ADD])},
        {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1, "b": 2}'}},
        {"role": "tool_call", "content": '{"name": "add", "arguments": {"a": 1, "b": 2}}'},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1, "b": 2}}'},
        {"from": "tool_call", "value": '[{"name": "add", "arguments": "{\\"a\\": 1, \\"b\\": 2}"}]'},
    ],
)
def test_calls_in_every_layout_are_the_same_call(message: dict[str, Any]) -> None:
    assert call(**message) == {"role": "assistant", "content": None, "tool_calls": [ADD]}


def test_the_id_of_a_call_and_of_its_result_stay() -> None:
    found = messages_of(
        [
            {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **ADD}]},
            {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "3"},
        ]
    )
    assert found[0]["tool_calls"][0]["id"] == "c1"
    assert found[1] == {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"}


@pytest.mark.parametrize("arguments", ["a=1", "[1]", 3, None])
def test_arguments_that_are_no_object_are_refused(arguments: object) -> None:
    with pytest.raises(ValueError, match="a call is JSON with `name` and `arguments`"):
        call(role="assistant", content=None, tool_calls=[{"function": {"name": "add", "arguments": arguments}}])


@pytest.mark.parametrize(
    ("content", "text"),
    [({"sum": 3}, '{"sum": 3}'), (3, "3"), ([{"type": "flight"}], '[{"type": "flight"}]'), ([{"type": "text", "text": "3"}], "3")],
)
def test_a_result_may_be_any_json(content: object, text: str) -> None:
    assert call(role="tool", content=content)["content"] == text


def test_text_parts_are_joined_and_images_refused_by_name() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert call(role="user", content=parts)["content"] == "a\nb"
    assert call(**{"from": "human", "value": parts})["content"] == "a\nb"
    for kind in ("image", "image_url", "audio"):
        with pytest.raises(ValueError, match=f"has content of type '{kind}'.*take such parts or rows out"):
            call(role="user", content=[*parts, {"type": kind, "url": "x.png"}])


@pytest.mark.parametrize("text", [json.dumps, repr, lambda value: "  " + json.dumps(value, indent=2)])
def test_messages_as_text_are_read(text: Any) -> None:
    value = [{"role": "user", "content": 'it\'s "so"'}, {"role": "assistant", "content": "b"}]
    assert messages_of(text(value)) == value


def test_a_text_that_begins_as_messages_and_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="begins as a list of chat messages and is no JSON"):
        messages_of('[{"role": "user", "content": "a"')


@pytest.mark.parametrize(
    "value",
    [
        [{"name": "add", "parameters": {"type": "object", "required": None}}],
        [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        json.dumps([{"name": "add", "parameters": {"type": "object"}}]),
        {"name": "add", "parameters": {"type": "object"}},
        ['{"name": "add", "parameters": {"type": "object"}}'],
    ],
)
def test_tools_in_every_layout_are_the_same_tool(value: object) -> None:
    assert tools_of(value) == [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("value", [None, "", "  ", [], "[]"])
def test_no_tools_are_none(value: object) -> None:
    assert tools_of(value) is None


@pytest.mark.parametrize("value", ["add, subtract", ["hammer"], [{"description": "adds"}], 3])
def test_what_is_no_tool_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="tools are a list, or the JSON of one"):
        tools_of(value)
