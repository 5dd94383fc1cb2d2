"""The base of a run: found by its settings, merged once, and refused when it is no longer what the run trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.models.adapter_base import Base, record_of
from cluster.models.base import base_of_settings, base_to_serve, prepare_model
from cluster.models.base_record import write_record
from cluster.output.checkpoint import Checkpoint
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from cluster.train.driver import require_base_of
from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from learner.model.tiny_model import create_tiny_model
from tests.cluster.evaluation.test_serving import run_config
from tests.cluster.models.test_merge import make_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one shape, and an adapter of the first with its record."""
    folder = tmp_path_factory.mktemp("base")
    found = {name: create_tiny_model(folder / name, seed) for seed, name in enumerate(("one", "two"))}
    return found | {"adapter": recorded(make_adapter(folder / "adapter", found["one"]), found["one"])}


def recorded(adapter: Path, base: Path) -> Path:
    write_record(adapter, record_of(Base(str(base)), str(base)))
    return adapter


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RunDirectory]:
    with RunDirectory.open(tmp_path / "run", "none") as directory:
        yield directory


def merging(model: Path | str, adapter: Path) -> RunConfig:
    return run_config(Path(model), adapter=str(adapter), merge_adapter=True)


def run_on(run: Path, base: Path, made: dict[str, Path]) -> Path:
    """A run's adapter, trained on `base`."""
    adapter = shutil.copytree(made["adapter"], run / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(base)}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    return recorded(adapter, base)


