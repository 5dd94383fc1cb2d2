"""A merged folder computes what base and adapter compute, is whole or not there, and is made of nothing that does not fit.

The arithmetic is tested in this process; the command once in its own.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.models.merge import find_source, merge_adapter
from configs.contracts.errors import AdapterError, ConfigError
from configs.loading import dump_config, load_config
from learner.model.merging import MergeJob, MergeOutcome, computing_in_float32, merge
from tests import REPOSITORY

R, ALPHA = 8, 16
PREFIX = "base_model.model."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from learner.model.tiny_model import create_tiny_model

    return create_tiny_model(tmp_path_factory.mktemp("merge") / "base", seed=0)


@pytest.fixture(scope="module")
def untied(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head of its own, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("merge") / "untied"
    config = AutoModelForCausalLM.from_pretrained(base).config
    config.tie_word_embeddings = False
    torch.manual_seed(3)
    model: Any = Qwen2ForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def make_adapter(folder: Path, base: Path, *, use_rslora: bool = False, template: str | None = None, eos_token: str | None = None) -> Path:
    """An adapter on every linear layer that changes log-probabilities by a few tenths of a nat, with the tokenizer beside it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lora = LoraConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM", use_rslora=use_rslora)
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.03)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.eos_token = eos_token or tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("merge") / "adapter", base)


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Every tensor in float32, under its name."""
    from safetensors.torch import load_file as load_torch

    return {name: tensor.float().numpy() for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_torch(file).items()}


def by_hand(base: Path, adapter: Path, scale: float) -> dict[str, np.ndarray]:
    """W + scale B A in float64, from the files alone."""
    merged = {name: value.astype(np.float64) for name, value in weights(base).items()}
    lora = weights(adapter)
    for name in [name for name in lora if ".lora_A." in name]:
        update = lora[name.replace("lora_A", "lora_B")].astype(np.float64) @ lora[name].astype(np.float64)
        merged[name.removeprefix(PREFIX).replace(".lora_A.weight", ".weight")] += scale * update
    return merged


ROUNDED_ONCE = {
    "float32": 1e-5,  # the order of a sum of 8 products, of which some cancel
    "float16": 2**-11 * 1.01,  # half of the last of 11 bits, and the same order of sums
    "bfloat16": 2**-8 * 1.01,  # half of the last of 8 bits: rounding the update too would come to more
}
"""Largest relative error of a merged weight."""


def assert_rounded_once(merged: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str) -> None:
    assert merged.keys() == expected.keys(), "tied embeddings are stored once"
    for name, value in expected.items():
        np.testing.assert_allclose(merged[name], value, rtol=ROUNDED_ONCE[dtype], atol=1e-7, err_msg=name)


@pytest.mark.parametrize(("dtype", "use_rslora"), [("float32", True), ("float16", False)])
def test_weights_are_the_base_and_the_update_rounded_once(base: Path, tmp_path: Path, dtype: str, use_rslora: bool) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, use_rslora=use_rslora)
    outcome = merge(MergeJob(adapter, str(base), tmp_path / "merged", dtype))
    expected = by_hand(base, adapter, ALPHA / (R**0.5 if use_rslora else R))
    assert_rounded_once(weights(tmp_path / "merged"), expected, dtype)
    assert outcome.modules == 21
    assert outcome.parameters == sum(value.size for value in expected.values())
    assert outcome.mean_effect > 0.1


def test_a_bfloat16_base_with_a_head_of_its_own(untied: Path, tmp_path: Path) -> None:
    """The sum is made in float32 there too, and what the adapter is not on stays bit by bit."""
    adapter = make_adapter(tmp_path / "adapter", untied)
    merge(MergeJob(adapter, str(untied), tmp_path / "merged"))
    merged = weights(tmp_path / "merged")
    assert_rounded_once(merged, by_hand(untied, adapter, ALPHA / R), "bfloat16")
    np.testing.assert_array_equal(merged["lm_head.weight"], weights(untied)["lm_head.weight"])


def test_the_folder_can_be_served(base: Path, tmp_path: Path) -> None:
    """What transformers load without further settings: precision, end tokens, and the template that was trained with."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    template = "{% for message in messages %}<|im_start|>{{ message['content'] }}{% endfor %}"
    adapter = make_adapter(tmp_path / "adapter", base, template=template)
    merge(MergeJob(adapter, str(base), tmp_path / "merged"))
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert str(model.dtype) == "torch.bfloat16"
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == 2
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == template


