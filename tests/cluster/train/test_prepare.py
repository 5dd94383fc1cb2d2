"""What a run is refused for by what it finds on disk, before Ray starts: the real commands' functions, a real model folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.models.adapter_base import Base, record_of
from cluster.models.base_record import write_record
from cluster.output import checkpoint
from cluster.train.grpo import run_training
from cluster.train.sft import run_sft
from configs.contracts.errors import CheckpointError, ConfigError
from configs.loading import load_config, load_sft_config
from learner.model.tiny_model import create_tiny_model
from tests.cluster.models.test_merge import make_adapter


def train(*overrides: str) -> Mapping[str, Any]:
    return run_training(load_config("configs/quickstart.yaml", ["learner.warm_start=null", *overrides]))


def sft(*overrides: str) -> Mapping[str, Any]:
    return run_sft(load_sft_config(Path("configs/quickstart_sft.yaml"), list(overrides)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_tiny_model(tmp_path_factory.mktemp("prepare") / "model", seed=0)


@pytest.mark.parametrize("command", [train, sft])
def test_a_model_that_is_quantised_already_is_refused(command: Callable[..., Any], model: Path, tmp_path: Path) -> None:
    published = tmp_path / "awq"
    shutil.copytree(model, published)
    settings = json.loads((published / "config.json").read_text())
    (published / "config.json").write_text(json.dumps({**settings, "quantization_config": {"quant_method": "awq", "bits": 4}}))
    with pytest.raises(ConfigError, match=r"awq is quantised already \(awq in its config.json\).*; give the original model"):
        command(f"model.path={published}", f"out_dir={tmp_path / 'run'}")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.path=nobody/nothing", "model.path builtin:tiny_qwen2, but this run has nobody/nothing"),
        ("model.quantization=nf4", "model.quantization none, but this run has nf4"),
        ("model.lora.alpha=5", "model.lora.alpha 32.0, but this run has 5.0"),
    ],
)
def test_another_model_than_the_checkpoints_is_refused_and_nothing_is_touched(override: str, told: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    identity = load_config("configs/quickstart.yaml", []).model.identity
    run.mkdir()
    checkpoint.finish(checkpoint.begin(run / "checkpoints", 3), {"step": 3, "identity": identity}, None)
    (run / "config.yaml").write_text("the run's own")
    with pytest.raises(CheckpointError, match=f"step-000003 was made with {told}: keep"):
        train(override, f"out_dir={run}")
    assert (run / "config.yaml").read_text() == "the run's own" and not (run / "summary.json").exists()


def test_a_run_whose_base_has_changed_is_not_resumed(model: Path, tmp_path: Path) -> None:
    """It ends before Ray starts."""
    base = shutil.copytree(model, tmp_path / "base")
    settings = (f"model.path={base}", f"out_dir={tmp_path / 'run'}", "learner.max_steps=9")
    identity = load_config("configs/quickstart.yaml", ["learner.warm_start=null", *settings]).model.identity
    (tmp_path / "run").mkdir()
    folder = checkpoint.begin(tmp_path / "run" / "checkpoints", 3)
    write_record(make_adapter(folder / "learner" / "adapter", base), record_of(Base(str(base)), str(base)))
    checkpoint.finish(folder, {"step": 3, "identity": identity}, None)
    shutil.copyfile(create_tiny_model(tmp_path / "other", seed=1) / "model.safetensors", base / "model.safetensors")
    with pytest.raises(ConfigError, match=f"step-000003/learner/adapter was trained on {base} with the weights .*restore it"):
        train(*settings)
