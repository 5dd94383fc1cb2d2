"""Texts that carry the marks of a chat template already are known from its own rendering, whatever the family."""

from __future__ import annotations

import pytest

from actors.chat.markers import Markers
from actors.prompts.asking import PromptRenderer
from configs.contracts.errors import DataError
from tests.actors.chat_templates import DEEPSEEK, LLAMA3, NO_SYSTEM, PLAIN, QWEN, VICUNA, tokenizer_with

FAMILIES = [QWEN, DEEPSEEK, PLAIN, NO_SYSTEM, LLAMA3, VICUNA]


@pytest.mark.parametrize(
    ("template", "system"),
    [(template, system) for template in FAMILIES for system in (None, "Be kind.") if template is not NO_SYSTEM or not system],
)
def test_a_rendered_prompt_is_taken_as_it_is(template: str, system: str | None) -> None:
    tokenizer = tokenizer_with(template)
    text = PromptRenderer(tokenizer, system).rendered(PromptRenderer(tokenizer, system).asked("What is 2+2?"))
    renderer = PromptRenderer(tokenizer)
    for given in (text, text.removeprefix("<s>"), text.rstrip()):
        asked = renderer.asked(given)
        assert renderer.rendered(asked).rstrip() == text.rstrip(), "nothing is wrapped around it, and it begins once"
        (note,) = asked.notes
        assert "already and are taken as they are" in note
    assert renderer.rendered(renderer.asked(text + "Let me think.\n<think>")).endswith("<think>"), "the answer may be begun"


@pytest.mark.parametrize("template", FAMILIES)
def test_a_rendered_prompt_with_its_answer_is_refused(template: str) -> None:
    tokenizer = tokenizer_with(template)
    renderer = PromptRenderer(tokenizer)
    text = renderer.rendered(renderer.asked("What is 2+2?"))
    with pytest.raises(ValueError, match="carries the mark"):
        renderer.asked(f"{text}4{tokenizer.eos_token}")
    with pytest.raises(ValueError, match="ends with the assistant's answer '4'"):
        renderer.asked(f"{text}4")
    assert PromptRenderer(tokenizer, final_answer="continue").asked(f"{text}4").plain == f"{text}4"


@pytest.mark.parametrize("template", FAMILIES)
@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nWhat is 2+2?<|im_end|>",
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?",
        " <s>[INST] What is 2+2?",
        "<start_of_turn>user\nWhat is 2+2?",
        "<｜User｜>What is 2+2?",
    ],
)
def test_marks_of_any_family_around_a_part_of_a_prompt_are_refused(template: str, text: str) -> None:
    renderer = PromptRenderer(tokenizer_with(template))
    for prompt in (text, [{"role": "user", "content": text}]):
        with pytest.raises(ValueError, match="which would be wrapped a second time: .*; give the bare text"):
            renderer.asked(prompt)


@pytest.mark.parametrize("template", FAMILIES)
@pytest.mark.parametrize("text", ["What is 2+2?", "USER: hi", "User: hi\nAssistant:", "a <b> [c] `<think>`", "<answer> tags, please"])
def test_words_are_no_marks(template: str, text: str) -> None:
    assert PromptRenderer(tokenizer_with(template)).asked(text).notes == ()


def test_a_mark_in_the_middle_is_told() -> None:
    (note,) = PromptRenderer(tokenizer_with(QWEN)).asked("What does <|im_end|> mean?").notes
    assert note == "hold '<|im_end|>' in their text, which is a mark of chat templates and no word"


@pytest.mark.parametrize("text", ["<s>What is 2+2?", "<|begin_of_text|>What is 2+2?"])
@pytest.mark.parametrize("template", [QWEN, LLAMA3])
def test_a_beginning_inside_a_message_is_told(template: str, text: str) -> None:
    (note,) = PromptRenderer(tokenizer_with(template)).asked(text).notes
    assert "which is a mark of chat templates and no word" in note


@pytest.mark.parametrize("text", ["<|im_start|>system\nBe kind.<|im_end|>", "<<SYS>>Be kind.<</SYS>>", "Be kind.<|im_end|>"])
def test_a_system_prompt_with_marks_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="data.system_prompt carries '.*', a mark that chat templates write themselves; give the bare text"):
        PromptRenderer(tokenizer_with(QWEN), text)


def test_settings_that_a_rendered_prompt_cannot_take_are_refused() -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ValueError, match="already, so that data.system_prompt cannot be put into it"):
        PromptRenderer(tokenizer_with(QWEN), "Be kind.").asked(text)
    with pytest.raises(ValueError, match="already, so that its column 'tools' cannot be put into it"):
        PromptRenderer(tokenizer_with(QWEN)).asked(text, {"tools": [{"name": "add"}]})


def test_without_a_template_nothing_is_a_mark() -> None:
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    renderer = PromptRenderer(tokenizer_with(None))
    assert renderer.rendered(renderer.asked(text)) == text


def test_a_template_that_refuses_a_talk_has_no_marks_of_its_own() -> None:
    assert Markers.of(tokenizer_with("{{- raise_exception('no') -}}")).marks == ()
