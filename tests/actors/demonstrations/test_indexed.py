"""Rows of demonstrations as tokens on disk: which are used, which are not and why, and that GRPO sees the same prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from actors.demonstrations.counting import left_out
from actors.demonstrations.indexed import DemonstrationFile, DemonstrationSource
from actors.prompts.indexed import IndexedPrompts
from configs.contracts.errors import DataError
from configs.contracts.records import DEMONSTRATION_SCHEMA
from configs.schema.run import DataSection
from configs.schema.sft import SftDataSection
from learner.model.tiny_model import build_tokenizer
from tests import REPOSITORY

TOKENIZER = build_tokenizer()
ROWS = [{"prompt": f"What is {i}?", "completion": f"<answer>{i}</answer>"} for i in range(40)]


def file_of(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write(
    folder: Path, rows: list[dict[str, Any]], *, tokenizer: Any = TOKENIZER, seed: int = 3, **data: Any
) -> tuple[DemonstrationFile, DemonstrationFile]:
    section = SftDataSection.model_validate({"path": str(file_of(folder, rows)), "eval_samples": 0, **data})
    found = DemonstrationSource(section, tokenizer, seed, folder / "out").write()
    return found.train, found.held_out


def texts(file: DemonstrationFile) -> list[str]:
    table = pa.ipc.open_file(pa.memory_map(str(file.path))).read_all()
    assert table.schema.equals(DEMONSTRATION_SCHEMA)
    return [str(TOKENIZER.decode(ids)) for ids in table["token_ids"].to_pylist()]


def test_held_out_rows_are_those_of_grpo_and_never_trained_on(tmp_path: Path) -> None:
    train, held_out = write(tmp_path, [*ROWS, *ROWS], eval_samples=10, train_samples=20)
    assert (held_out.counts.sequences, train.counts.sequences + train.counts.also_held_out) == (10, 20)
    assert train.counts.also_held_out > 0 and not set(texts(train)) & set(texts(held_out))
    prompts = IndexedPrompts(
        DataSection(path=str(tmp_path / "rows.jsonl"), eval_samples=10, train_samples=20), TOKENIZER, seed=3, folder=tmp_path
    )
    of_grpo = [prompt.text for prompt in prompts.eval_prompts()]
    assert [text.partition("<answer>")[0] for text in texts(held_out)] == of_grpo


def test_longer_sequences_are_left_out_or_cut_off(tmp_path: Path) -> None:
    rows = [*ROWS[:9], {"prompt": "Why?", "completion": "x" * 200}, {"prompt": "y" * 200, "completion": "no"}]
    train, _ = write(tmp_path, rows, max_length=100)
    assert (train.counts.rows, train.counts.sequences, train.counts.too_long, train.counts.without_answer) == (11, 9, 2, 0)
    cut, _ = write(tmp_path, rows, max_length=100, too_long="truncate")
    assert (cut.counts.sequences, cut.counts.too_long, cut.counts.without_answer, cut.counts.longest_tokens) == (10, 2, 1, 100)
    assert any("xxx" in text for text in texts(cut)) and not any("yyy" in text for text in texts(cut))


def test_counts_and_digest_tell_data_apart(tmp_path: Path) -> None:
    train, held_out = write(tmp_path, ROWS)
    assert held_out.counts.sequences == 0 and texts(held_out) == []
    table = pa.ipc.open_file(str(train.path)).read_all()
    assert train.counts.tokens == sum(map(len, table["token_ids"])) and train.counts.trained_tokens == sum(
        int(np.sum(row)) for row in table["trained"].to_pylist()
    )
    assert write(tmp_path, ROWS)[0].digest == train.digest
    assert write(tmp_path, [*ROWS[:-1], {"prompt": "What is 39?", "completion": "<answer>7</answer>"}])[0].digest != train.digest
    assert write(tmp_path, ROWS, train_samples=30)[0].digest != train.digest


def test_conversations_and_demonstrations_of_addition(tmp_path: Path) -> None:
    talks = [{"conversations": [{"from": "human", "value": f"{i}"}, {"from": "gpt", "value": "yes"}]} for i in range(4)]
    train, _ = write(tmp_path, talks, messages_column="conversations", system_prompt="Be kind")
    assert all(text.startswith("<|im_start|>system\nBe kind<|im_end|>") and "assistant\nyes<|im_end|>" in text for text in texts(train))
    addition = SftDataSection(path="builtin:addition", completion_column="demonstration", eval_samples=50)
    found = DemonstrationSource(addition, TOKENIZER, 0, tmp_path / "addition").write()
    assert (found.train.counts.sequences, found.held_out.counts.sequences) == (8050, 50)


def test_plain_text_without_a_template(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    train, _ = write(tmp_path, ROWS, tokenizer=tokenizer)
    assert texts(train)[0] == f"{ROWS[0]['prompt']}{ROWS[0]['completion']}<|im_end|>"
    table = pa.ipc.open_file(str(train.path)).read_all()
    assert sum(table["trained"][0].as_py()) == len(tokenizer(ROWS[0]["completion"])["input_ids"]) + 1
    talks = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    with pytest.raises(DataError, match="rows.jsonl:1: .*conversations need a chat template"):
        write(tmp_path, talks, tokenizer=tokenizer, messages_column="messages")


@pytest.mark.parametrize(
    ("rows", "data", "told"),
    [
        (ROWS, {"completion_column": "answer"}, "data.completion_column 'answer' is not in the data; the columns there are prompt, completion;"),
        ([{"messages": []}], {}, "for whole conversations set data.messages_column: messages"),
        ([{"prompt": "a", "completion": None}] * 2, {}, r"rows.jsonl:1: column 'prompt' holds None"),
        ([{"messages": []}] * 2, {"messages_column": "messages"}, r"rows.jsonl:1: column 'messages' holds \[\]; a conversation is a list"),
        ([{"messages": [{"role": "user", "content": "a"}]}], {"messages_column": "messages"}, "rows.jsonl:1: .*no message of the assistant"),
        (ROWS, {"max_length": 10}, "of the 40 rows of .* none is left to train on: 40 have more tokens than data.max_length 10"),
        (ROWS, {"train_samples": 41}, "has 40 rows, and 41 are wanted"),
        (ROWS, {"eval_samples": 40}, "has 40 rows, of which 40 are held out"),
        (ROWS, {"path": "builtin:sums"}, "builtin:sums does not exist"),
    ],
)  # fmt: skip
def test_unusable_data_are_refused(tmp_path: Path, rows: list[dict[str, Any]], data: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        write(tmp_path, rows, **data)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"prompt": "a", "completion": "b"}, "for a prompt and its completion set data.messages_column: null"),
        ({"conversations": []}, "for whole conversations set data.messages_column: conversations"),
        ({"text": "a"}, "it is unknown which part of a text is to be imitated"),
    ],
)
def test_rows_of_another_layout_name_the_key_that_fits(tmp_path: Path, row: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        write(tmp_path, [row], messages_column="messages")


TOOLS = """\
{%- if tools -%}{{- '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' -}}{%- endif -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] -}}
    {%- for call in message.tool_calls or [] -%}{{- 'call ' + call.function.name + (call.function.arguments | tojson) -}}{%- endfor -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
CALL = [
    {"from": "human", "value": "1+2?"},
    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'},
    {"from": "observation", "value": "3"},
    {"from": "gpt", "value": "It is 3."},
]
TALK = [{"from": "human", "value": "Hello?"}, {"from": "gpt", "value": "Hi."}]


def test_calls_and_results_of_tools_are_rendered_and_calls_imitated(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TOOLS
    rows = [{"conversations": CALL, "tools": '[{"name": "add"}]'}]
    train, _ = write(tmp_path, rows, tokenizer=tokenizer, messages_column="conversations")
    [text] = [str(tokenizer.decode(row)) for row in pa.ipc.open_file(str(train.path)).read_all()["token_ids"].to_pylist()]
    assert text.startswith('<|im_start|>system\n[{"type": "function", "function": {"name": "add"}}]<|im_end|>\n<|im_start|>user\n1+2?')
    assert 'assistant\ncall add{"a": 1}<|im_end|>\n<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\nIt is 3.<|im_end|>' in text
    table = pa.ipc.open_file(str(train.path)).read_all()
    imitated = [token for token, is_trained in zip(table["token_ids"][0].as_py(), table["trained"][0].as_py(), strict=True) if is_trained]
    assert tokenizer.decode(imitated) == 'call add{"a": 1}<|im_end|>It is 3.<|im_end|>'


def test_rows_that_the_template_or_nobody_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"conversations": CALL},
        {"conversations": TALK, "tools": [{"name": "add"}]},
        {"conversations": TALK[1:]},
        {"conversations": TALK},
    ]
    train, _ = write(tmp_path, rows, messages_column="conversations")
    counts = train.counts
    assert (counts.rows, counts.not_rendered, counts.without_answer, counts.sequences) == (4, 2, 1, 1)


