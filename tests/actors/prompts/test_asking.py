"""Prompts of GRPO from rows of every layout: nothing leaks, nothing is wrapped twice, and what belongs to a prompt is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.prompts.decontamination import prompt_text
from actors.prompts.eval_sets import load_eval_sets
from actors.prompts.streamed import open_prompts
from configs.contracts.errors import DataError
from configs.contracts.records import Prompt
from configs.schema.data import DataSection
from tests.actors.chat_templates import LLAMA3, NO_SYSTEM, PLAIN, QWEN, tokenizer_with

ASKED = [{"role": "user", "content": "What is 2+2?"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "It is 4."}]
SHAREGPT = [{"from": "human", "value": "What is 2+2?"}, {"from": "gpt", "value": "It is 4."}]
TEXT = "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"


def opened(folder: Path, rows: list[dict[str, Any]], template: str | None = PLAIN, **data: Any) -> tuple[list[Prompt], tuple[str, ...]]:
    """The prompts in the order of their rows, and the warnings."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = DataSection.model_validate({"path": str(path), "eval_samples": 0, "shuffle": False, **data})
    prompts = open_prompts(section, tokenizer_with(template), seed=0, folder=folder)
    return prompts.first_prompts(len(rows)), prompts.warnings


def refused(folder: Path, prompt: object, template: str | None = PLAIN, **data: Any) -> str:
    with pytest.raises(DataError) as caught:
        opened(folder, [{"prompt": "fine"}, {"prompt": prompt}], template, **data)
    assert "rows.jsonl:2: column 'prompt' " in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("value", [ANSWERED, SHAREGPT, json.dumps(ANSWERED)])
def test_a_prompt_that_ends_with_its_answer_is_refused_or_cut_off(value: object, streaming: bool, tmp_path: Path) -> None:
    told = refused(tmp_path, value, streaming=streaming)
    assert "ends with the assistant's message 'It is 4.'" in told and "set data.final_answer: drop" in told
    [prompt], warnings = opened(tmp_path, [{"prompt": value}], final_answer="drop", streaming=streaming)
    assert prompt.text == TEXT and "It is 4." not in str(prompt.messages)
    assert any("prompts that ended with the assistant's answer, which is taken out" in sentence for sentence in warnings)
    [prompt], _ = opened(tmp_path, [{"prompt": value}], final_answer="continue", streaming=streaming)
    assert prompt.text == TEXT + "It is 4."


def test_an_opened_tag_is_no_answer(tmp_path: Path) -> None:
    begun = [*ASKED, {"role": "assistant", "content": "Let me solve this.\n<think>"}]
    [prompt], warnings = opened(tmp_path, [{"prompt": begun}])
    assert prompt.text == TEXT + "Let me solve this.\n<think>"
    assert any("which each completion continues" in sentence for sentence in warnings)
    assert "ends with the assistant's" in refused(tmp_path, [*ASKED, {"role": "assistant", "content": "Vec<String>"}])


def test_a_prompt_without_a_question_is_refused(tmp_path: Path) -> None:
    assert "holds nothing before the assistant's answer" in refused(tmp_path, ANSWERED[1:], final_answer="drop")


