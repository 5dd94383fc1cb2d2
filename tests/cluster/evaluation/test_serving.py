"""Serving without a learner: adapters from disk, the base model, and `rollcast compare` of them in one engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.models.base import TINY_MODEL, prepare_model
from cluster.models.peft_folders import able_to_serve, read_adapter
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from cluster.placement import Node, place, roles
from configs.contracts.errors import ConfigError, DataError
from configs.loading import dump_config
from configs.schema.run import RunConfig
from learner.model.tiny_model import build_tokenizer
from tests import REPOSITORY

MODELS = ["large", "small", "base", "half"]


def run_config(model: Path, **model_settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": str(model), "dtype": "float32", **model_settings},
            "data": {"path": "builtin:addition", "max_prompt_length": 96},
            "actors": {"gpus_per_worker": 0, "num_generations": 4, "max_completion_length": 16, "max_num_seqs": 16},
            "rewards": {"functions": [{"name": "accuracy", "params": {"answer_style": "answer_tag"}}], "graders_per_worker": 1},
            "learner": {"gpus_per_rank": 0, "train_batch_size": 8},
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from learner.model.tiny_model import create_tiny_model

    return create_tiny_model(tmp_path_factory.mktemp("served") / "model", seed=3)


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of different ranks, as PEFT saves them; `half` is the first in float16."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModelForCausalLM

    folders = {}
    for name, r, targets in (("small", 4, ["q_proj", "v_proj"]), ("large", 12, "all-linear")):
        torch.manual_seed(r)
        peft = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets))
        for parameter in (parameter for key, parameter in peft.named_parameters() if "lora_B" in key):
            torch.nn.init.normal_(parameter, std=0.15)
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        peft.save_pretrained(str(folders[name]))
    half = folders["half"] = tmp_path_factory.mktemp("adapters") / "half"
    half.mkdir()
    (half / "adapter_config.json").write_text((folders["small"] / "adapter_config.json").read_text())
    weights = load_file(folders["small"] / "adapter_model.safetensors")
    save_file({key: value.astype(np.float16) for key, value in weights.items()}, half / "adapter_model.safetensors")
    return folders


def greedy(model: Path, adapter: Path | None, prompt: Sequence[int], tokens: int) -> list[int]:
    """What transformers and PEFT make of a prompt, in float64."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(model)
    network = (PeftModel.from_pretrained(network, str(adapter)) if adapter else network).double().eval()
    token_ids = list(prompt)
    while len(token_ids) < len(prompt) + tokens and network.config.eos_token_id not in token_ids[len(prompt) :]:
        with torch.no_grad():
            token_ids.append(int(network(torch.tensor([token_ids])).logits[0, -1].argmax()))
    return token_ids[len(prompt) :]


