"""`template_name` of MedicalGPT's script: which template a run gets, and where the model's own stands for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.recipes.conversion import Conversion
from configs.schema.sft import SftConfig
from tests.configs.recipes.test_sft_conversion import SMALL, become, convert_sft, refusal


def named(model: str | Path, name: str) -> Conversion[SftConfig]:
    return convert_sft(SMALL | {"model_name_or_path": str(model), "template_name": name})


@pytest.mark.parametrize(
    ("model", "name"),
    [("Qwen/Qwen2.5-3B-Instruct", "qwen"), ("/models/Qwen3-8B", "qwen3"), ("google/gemma-2-2b-it", "gemma"), ("01-ai/Yi-34B-Chat", "yi")],
)
def test_a_qwen_and_a_family_without_a_bundled_layout_keep_their_own_template(model: str, name: str) -> None:
    conversion = named(model, name)
    (told,) = become("template_name", conversion)
    assert told.startswith("the model's own chat template is used") and conversion.config.model.chat_template is None


@pytest.mark.parametrize(
    ("model", "name", "file"),
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "qwen", "chatml"),
        ("qwen_experiments/model", "qwen", "chatml"),
        ("Qwen/Qwen-7B-Chat", "qwen", "chatml"),
        ("/tmp/mistral_experiments/model", "mistral", "mistral"),
        ("mistralai/Mistral-7B-v0.1", "mistral", "mistral"),
        ("meta-llama/Meta-Llama-3-8B", "llama3", "llama3"),
        ("meta-llama/Llama-2-7b-hf", "llama2", "llama2"),
        ("lmsys/vicuna-7b-v1.5", "vicuna", "vicuna"),
    ],
)
def test_a_bundled_layout_is_used_whatever_the_models_name_is(model: str, name: str, file: str) -> None:
    assert named(model, name).config.model.chat_template == f"configs/templates/{file}.jinja"


@pytest.mark.parametrize(
    ("files", "own"),
    [
        ({"chat_template.jinja": "<|im_start|>{{ messages }}"}, True),
        ({"tokenizer_config.json": '{"chat_template": "<|im_start|>{{ messages }}"}'}, True),
        ({"tokenizer_config.json": '{"chat_template": "<｜User｜>{{ messages }}"}'}, False),
        ({"tokenizer_config.json": "{}"}, False),
        ({"tokenizer_config.json": "{"}, False),
        ({}, False),
    ],
)
def test_the_template_in_a_folder_decides_not_its_name(files: dict[str, str], own: bool, tmp_path: Path) -> None:
    for folder in (tmp_path / "Qwen2.5", tmp_path / "model"):
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        assert named(folder, "qwen").config.model.chat_template == (None if own else "configs/templates/chatml.jinja")


def test_a_name_in_a_folder_above_the_model_is_no_claim() -> None:
    assert "template_name: phoenix is not supported" in refusal(model_name_or_path="phoenix/model", template_name="phoenix")


@pytest.mark.parametrize(
    ("name", "file", "end"),
    [("vicuna", "vicuna", None), ("chatml", "chatml", "<|im_end|>"), ("llama3", "llama3", "<|eot_id|>")],
)
def test_a_template_of_another_family_is_taken_and_said_loudly(name: str, file: str, end: str | None) -> None:
    conversion = convert_sft(SMALL | {"template_name": name})
    model = conversion.config.model
    assert (model.chat_template, model.eos_token) == (f"configs/templates/{file}.jinja", end)
    (why,) = [row.why for row in conversion.rows if row.target == "model.chat_template"]
    assert why.startswith(f"NOT the model's own template, if it has one; answers end with {end or 'its end token'}. It is saved with the")
    assert f"GRPO too: model.chat_template=configs/templates/{file}.jinja" in why


def test_a_template_of_the_recipe_wins_over_a_name() -> None:
    conversion = convert_sft(SMALL | {"template_name": "vicuna", "chat_template": "{{ messages }}"})
    assert conversion.config.model.chat_template == "{{ messages }}" and become("template_name", conversion) == {"chat_template wins"}
    conversion = convert_sft(SMALL | {"template_name": "llama3", "eos_token": "<|end_of_text|>"})
    assert conversion.config.model.eos_token == "<|end_of_text|>"