def test_a_rows_own_system_message_comes_before_that_of_the_settings(tmp_path: Path) -> None:
    rows = [{"conversations": TALK, "system": "Be brief."}, {"conversations": TALK, "system": ""}]
    train, _ = write(tmp_path, rows, messages_column="conversations", system_prompt="Be kind.")
    found = [TOKENIZER.decode(row) for row in pa.ipc.open_file(str(train.path)).read_all()["token_ids"].to_pylist()]
    assert ["Be brief." in text for text in found] == [True, False] and ["Be kind." in text for text in found] == [False, True]


def test_a_call_that_is_no_json_is_refused(tmp_path: Path) -> None:
    rows = [{"conversations": [TALK[0], {"from": "function_call", "value": "add(1)"}]}]
    with pytest.raises(DataError, match=r"rows.jsonl:1: .*holds the call 'add\(1\)'; a call is JSON with `name` and `arguments`"):
        write(tmp_path, rows, messages_column="conversations")


ODD = [
    {"messages": []},
    {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "Be kind."}, {"role": "assistant", "content": "b"}]},
    {"messages": None},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": 3}]},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
]


def test_odd_conversations_are_left_out_and_counted_by_reason(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (REPOSITORY / "configs" / "templates" / "chatml.jinja").read_text()
    data: dict[str, Any] = {"messages_column": "messages"}
    counts = write(
        tmp_path, [{"messages": json.loads(json.dumps(row["messages"]))} for row in ODD[:3] + ODD[4:]], tokenizer=tokenizer, **data
    )[0].counts
    assert (counts.rows, counts.sequences, counts.malformed, counts.refused_by_template, counts.without_answer) == (4, 1, 2, 1, 0)
    malformed, refused = left_out(SftDataSection(path="rows", **data), counts)
    assert (
        malformed.startswith("rows left out, being malformed: 2 (the first: ") and "rows.jsonl:1: column 'messages' holds []" in malformed
    )
    assert refused.startswith("rows left out, which the chat template cannot render: 1 (the first: ") and "rows.jsonl:2: " in refused
    assert "a system message may only come first" in refused
    with pytest.raises(DataError, match=r"rows.jsonl:1: .*a system message may only come first"):
        write(tmp_path, ODD[1:2] * 2, tokenizer=tokenizer, **data)


@pytest.mark.parametrize("template", [TOKENIZER.chat_template, None])
def test_a_row_without_a_completion_is_left_out_and_counted(template: str | None, tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    rows = [*ROWS, {"prompt": "a", "completion": None}, {"prompt": "", "completion": "b"}]
    counts = write(tmp_path, rows, tokenizer=tokenizer)[0].counts
    assert (counts.rows, counts.sequences, counts.malformed) == (42, 40, 2) and "rows.jsonl:41: column 'prompt'" in counts.first_at[
        "malformed"
    ]