def test_the_folder_ends_answers_as_the_adapter_was_trained_to(base: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    adapter = make_adapter(tmp_path / "adapter", base, eos_token="<think>")
    merge(MergeJob(adapter, str(base), tmp_path / "merged"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.eos_token == "<think>" and tokenizer.eos_token_id != 2
    assert GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id == [2, tokenizer.eos_token_id]


def test_the_check_is_by_the_given_texts_and_in_float32(untied: Path, tmp_path: Path) -> None:
    """In bfloat16 the activations alone would differ by more than what is measured here."""
    adapter = make_adapter(tmp_path / "adapter", untied)
    outcome = merge(MergeJob(adapter, str(untied), tmp_path / "merged", "float32", texts=("What is 1+1?", "2")))
    assert outcome.checked_tokens == len("What is 1+1?") - 1
    assert outcome.max_difference < 1e-5


def test_weights_are_the_same_tensors_after_computing_in_float32(untied: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(untied)
    before = [(parameter.data_ptr(), parameter.dtype) for parameter in model.parameters()]
    with computing_in_float32(model), torch.no_grad():
        assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.dtype == torch.float32
    assert [(parameter.data_ptr(), parameter.dtype) for parameter in model.parameters()] == before


def test_a_merge_that_is_not_the_adapted_model_is_refused(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another scale than the adapter's: here PEFT's own arithmetic is made wrong by half."""
    from peft.tuners.lora.layer import Linear

    whole = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: 0.5 * whole(self, name))
    with pytest.raises(AdapterError, match="bfloat16 allows 0.05 and 1"):
        merge(MergeJob(adapter, str(base), tmp_path / "merged"))


def test_rounding_that_undoes_training_is_noticed() -> None:
    """A learning rate of 1e-6 changes weights by less than bfloat16 can hold."""
    facts = {"parameters": 1, "nbytes": 2, "modules": 1, "checked_tokens": 9, "max_difference": 0.1}
    assert MergeOutcome(mean_difference=0.01, mean_effect=0.015, **facts).rounding_drowns_the_adapter
    assert not MergeOutcome(mean_difference=0.01, mean_effect=0.2, **facts).rounding_drowns_the_adapter


def test_the_command_says_sizes_and_differences(adapter: Path, tmp_path: Path) -> None:
    found = run_command(str(adapter), "-o", str(tmp_path / "out"))
    assert found.returncode == 0, found.stderr
    for said in ("merged: 21 modules; 0.6 M parameters in bfloat16, 1.2 MB", "nats on average", f"folder: {tmp_path / 'out'}"):
        assert said in found.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert [file.name for file in tmp_path.iterdir()] == ["out"] and "WARNING: the adapter" not in found.stdout
    again = run_command(str(adapter), "-o", str(tmp_path / "out"))
    assert again.returncode == 2
    assert "exists and is not empty" in again.stderr and "--overwrite" in again.stderr


def test_a_base_with_other_weights_than_the_adapters_is_doubted(adapter: Path, tmp_path: Path) -> None:
    from learner.model.tiny_model import create_tiny_model

    other = create_tiny_model(tmp_path / "other", seed=1)
    found = run_command(str(adapter), "--base", str(other), "-o", str(tmp_path / "out"))
    assert found.returncode == 0, found.stderr
    assert f"WARNING: the adapter {adapter} was trained on" in found.stdout and f"whose weights are not those of {other}" in found.stdout


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cluster", "merge", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )


def test_what_fails_leaves_nothing_and_keeps_what_was_there(base: Path, adapter: Path, tmp_path: Path) -> None:
    """float16 has no number for such weights, which only the check of the written folder notices."""
    large = shutil.copytree(adapter, tmp_path / "large")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({name: value * 1e4 for name, value in tensors.items()}, large / "adapter_model.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(AdapterError, match="nats on average and nan at most"):
        merge_adapter(find_source(large), tmp_path / "out", dtype="float16", overwrite=True)
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["large", "out"]


def test_a_base_that_cannot_be_loaded(base: Path, adapter: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(base, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="the base model .*broken cannot be loaded"):
        merge(MergeJob(adapter, str(broken), tmp_path / "out"))


def refusal(adapter: Path, base: str | None, output: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        merge_adapter(find_source(adapter, base), output)
    assert not output.exists()
    return str(caught.value)


def renamed(adapter: Path, folder: Path, **settings: Any) -> Path:
    shutil.copytree(adapter, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


def test_an_adapter_of_another_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    named = renamed(adapter, tmp_path / "named", base_model_name_or_path="Qwen/Qwen2.5-1.5B-Instruct")
    assert "is for another model than Qwen/Qwen2.5-1.5B-Instruct" in refusal(named, "Qwen/Qwen2.5-1.5B-Instruct", tmp_path / "out")
    tensors = load_file(adapter / "adapter_model.safetensors")
    wide = renamed(adapter, tmp_path / "wide")
    save_file(
        {name: np.tile(value, 2) if "lora_A" in name else value for name, value in tensors.items()}, wide / "adapter_model.safetensors"
    )
    assert "is for another model" in refusal(wide, str(base), tmp_path / "out")


def test_a_base_of_another_name_is_refused(adapter: Path, tmp_path: Path) -> None:
    named = renamed(adapter, tmp_path / "named", base_model_name_or_path="someone/model-a")
    assert "was trained on someone/model-a, and --base is someone/model-b" in refusal(named, "someone/model-b", tmp_path / "out")


@pytest.mark.parametrize(("settings", "told"), [({"use_dora": True}, "use_dora"), ({"peft_type": "IA3"}, "IA3")])
def test_what_is_no_plain_lora_is_refused(adapter: Path, tmp_path: Path, settings: dict[str, Any], told: str) -> None:
    assert told in refusal(renamed(adapter, tmp_path / "other", **settings), None, tmp_path / "out")


def test_an_adapter_with_layers_that_the_base_has_not_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Where the shape of the base cannot be known before it is loaded."""
    deeper = renamed(adapter, tmp_path / "deeper")
    tensors = load_file(adapter / "adapter_model.safetensors")
    extra = {name.replace("layers.0.", "layers.7."): value for name, value in tensors.items() if "layers.0." in name}
    save_file(tensors | extra, deeper / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit .*layers\.7\."):
        merge(MergeJob(deeper, str(base), tmp_path / "out"))


def test_a_quantised_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    quantised = shutil.copytree(base, tmp_path / "quantised")
    config = json.loads((base / "config.json").read_text())
    (quantised / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}})
    )
    assert "is quantised" in refusal(adapter, str(quantised), tmp_path / "out")


def test_the_adapter_and_the_base_are_not_overwritten(base: Path, adapter: Path) -> None:
    for folder in (adapter, base, adapter.parent):
        with pytest.raises(ConfigError, match="would be overwritten"):
            merge_adapter(find_source(adapter, str(base)), folder, overwrite=True)
    assert (adapter / "adapter_config.json").exists() and (base / "config.json").exists()


def test_a_full_disk_is_said_before_anything_is_written(base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(ConfigError, match=r"0\.0 GB left, and the merged model takes"):
        merge(MergeJob(adapter, str(base), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def run_of(adapter: Path, folder: Path, named: str, *settings: str) -> Path:
    """A run's directory whose learner loaded the model `named`."""
    renamed(adapter, folder / "adapter", base_model_name_or_path=named)
    (folder / "config.yaml").write_text(dump_config(load_config(REPOSITORY / "configs" / "quickstart.yaml", settings)))
    return folder


def test_a_run_is_merged_into_the_model_that_it_trained(adapter: Path, tmp_path: Path) -> None:
    hub = "Qwen/Qwen2.5-0.5B"
    source = find_source(run_of(adapter, tmp_path / "run", hub, f"model.path={hub}", "model.revision=v1", "learner.warm_start=null"))
    assert (source.base, source.revision) == (hub, "v1")
    assert (source.adapter, source.output) == (tmp_path / "run" / "adapter", tmp_path / "run" / "merged")
    with pytest.raises(ConfigError, match="was trained on Qwen/Qwen2.5-0.5B, and --base is other/base"):
        find_source(tmp_path / "run", "other/base")


def test_a_run_that_was_moved(adapter: Path, tmp_path: Path) -> None:
    run = run_of(adapter, tmp_path / "now", str(tmp_path / "before" / "model"))
    with pytest.raises(ConfigError, match=r"no folder of this machine; give it with --base"):
        find_source(run)
    (run / "model").mkdir()
    assert find_source(run).base == str(run / "model")


def test_a_run_that_served_a_dequantised_model(adapter: Path, base: Path, tmp_path: Path) -> None:
    run = run_of(adapter, tmp_path / "run", str(base), "model.quantization=nf4", "model.serve_quantized=dequantized")
    with pytest.raises(
        ConfigError, match=rf"served {run}/model_dequantised, which is gone: .*; to use the unquantised ones, set --base to {base}"
    ):
        find_source(run)
    (run / "model_dequantised").mkdir()
    source = find_source(run)
    assert source.base == str(run / "model_dequantised") and "--base merges into the original" in source.notes[-1]
    assert find_source(run, str(base)).base == str(base)


def test_what_is_neither_a_run_nor_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a run directory"):
        find_source(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {path: x}\n")
    with pytest.raises(ConfigError, match="has no adapter yet"):
        find_source(tmp_path)
