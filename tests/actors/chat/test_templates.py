"""Calls are rendered in the form that each family's template takes, and what a template leaves out is named."""

from __future__ import annotations

from typing import Any

import pytest

from actors.chat.messages import messages_of
from actors.chat.templates import TemplateCheck, rendered, with_known_reasoning
from actors.chat.tool_calls import tools_of
from tests.actors.chat_templates import DEEPSEEK, NO_SYSTEM, PLAIN, QWEN, tokenizer_with

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": '{"a": 1}'}}]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
TOOLS = [{"name": "add", "description": "adds"}]


def left_out(template: str, messages: list[dict[str, Any]], tools: object = None) -> list[str]:
    tokenizer, talk, offered = tokenizer_with(template), messages_of(messages), tools_of(tools)
    return TemplateCheck(tokenizer).left_out(talk, offered, rendered(tokenizer, talk, offered, asks=False), asks=False)


def test_a_call_is_rendered_in_the_form_that_the_template_takes() -> None:
    of_qwen, of_deepseek = (rendered(tokenizer_with(template), messages_of(TALK), asks=False) for template in (QWEN, DEEPSEEK))
    assert '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>' in of_qwen
    assert 'CALL add\n{"a": 1}' in of_deepseek, "null as content, arguments as text"


def test_the_words_of_an_assistant_that_calls_are_kept() -> None:
    talk = [TALK[1], {**TALK[2], "content": "I will add."}]
    assert "I will add.<tool_call>" in rendered(tokenizer_with(QWEN), messages_of(talk), asks=False)


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        (QWEN, []),
        (DEEPSEEK, ["tools"]),
        (PLAIN, ["tools", "tool_calls"]),
        (NO_SYSTEM, ["tools", "the system message", "tool_calls", "messages of the role 'tool'"]),
    ],
)
def test_what_a_template_leaves_out_is_named(template: str, missing: list[str]) -> None:
    assert left_out(template, TALK, TOOLS) == missing


def test_a_result_that_occurs_elsewhere_by_chance_is_left_out_all_the_same() -> None:
    talk = [{"role": "user", "content": "Is it 3?"}, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "It is 3."}]
    assert left_out(NO_SYSTEM, talk) == ["messages of the role 'tool'"]


def test_a_role_that_the_template_does_not_know_is_named() -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "critic", "content": "bad"}, {"role": "assistant", "content": "b"}]
    assert left_out(QWEN, talk) == ["messages of the role 'critic'"] and left_out(PLAIN, talk) == []


def test_reasoning_goes_under_the_key_that_the_template_reads() -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "reasoning": "so"}]
    assert with_known_reasoning(talk, QWEN)[1] == {"role": "assistant", "content": "b", "reasoning_content": "so"}
    assert with_known_reasoning(talk, PLAIN) == talk
    for template, expected in ((QWEN, None), (PLAIN, "reasoning")):
        tokenizer, known = tokenizer_with(template), with_known_reasoning(talk, template)
        text = rendered(tokenizer, known, asks=False)
        assert TemplateCheck(tokenizer).reasoning_left_out(known, None, text) == expected