def test_a_run_trains_on_the_absolute_path_of_its_base(
    made: dict[str, Path], directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its adapters name the base by this path, also to commands that are given in another folder."""
    monkeypatch.chdir(made["one"].parent)
    assert prepare_model(run_config(Path("one")), directory, RunDisplay()) == str(made["one"])


def test_an_adapter_of_another_base_is_refused_before_a_run(made: dict[str, Path], directory: RunDirectory) -> None:
    with pytest.raises(ConfigError, match=f"was trained on {made['one']} with the weights .*, and {made['two']} has"):
        prepare_model(run_config(made["two"], adapter=str(made["adapter"])), directory, RunDisplay())
    with pytest.raises(ConfigError, match=f"set model.path to {made['one']}"):
        prepare_model(merging(made["two"], made["adapter"]), directory, RunDisplay())
    assert not (directory.path / "merged_model").exists()


def test_a_merged_base_belongs_to_its_adapter(made: dict[str, Path], directory: RunDirectory, tmp_path: Path) -> None:
    """An interrupted run that is started with another adapter does not go on with the merged model of the first."""
    merged = prepare_model(merging(made["one"], made["adapter"]), directory, RunDisplay())
    assert prepare_model(merging(made["one"], made["adapter"]), directory, RunDisplay()) == merged
    other = shutil.copytree(made["adapter"], tmp_path / "other")
    settings = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 2 * settings["lora_alpha"]}))
    with pytest.raises(ConfigError, match=f"model.adapter {other} is not the adapter that was merged into {merged}.*--resume none"):
        prepare_model(merging(made["one"], other), directory, RunDisplay())
    (merged_from := Path(merged) / "merged_from.json").unlink()
    assert prepare_model(merging(made["one"], other), directory, RunDisplay()) == merged, "a run of an older version goes on"
    assert not merged_from.exists()


def test_the_base_of_a_merged_run_is_the_model_before_the_merge(made: dict[str, Path], directory: RunDirectory, tmp_path: Path) -> None:
    base = shutil.copytree(made["one"], tmp_path / "base")
    config, run = merging(base, made["adapter"]), directory.path
    merged = Path(prepare_model(config, directory, RunDisplay()))
    trained = run_on(run, merged, made)
    assert base_of_settings(config, run, run).base.path == str(base)
    assert base_to_serve(config, None, run, run, insist=False).base.path == str(base)
    assert base_to_serve(config, trained, run, run, insist=False).base.path == str(merged)
    assert base_to_serve(config, made["adapter"], run, run, insist=True).base.path == str(base), "not the merged one, which has it already"
    for folder in ("model", "model_dequantised"):
        shutil.copytree(merged, run / folder)
    warm = config.learner.model_validate({"gpus_per_rank": 0, "train_batch_size": 8, "warm_start": {}})
    quantised = config.model.model_copy(update={"quantization": "nf4", "serve_quantized": "dequantized"})
    further = config.model_copy(update={"learner": warm, "model": quantised})
    assert base_of_settings(further, run, run).base.path == str(base), "these were made of the merged model"
    shutil.copyfile(made["two"] / "model.safetensors", base / "model.safetensors")
    with pytest.raises(ConfigError, match=f"{base} has other weights than when {merged} was made of it"):
        base_of_settings(config, run, run)


def test_the_base_of_a_run_must_be_the_one_that_it_trained_on(made: dict[str, Path], directory: RunDirectory, tmp_path: Path) -> None:
    base, run = shutil.copytree(made["one"], tmp_path / "base"), directory.path
    run_on(run, base, made)
    assert base_of_settings(run_config(base), run, run).base.path == str(base)
    assert base_of_settings(run_config(made["two"]), run, run).base.path == str(made["two"]), "another model.path was asked for"
    shutil.copyfile(made["two"] / "model.safetensors", base / "model.safetensors")
    with pytest.raises(ConfigError, match=f"was trained on {base} with the weights .*restore it"):
        base_of_settings(run_config(base), run, run)


def test_the_base_of_stages_is_that_of_the_first(made: dict[str, Path], directory: RunDirectory) -> None:
    """A `builtin:` model depends on the seed, and a stage may have a seed of its own."""
    few = directory.path / "1-few"
    shutil.copytree(made["two"], few / "base_model")
    config = run_config(Path("builtin:tiny_qwen2"), adapter="a", merge_adapter=True)
    staged = RunConfig.model_validate({**config.model_dump(exclude_unset=True), "stages": [{"name": "few", "seed": 5}, {"name": "all"}]})
    staged = staged.model_copy(update={"out_dir": directory.path})
    assert base_of_settings(staged, directory.path, directory.logs).base.path == str(few / "base_model")
    assert not (directory.path / "base_model").exists()
    assert base_to_serve(staged, None, directory.path, directory.logs, insist=False).base.path == str(few / "base_model")


def test_a_warm_started_base_that_is_gone_is_not_replaced_by_the_model_before(made: dict[str, Path], directory: RunDirectory) -> None:
    config, run = run_config(made["one"]), directory.path
    warm = config.learner.model_validate({"gpus_per_rank": 0, "train_batch_size": 8, "warm_start": {}})
    config = config.model_copy(update={"learner": warm})
    shutil.copytree(made["two"], run / "model")
    run_on(run, run / "model", made)
    shutil.rmtree(run / "model")
    with pytest.raises(ConfigError, match=f"was trained on {run}/model with the weights"):
        base_of_settings(config, run, run)


@pytest.mark.parametrize("folder", ["model", "model_dequantised"])
def test_the_base_of_a_run_may_lie_in_its_folder(folder: str, made: dict[str, Path], directory: RunDirectory) -> None:
    """A warm start or a quantisation makes it."""
    settings: dict[str, Any] = {"quantization": "nf4", "serve_quantized": "dequantized"} if folder == "model_dequantised" else {}
    config = run_config(made["one"], **settings)
    if folder == "model":
        warm = config.learner.model_validate({"gpus_per_rank": 0, "train_batch_size": 8, "warm_start": {}})
        config = config.model_copy(update={"learner": warm})
    run = directory.path
    shutil.copytree(made["two"], run / folder)
    (run / "config.yaml").write_text(json.dumps({"model": settings}))
    assert base_of_settings(config, run, run).base.path == str(run / folder)
    run_on(run, run / folder, made)
    assert base_of_settings(config, run, run).base.path == str(run / folder)
    shutil.copyfile(made["one"] / "model.safetensors", run / folder / "model.safetensors")
    with pytest.raises(ConfigError, match="on other weights it makes a model that nobody trained"):
        base_of_settings(config, run, run)


def test_a_run_is_not_resumed_on_a_base_that_has_changed(made: dict[str, Path], tmp_path: Path) -> None:
    base, served = (shutil.copytree(made["one"], tmp_path / name) for name in ("base", "served"))
    checkpoint = Checkpoint(tmp_path / "step-000001", {"step": 1})
    adapter = shutil.copytree(made["adapter"], checkpoint.learner_folder / "adapter")
    said: list[str] = []
    require_base_of(checkpoint, Base(str(base)), str(base), said.append)
    require_base_of(None, Base(str(made["two"])), str(made["two"]), said.append)
    assert said == []
    with pytest.raises(ConfigError, match=f"adapter {adapter} was trained on {made['one']}"):
        require_base_of(checkpoint, Base(str(made["two"])), str(made["two"]), said.append)
    shutil.copyfile(made["two"] / "model.safetensors", served / "model.safetensors")
    write_record(adapter, record_of(Base(str(base)), str(served)))
    require_base_of(checkpoint, Base(str(base)), str(served), said.append)
    shutil.copyfile(made["one"] / "model.safetensors", served / "model.safetensors")
    with pytest.raises(ConfigError, match=f"{served} has other weights than those that the engines served .*; remove the folder"):
        require_base_of(checkpoint, Base(str(base)), str(served), said.append)


def test_an_older_checkpoint_is_resumed_and_that_is_said(made: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "step-000001", {"step": 1})
    make_adapter(checkpoint.learner_folder / "adapter", made["one"])
    said: list[str] = []
    require_base_of(checkpoint, Base(str(made["one"])), str(made["one"]), said.append)
    assert len(said) == 1 and "is believed by the name" in said[0]