def test_messages_as_text_and_sharegpt_are_read(tmp_path: Path) -> None:
    values = [json.dumps(ASKED), repr(ASKED), SHAREGPT[:1], ASKED]
    prompts, warnings = opened(tmp_path, [{"prompt": value} for value in values])
    assert all(prompt.text == TEXT and prompt.messages == tuple(ASKED) for prompt in prompts)
    assert any(
        sentence.startswith("prompts that hold their messages as JSON text, which is read as messages: 2 (") for sentence in warnings
    )


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_rows_own_system_message_is_used(name: str, tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", name: "Be brief."}, {"prompt": "Hi", name: None}, {"prompt": "Hi", name: " "}]
    prompts, _ = opened(tmp_path, rows, system_prompt="Be kind.")
    assert [prompt.messages[0]["content"] for prompt in prompts] == ["Be brief.", "Be kind.", "Be kind."]
    assert prompts[0].columns[name] == "Be brief.", "rewards see it, too"
    own = {"prompt": [{"role": "system", "content": "Be quick."}, *ASKED], name: "Be brief."}
    [prompt], warnings = opened(tmp_path, [own])
    assert [message["content"] for message in prompt.messages] == ["Be quick.", "What is 2+2?"]
    assert any(f"another in column '{name}', which is not used" in sentence for sentence in warnings)


def test_tools_are_offered_or_refused(tmp_path: Path) -> None:
    rows = [{"prompt": "1+2?", "tools": json.dumps([{"name": "add"}])}]
    [prompt], _ = opened(tmp_path, rows, QWEN)
    assert '{"type": "function", "function": {"name": "add"}}' in prompt.text
    with pytest.raises(DataError, match="rows.jsonl:1: .*has tools, which the chat template does not render.*set model.chat_template"):
        opened(tmp_path, rows, PLAIN)
    with pytest.raises(DataError, match=r"has the tools '\[\"hammer\"\]'.*give the column another name"):
        opened(tmp_path, [{"prompt": "1+2?", "tools": '["hammer"]'}], QWEN)


def test_a_system_prompt_that_the_template_leaves_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the system message, which the chat template does not render"):
        opened(tmp_path, [{"prompt": "a"}], NO_SYSTEM, system_prompt="Be kind.")


def test_alpaca_rows_are_asked_whole(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "1 2", "history": [["Hi", "Hello."]], "output": "3"}
    for data in ({"prompt_column": "instruction"}, {"prompt_column": "question", "columns": {"instruction": "question"}}):
        [prompt], _ = opened(tmp_path, [row], **data)
        assert [message["content"] for message in prompt.messages] == ["Hi", "Hello.", "Add.\n1 2"]
    with pytest.raises(DataError, match="a history is a list of pairs, .*so give the column another name"):
        opened(tmp_path, [{**row, "history": "long"}], prompt_column="instruction")


def test_prompts_that_are_rendered_already_are_told_and_tokenised_once(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(LLAMA3)
    [plain], _ = opened(tmp_path, [{"prompt": "What is 2+2?"}], LLAMA3)
    for text in (plain.text, plain.text.removeprefix("<s>")):
        [prompt], warnings = opened(tmp_path, [{"prompt": text}], LLAMA3)
        assert prompt.token_ids == plain.token_ids and prompt.token_ids.count(tokenizer.bos_token_id) == 1
        assert any(sentence.startswith("prompts that carry the chat template's") for sentence in warnings) and prompt.messages
    assert "would be wrapped a second time" in refused(tmp_path, plain.text)


def test_a_system_prompt_with_marks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data.system_prompt carries"):
        opened(tmp_path, [{"prompt": "a"}], system_prompt="<|im_start|>system\nBe kind.<|im_end|>\n")


def test_an_image_is_refused_by_name(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is this?"}]
    [prompt], _ = opened(tmp_path, [{"prompt": [{"role": "user", "content": parts}]}])
    assert prompt.messages[0]["content"] == "What is this?"
    assert "has content of type 'image'" in refused(tmp_path, [{"role": "user", "content": [*parts, {"type": "image"}]}])


def test_evaluation_sets_are_read_by_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    path.write_text(json.dumps({"prompt": SHAREGPT}) + "\n")
    data = DataSection(path="builtin:addition")
    with pytest.raises(DataError, match="held_out.jsonl:1: column 'prompt' ends with the assistant's message"):
        load_eval_sets([str(path)], data, tokenizer_with(PLAIN), max_prompts=None, seed=0)
    dropped = data.model_copy(update={"final_answer": "drop"})
    (found,) = load_eval_sets([str(path)], dropped, tokenizer_with(PLAIN), max_prompts=None, seed=0)
    assert found.prompts[0].text == TEXT


@pytest.mark.parametrize("value", ["What is 2+2?", ASKED, SHAREGPT, json.dumps(ANSWERED)])
def test_words_of_prompts_are_compared_in_every_layout(value: object) -> None:
    assert prompt_text(value) == "What is 2+2?"


@pytest.mark.parametrize(
    ("row", "where"),
    [
        ({"prompt": ASKED, "system_prompt": "Be brief."}, "in column 'system_prompt'"),
        ({"prompt": [{"role": "system", "content": "Be brief."}, *ASKED]}, "among their messages"),
    ],
)
def test_a_row_that_overrules_the_system_prompt_of_the_settings_is_told(row: dict[str, Any], where: str, tmp_path: Path) -> None:
    [prompt], warnings = opened(tmp_path, [row], system_prompt="Be kind.")
    assert prompt.text.count("<|im_start|>system") == 1 and "Be brief." in prompt.text and "Be kind." not in prompt.text
    assert any(f"have a system message {where}, which takes the place of data.system_prompt" in sentence for sentence in warnings)
    _, quiet = opened(tmp_path, [row], system_prompt="Be brief.")
    assert not any("takes the place" in sentence for sentence in quiet)
