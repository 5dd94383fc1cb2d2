"""Conversations with tools, reasoning and columns beside them: what is trained, what is left out, and that nothing falls away unsaid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from actors.demonstrations.counting import DemonstrationCounts, left_out
from actors.demonstrations.indexed import DemonstrationSource
from configs.contracts.errors import DataError
from configs.schema.sft import SftDataSection
from tests.actors.chat_templates import DEEPSEEK, LLAMA3, NO_SYSTEM, PLAIN, QWEN, tokenizer_with

ADD = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
OPENAI = [
    {"role": "user", "content": "1+2?"},
    {"role": "assistant", "content": None, "tool_calls": [{"id": "call12345", "function": {"name": "add", "arguments": '{"a": 1}'}}]},
    {"role": "tool", "tool_call_id": "call12345", "name": "add", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]
SHAREGPT = [
    {"from": "human", "value": "1+2?"},
    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
    {"from": "observation", "value": "3"},
    {"from": "gpt", "value": "It is 3."},
]
TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]


def section(folder: Path, rows: list[dict[str, Any]], **data: Any) -> SftDataSection:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SftDataSection.model_validate({"path": str(path), "eval_samples": 0, "shuffle": False, **data})


def made(folder: Path, template: str | None, rows: list[dict[str, Any]], **data: Any) -> tuple[list[tuple[str, str]], DemonstrationCounts]:
    """The text and the imitated parts of each sequence, and the counts."""
    tokenizer = tokenizer_with(template)
    written = DemonstrationSource(section(folder, rows, **data), tokenizer, 0, folder / "out").write().train
    found = []
    for row in pa.ipc.open_file(str(written.path)).read_all().to_pylist():
        token_ids = np.array(row["token_ids"])
        found.append((str(tokenizer.decode(token_ids)), str(tokenizer.decode(token_ids[np.array(row["trained"])]))))
    return found, written.counts


def of_messages(folder: Path, template: str | None, *messages: object, **beside: Any) -> tuple[list[tuple[str, str]], DemonstrationCounts]:
    return made(folder, template, [{"messages": each, **beside} for each in messages], messages_column="messages")


@pytest.mark.parametrize("messages", [OPENAI, SHAREGPT, json.dumps(OPENAI)])
@pytest.mark.parametrize("beside", [{"tools": [ADD]}, {"tools": json.dumps([ADD])}, {"functions": [{"type": "function", "function": ADD}]}])
def test_only_the_assistants_turns_of_a_tool_conversation_are_trained(messages: object, beside: dict[str, Any], tmp_path: Path) -> None:
    [(text, imitated)], counts = of_messages(tmp_path, QWEN, messages, **beside)
    assert text.startswith("<|im_start|>system\n# Tools\n") and '"description": "adds"' in text
    assert imitated == '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call><|im_end|>It is 3.<|im_end|>'
    assert (counts.sequences, counts.not_rendered, counts.malformed) == (1, 0, 0)


def test_a_template_that_needs_null_and_text_gets_them(tmp_path: Path) -> None:
    [(_, imitated)], _ = of_messages(tmp_path, DEEPSEEK, OPENAI)
    assert imitated == 'CALL add\n{"a": 1}<｜end▁of▁sentence｜>It is 3.<｜end▁of▁sentence｜>'


def test_a_call_that_the_template_does_not_end_is_told(tmp_path: Path) -> None:
    template = DEEPSEEK.replace("{{- '<｜end▁of▁sentence｜>' -}}", "")
    [(_, imitated)], counts = of_messages(tmp_path, template, OPENAI)
    assert imitated.startswith('CALL add\n{"a": 1}It is 3.')
    (told,) = counts.noted
    assert "end calls with" in told and "engines stop there only if generation_config.json names it" in told
    assert not of_messages(tmp_path, DEEPSEEK, OPENAI)[1].noted and not of_messages(tmp_path, QWEN, OPENAI)[1].noted


@pytest.mark.parametrize(
    ("template", "messages", "beside", "missing"),
    [
        (DEEPSEEK, OPENAI, {"tools": [ADD]}, "tools"),
        (PLAIN, OPENAI, {}, "tool_calls"),
        (NO_SYSTEM, [TALK[0], {"role": "tool", "content": "3"}, TALK[1]], {}, "messages of the role 'tool'"),
        (QWEN, [TALK[0], {"role": "critic", "content": "bad"}, TALK[1]], {}, "messages of the role 'critic'"),
        (NO_SYSTEM, TALK, {"system_prompt": "Be kind."}, "the system message"),
    ],
)
def test_rows_of_which_the_template_leaves_out_a_part_are_left_out_by_name(
    template: str, messages: list[dict[str, Any]], beside: dict[str, Any], missing: str, tmp_path: Path
) -> None:
    rows = [{"messages": messages, **beside}, {"messages": TALK}]
    found, counts = made(tmp_path, template, rows, messages_column="messages")
    assert len(found) == counts.not_rendered == 1
    (told,) = left_out(section(tmp_path, rows), counts)
    assert "which the chat template does not render" in told and missing in told and "rows.jsonl:1" in told
    with pytest.raises(DataError, match="rows.jsonl:1: column 'messages' has .*, which the chat template does not render"):
        made(tmp_path, template, rows[:1], messages_column="messages")


def test_reasoning_is_trained_where_the_template_takes_it_and_told_where_not(tmp_path: Path) -> None:
    talk = [TALK[0], {**TALK[1], "reasoning_content": "Greet."}]
    [(_, imitated)], counts = of_messages(tmp_path, QWEN, talk)
    assert imitated == "<think>\nGreet.\n</think>\n\nHello.<|im_end|>" and not counts.noted
    [(_, imitated)], counts = of_messages(tmp_path, PLAIN, talk)
    assert imitated == "Hello.<|im_end|>"
    assert counts.noted == {"have reasoning_content, which the chat template does not render: it is not trained": 1}
    rows = [{"input": "Hi", "reasoning_content": "Greet.", "content": "Hello."}]
    [(_, imitated)], _ = made(tmp_path, QWEN, rows, prompt_column="input", completion_column="content")
    assert imitated == "<think>\nGreet.\n</think>\n\nHello.<|im_end|>", "a column of its own, as distilled data have it"


def test_a_row_with_two_system_messages_keeps_the_one_among_its_messages_and_says_so(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, *TALK]
    [(text, _)], counts = of_messages(tmp_path, PLAIN, talk, system_prompt="Be kind.")
    assert "Be brief." in text and "Be kind." not in text
    assert counts.noted == {"have a system message among their messages and another in column 'system_prompt', which is not used": 1}
    _, counts = of_messages(tmp_path, PLAIN, talk, system="Be brief.")
    assert not counts.noted, "the same twice is nothing to tell"


ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "Be kind.", "history": [["Hi", "Hello."]]}


def test_alpaca_rows_are_read_whole(tmp_path: Path) -> None:
    [(text, imitated)], _ = made(tmp_path, PLAIN, [ALPACA], prompt_column="instruction", completion_column="output")
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nAdd.\n1 2<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n"
    )
    assert imitated == "Hello.<|im_end|>3<|im_end|>", "answers of the history are imitated, as LLaMA-Factory does"
    renamed = {"columns": {"instruction": "prompt", "output": "completion"}}
    assert made(tmp_path, PLAIN, [ALPACA], **renamed)[0][0][0] == text, "the input belongs to the instruction under its new name, too"
    without = {**ALPACA, "input": "", "history": None, "system": ""}
    [(text, _)], _ = made(tmp_path, PLAIN, [without], prompt_column="instruction", completion_column="output")
    assert text.startswith("<|im_start|>user\nAdd.<|im_end|>")


def test_an_input_beside_another_column_is_no_part_of_the_prompt(tmp_path: Path) -> None:
    [(text, _)], _ = made(tmp_path, PLAIN, [{"prompt": "Add.", "input": "1 2", "completion": "3"}])
    assert "1 2" not in text


def test_columns_that_need_a_template_are_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its column 'system' needs a chat template and the tokenizer has none; set model.chat_template"):
        made(tmp_path, None, [ALPACA], prompt_column="instruction", completion_column="output")
    plain = {"instruction": "Add.", "input": "1 2", "output": "3"}
    [(text, _)], _ = made(tmp_path, None, [plain], prompt_column="instruction", completion_column="output")
    assert text == "Add.\n1 23</s>"


@pytest.mark.parametrize("key", [{"weight": 0}, {"loss": False}, {"train": False}])
def test_a_turn_that_its_row_takes_out_of_the_loss_is_not_imitated(key: dict[str, Any], tmp_path: Path) -> None:
    talk = [TALK[0], {**TALK[1], **key}, TALK[0], {**TALK[1], "content": "Hello again.", "weight": 1}]
    [(_, imitated)], _ = of_messages(tmp_path, PLAIN, talk)
    assert imitated == "Hello again.<|im_end|>"
    with pytest.raises(DataError, match="weight 0.5; a weight is 0 or 1"):
        of_messages(tmp_path, PLAIN, [TALK[0], {**TALK[1], "weight": 0.5}])


def test_an_end_token_in_the_data_is_not_written_twice(tmp_path: Path) -> None:
    for template, end in ((PLAIN, "<|im_end|>"), (LLAMA3, "<|eot_id|>")):
        [(_, imitated)], counts = made(tmp_path, template, [{"prompt": "Hi", "completion": f"Hello.{end}\n"}])
        assert imitated == f"Hello.{end}" and list(counts.noted) == [
            f"end answers with {end!r}, which the chat template writes itself: it is cut off"
        ]


def test_a_prompt_that_is_rendered_already_is_not_wrapped_again(tmp_path: Path) -> None:
    prompt = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    [(text, imitated)], counts = made(tmp_path, PLAIN, [{"prompt": prompt, "completion": "Hello."}])
    assert (text, imitated) == (f"{prompt}Hello.<|im_end|>", "Hello.<|im_end|>")
    assert list(counts.noted) == [
        "carry the chat template's '<|im_start|>' already and are taken as they are, with nothing wrapped around them"
    ]
    with pytest.raises(DataError, match="of a chat template, which would be wrapped a second time"):
        of_messages(tmp_path, PLAIN, [{"role": "user", "content": prompt}, TALK[1]])


def test_an_image_is_refused_by_name(tmp_path: Path) -> None:
    part = {"type": "image_url", "image_url": {"url": "x.png"}}
    with pytest.raises(DataError, match="has content of type 'image_url'"):
        of_messages(tmp_path, PLAIN, [{"role": "user", "content": [{"type": "text", "text": "Look"}, part]}, TALK[1]])