@pytest.mark.slow
def test_models_are_compared_in_one_engine(model: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    """Every token of every model is that of transformers and PEFT; also the base model's, after an adapter of every module."""
    questions = [{"problem": f"What is {number}+{number}?", "solution": str(2 * number)} for number in (1, 20, 33)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (tmp_path / "run.yaml").write_text(dump_config(run_config(model)))
    arguments = ["run.yaml", *(f"{name}={adapters[name]}" for name in ("large", "small")), "base", f"half={adapters['half']}"]
    command = [sys.executable, "-m", "cluster", "compare", *arguments, "--data", "sums.jsonl", "-o", "out"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(tmp_path / "out" / "comparison.parquet").to_pylist()
    assert [(row["model"], row["prompt_id"]) for row in rows] == [(name, f"-2:{index}") for name in MODELS for index in range(3)]
    tokenizer = build_tokenizer()
    for row in rows:
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        folder = adapters.get(row["model"])
        assert row["completion_ids"] == greedy(model, folder, prompt, 16), row["model"]  # type: ignore[arg-type]
        assert row["policy_versions"] == [MODELS.index(row["model"])]
    said = {name: [row["completion"] for row in rows if row["model"] == name] for name in MODELS}
    assert said["half"] == said["small"] and len({*map(tuple, said.values())}) == 3, "otherwise the above could not fail"
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["models"]["base"] == str(model) and set(summary["sets"][0]["differences"]) == {"small", "base", "half"}
    assert (tmp_path / "out" / "comparison.html").stat().st_size > 5_000
    assert "less large" in done.stdout


def test_an_adapter_travels_as_it_is_saved(model: Path, adapters: dict[str, Path]) -> None:
    from safetensors.numpy import load_file

    adapter = read_adapter(run_config(model), adapters["small"], 5)
    saved = load_file(adapters["small"] / "adapter_model.safetensors")
    found = {slot.name: adapter.buffer[slot.start_byte : slot.end_byte].view("<f4").reshape(slot.shape) for slot in adapter.manifest.slots}
    assert found.keys() == saved.keys()
    assert all(np.array_equal(found[name], saved[name]) for name in saved)
    assert (adapter.manifest.version, adapter.manifest.r, adapter.manifest.alpha) == (5, 4, 8.0)


def test_bfloat16_travels_as_its_bytes_and_mixed_types_as_float32(model: Path, tmp_path: Path, adapters: dict[str, Path]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    exact = {name: tensor.bfloat16() for name, tensor in load_file(adapters["small"] / "adapter_model.safetensors").items()}
    (tmp_path / "adapter_config.json").write_text((adapters["small"] / "adapter_config.json").read_text())
    save_file(exact, tmp_path / "adapter_model.safetensors")
    adapter = read_adapter(run_config(model), tmp_path, 0)
    slot = adapter.manifest.slots[1]
    raw = torch.from_numpy(adapter.buffer[slot.start_byte : slot.end_byte].view(np.int16).copy()).view(torch.bfloat16).reshape(slot.shape)
    assert adapter.manifest.dtype == "bfloat16" and torch.equal(raw, exact[slot.name])
    other = next(name for name in exact if name != slot.name)
    save_file(exact | {other: exact[other].float()}, tmp_path / "adapter_model.safetensors")
    adapter = read_adapter(run_config(model), tmp_path, 0)
    slot = adapter.manifest.slots[1]
    wide = torch.from_numpy(adapter.buffer[slot.start_byte : slot.end_byte].view("<f4").copy()).reshape(slot.shape)
    assert adapter.manifest.dtype == "float32" and torch.equal(wide, exact[slot.name].float())


def test_engines_have_room_for_the_largest_adapter(model: Path, adapters: dict[str, Path]) -> None:
    assert able_to_serve(run_config(model), [None, adapters["small"], adapters["large"]]).model.lora.r == 12
    assert able_to_serve(run_config(model, adapter=str(adapters["large"])), [None]).model.adapter is None


def test_an_adapter_of_another_model_is_refused_before_anything_starts(model: Path, tmp_path: Path, adapters: dict[str, Path]) -> None:
    other = json.loads((model / "config.json").read_text()) | {"hidden_size": 256}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="is for another model than .*: .*has the shape"):
        able_to_serve(run_config(tmp_path), [adapters["small"]])


@pytest.mark.parametrize(
    "command",
    [
        "evaluate run.yaml --adapter {adapter}",
        "data pass-rate run.yaml model.adapter={adapter} -o rates.parquet",
    ],
)
def test_commands_doubt_a_base_with_other_weights_than_the_adapters(
    command: str, model: Path, adapters: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end at data of which every prompt is too long, before an engine starts."""
    from learner.model.tiny_model import create_tiny_model

    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "1+" * 5000, "solution": "2"}))
    other = create_tiny_model(tmp_path / "other", seed=4)
    for path, told in ((other, True), (model, False)):
        config = run_config(path)
        unusable = config.data.model_copy(update={"path": str(tmp_path / "long.jsonl")})
        (tmp_path / "run.yaml").write_text(dump_config(config.model_copy(update={"data": unusable})))
        result = CliRunner().invoke(app, command.format(adapter=adapters["small"]).split())
        assert isinstance(result.exception, DataError), result.output
        assert ("WARNING: the adapter" in result.output) == told


@pytest.mark.parametrize(("seed", "told"), [(4, True), (3, False)])
def test_a_run_doubts_a_base_that_was_made_with_other_weights(
    seed: int, told: bool, adapters: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of `train` and `sft`: a `builtin:` model is there only now."""
    config = run_config(Path(TINY_MODEL), adapter=str(adapters["small"])).model_copy(update={"seed": seed})
    directory = RunDirectory.open(tmp_path / "run", "none")
    try:
        assert prepare_model(config, directory, RunDisplay()) == str(tmp_path / "run" / "base_model")
    finally:
        directory.close()
    assert ("WARNING: the adapter" in capsys.readouterr().out) == told


def test_serving_needs_no_room_for_a_learner(model: Path) -> None:
    config = run_config(model)
    alone = place(config, [Node("here", cpus=2, gpus=0)], learner=False)
    assert alone.nodes == {"here": ("rollout 0", "reward 0")}
    assert (roles(config).cpus, roles(config, learner=False).cpus) == (3, 2)
