"""What `--dry-run` and `rollcast data` say of the first rows, the tokenizer and the lengths, as a person runs them on a model's folder."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.inspection.first_checks import refuse_first, refuse_serving_first
from configs.contracts.errors import ConfigError, DataError, RollcastError
from configs.loading import load_config
from tests.actors.chat_templates import PLAIN, QWEN, tokenizer_with

CONFIG = {
    "model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 512,
    "max_position_embeddings": 4096, "architectures": ["Qwen2ForCausalLM"],
}  # fmt: skip
ROWS = [{"prompt": f"What is {n}+{n}?", "solution": str(2 * n), "completion": f"It is {2 * n}."} for n in range(11, 51)]


@pytest.fixture(autouse=True)
def as_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    logger = logging.getLogger("actors")
    level = logger.level
    yield
    logger.setLevel(level)  # `rollcast data` quiets it


def model_in(folder: Path, template: str | None = PLAIN, eos_token: str | None = None, **config: Any) -> Path:
    tokenizer_with(template, eos_token).save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps({**CONFIG, **config}))
    return folder / "model"


def arguments(folder: Path, rows: list[dict[str, Any]], model: Path, *settings: str) -> list[str]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"model.path={model}", f"data.path={path}", f"out_dir={folder}/run", *settings]


def shown(command: str, *settings: str) -> str:
    dry = [] if command == "data" else ["--dry-run"]
    result = CliRunner().invoke(app, [command, f"configs/quickstart{'_sft' * (command == 'sft')}.yaml", *settings, *dry])
    if isinstance(result.exception, RollcastError):
        raise result.exception
    return re.sub(r"\s+", " ", result.output)


GRPO = ("learner.warm_start=null", "data.eval_samples=4", "data.prompt_column=prompt")
SFT = ("data.completion_column=completion", "data.eval_samples=4")
COMMANDS = pytest.mark.parametrize("command", ["train", "data"])


@COMMANDS
def test_prompts_that_hold_their_answers_are_refused(command: str, tmp_path: Path) -> None:
    rows = [
        {**row, "messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in ROWS
    ]
    given = arguments(tmp_path, rows, model_in(tmp_path), *GRPO, "data.prompt_column=messages")
    with pytest.raises(
        DataError, match=r"rows.jsonl:\d+: column 'messages' ends with the assistant's message .*set data.final_answer: drop"
    ):
        shown(command, *given)
    assert "which is taken out (data.final_answer: drop)" in shown(command, *given, "data.final_answer=drop")


@COMMANDS
def test_answers_that_stand_in_prompts_are_told(command: str, tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"{row['prompt']} (Solution: {row['solution']})"} for row in ROWS]
    told = shown(command, *arguments(tmp_path, rows, model_in(tmp_path), *GRPO))
    assert "the answer in column 'solution' stands word for word in the prompt of" in told and "(100%)" in told
    assert "word for word" not in shown(command, *arguments(tmp_path, ROWS, model_in(tmp_path), *GRPO))


@pytest.mark.parametrize("model", ["folder", "builtin:tiny_qwen2"])
@COMMANDS
def test_rendered_prompts_are_told(command: str, model: str, tmp_path: Path) -> None:
    rows = [{**row, "prompt": f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"} for row in ROWS]
    path = model_in(tmp_path) if model == "folder" else Path(model)
    told = shown(command, *arguments(tmp_path, rows, path, *GRPO))
    assert "prompts that carry the chat template's '<|im_start|>' already and are taken as they are" in told


@pytest.mark.parametrize("command", ["train", "data", "sft"])
def test_an_end_token_that_is_another_is_told(command: str, tmp_path: Path) -> None:
    model = model_in(tmp_path, eos_token="</s>")
    given = arguments(tmp_path, ROWS, model, *(GRPO if command != "sft" else SFT))
    assert "set model.eos_token='<|im_end|>'" in shown(command, *given)
    assert "set model.eos_token" not in shown(command, *given, "model.eos_token=<|im_end|>")


@pytest.mark.parametrize("command", ["train", "data", "sft"])
def test_tokens_beyond_the_embedding_are_refused(command: str, tmp_path: Path) -> None:
    given = arguments(tmp_path, ROWS, model_in(tmp_path, vocab_size=258), *(GRPO if command != "sft" else SFT))
    with pytest.raises(DataError, match="tokens beyond the 258 rows of the model's embedding"):
        shown(command, *given)


@COMMANDS
def test_sequences_beyond_the_positions_are_refused(command: str, tmp_path: Path) -> None:
    long = ("actors.max_completion_length=500", "learner.token_budget=9000", "data.max_prompt_length=64")
    given = arguments(tmp_path, ROWS, model_in(tmp_path, max_position_embeddings=512), *GRPO, *long)
    with pytest.raises(ConfigError, match="are 564 tokens, and model.path .* has positions for 512"):
        shown(command, *given)
    scaled = model_in(tmp_path, max_position_embeddings=512, rope_scaling={"type": "linear", "factor": 2.0})
    assert shown(command, *arguments(tmp_path, ROWS, scaled, *GRPO, *long))


def test_runs_and_evaluations_are_refused_for_positions_before_anything(tmp_path: Path) -> None:
    model = model_in(tmp_path, max_position_embeddings=512)
    given = arguments(
        tmp_path, ROWS, model, *GRPO, "actors.max_completion_length=500", "learner.token_budget=9000", "data.max_prompt_length=64"
    )
    config = load_config("configs/quickstart.yaml", given)
    for check in (lambda: refuse_first(config, print), lambda: refuse_serving_first(config)):
        with pytest.raises(ConfigError, match="has positions for 512"):
            check()


def test_long_demonstrations_are_told(tmp_path: Path) -> None:
    given = arguments(tmp_path, ROWS, model_in(tmp_path, max_position_embeddings=512), *SFT)
    assert "data.max_length 600 is more than the 512 positions" in shown("sft", *given, "data.max_length=600", "learner.token_budget=2000")


def test_demonstrations_that_would_be_left_out_are_told(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]}
    talk = [{"role": "user", "content": "1+2?"}, call, {"role": "tool", "content": "3"}, {"role": "assistant", "content": "3"}]
    rows = [{"messages": talk}] + [{"messages": [talk[0], talk[3]]}] * 9
    given = arguments(tmp_path, rows, model_in(tmp_path), "data.messages_column=messages", "data.eval_samples=1")
    told = shown("sft", *given)
    assert "of the first 10 rows: rows left out, with tools or messages that the chat template does not render: 1 (the first: " in told
    assert "has tool_calls, which the chat template does not render" in told
    assert "rows left out" not in shown("sft", *arguments(tmp_path, rows, model_in(tmp_path, QWEN), *given[3:]))


@pytest.mark.parametrize("value", [ROWS[0]["prompt"], [{"role": "user", "content": "Hi"}]])
def test_conversations_without_a_template_are_refused_and_an_instruct_model_is_told(value: object, tmp_path: Path) -> None:
    model = model_in(tmp_path, None).rename(tmp_path / "mine-instruct")
    given = arguments(tmp_path, [{**row, "prompt": value} for row in ROWS], model, *GRPO)
    if isinstance(value, list):
        with pytest.raises(DataError, match="needs a chat template and the tokenizer has none; set model.chat_template"):
            shown("train", *given)
    else:
        assert "has no chat template, and the model is called one that follows instructions" in shown("train", *given)
