"""What a comparison may be of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.comparison.compared_models import ComparedModel, config_without_file, read_arguments
from cluster.models.tokenizers import chat_template_of, refuse_other_tokenizer
from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from learner.model.tiny_model import build_tokenizer

DATA = ["evaluation.data=[gsm8k]"]


def adapter(folder: Path, base: str = "some/base", **more: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "base_model_name_or_path": base}))
    for name, text in more.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def test_the_command_line_is_read_in_any_order(tmp_path: Path) -> None:
    sft, run = adapter(tmp_path / "sft"), adapter(tmp_path / "run" / "adapter")
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}")
    found = read_arguments(
        ["run.yaml", "base", f"sft={sft}", "actors.top_p=0.9", f"grpo={run.parent}", f"whole={tmp_path / 'whole'}", "seed=3"]
    )
    assert found.config == "run.yaml" and found.overrides == ["actors.top_p=0.9", "seed=3"]
    assert found.models == [
        ComparedModel("base"), ComparedModel("sft", adapter=sft), ComparedModel("grpo", adapter=run), ComparedModel("whole", model=tmp_path / "whole")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run.yaml"], "no model to compare is named"),
        (["base", "base"], "base is named twice"),
        (["one.yaml", "two.yaml", "base"], "one.yaml and two.yaml: only one file or run directory"),
        (["sft=nowhere"], "nowhere holds neither an adapter .* nor a model .* nor a finished run"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read_arguments(arguments)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    sft = adapter(tmp_path / "sft")
    with pytest.raises(ConfigError, match="sft is named twice"):
        read_arguments([f"sft={sft}", f"sft={sft}"])


def test_without_a_file_the_adapters_say_the_base_model(tmp_path: Path) -> None:
    one, two = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    config = config_without_file([ComparedModel("base"), ComparedModel("one", adapter=one), ComparedModel("two", adapter=two)], DATA)
    assert config.model.path == "some/base" and config.evaluation.data == ("gsm8k",)
    other = adapter(tmp_path / "other", base="another/base")
    both = [ComparedModel("one", adapter=one), ComparedModel("other", adapter=other)]
    assert config_without_file(both, DATA).model.path == "some/base", "each is served on its own"
    with pytest.raises(ConfigError, match="base is named, but one is an adapter of some/base, and other of another/base"):
        config_without_file([*both, ComparedModel("base")], DATA)
    with pytest.raises(ConfigError, match="only base is named, and nothing says which model that is"):
        config_without_file([ComparedModel("base")], DATA)
    with pytest.raises(ConfigError, match="no data set is named"):
        config_without_file([ComparedModel("one", adapter=one)], [])


def test_all_are_asked_by_one_chat_template(tmp_path: Path) -> None:
    def config(**model: Any) -> RunConfig:
        return RunConfig.model_validate({"model": {"path": "m", **model}, "data": {"path": "d"}})

    plain = adapter(tmp_path / "plain")
    first = adapter(tmp_path / "first", chat_template__jinja="{{ 1 }}")
    again = adapter(tmp_path / "again", tokenizer_config__json=json.dumps({"chat_template": "{{ 1 }}"}))
    other = adapter(tmp_path / "other", chat_template__jinja="{{ 2 }}")
    assert chat_template_of(config(), [plain]) is None
    assert chat_template_of(config(), [plain, first, again]) == "{{ 1 }}"
    with pytest.raises(ConfigError, match="first and .*other are saved with different chat templates"):
        chat_template_of(config(), [first, other])
    assert chat_template_of(config(chat_template="{{ 3 }}"), [first, other]) == "{{ 3 }}"


def test_other_tokenizers_are_refused_with_what_differs() -> None:
    from transformers import Qwen2Tokenizer

    same, more, moved = build_tokenizer(), build_tokenizer(), build_tokenizer()
    refuse_other_tokenizer("b", same, "a", build_tokenizer())
    more.add_tokens(["<new>"])
    more.eos_token = "<|endoftext|>"
    with pytest.raises(ConfigError) as refusal:
        refuse_other_tokenizer("b", more, "a", same)
    assert "b has another tokenizer than a: 1 entries are in b and not in a ('<new>')" in str(refusal.value)
    assert "the end token is '<|endoftext|>' in b and '<|im_end|>' in a" in str(refusal.value)
    vocabulary = same.get_vocab()
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    moved = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>", eos_token="<|im_end|>")
    with pytest.raises(ConfigError, match=r"2 entries have other numbers \('A' is \d+ in b and \d+ in a\)"):
        refuse_other_tokenizer("b", moved, "a", same)


def test_tokenizers_that_cut_differently_are_refused() -> None:
    from transformers import Qwen2Tokenizer

    same = build_tokenizer()
    vocabulary = same.get_vocab() | {"Th": 128}
    merges: Any = [("T", "h")]
    merging = Qwen2Tokenizer(vocab=vocabulary, merges=merges, unk_token="<|endoftext|>", eos_token="<|im_end|>")
    plain = Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="<|endoftext|>", eos_token="<|im_end|>")
    with pytest.raises(ConfigError, match="they split the same text differently"):
        refuse_other_tokenizer("b", merging, "a", plain)
