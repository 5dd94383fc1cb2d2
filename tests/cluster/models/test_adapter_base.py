"""An adapter goes on the base that it was trained on: by the digest of its weights, wherever that lies, or not at all.

Adapters are made by PEFT on the quickstart's model. `trained` gives one the record that a run writes.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.__main__ import app
from cluster.inspection import dry_run as dry_run_module
from cluster.models import weights_digest as weights_digest_module
from cluster.models.adapter_base import Base, find_base, is_hub_id, record_of, run_of
from cluster.models.base_record import BaseRecord, read_record, write_record
from cluster.models.weights_digest import weights_digest
from configs.contracts.errors import ConfigError
from learner.model.tiny_model import create_tiny_model
from tests.cluster.models.test_merge import make_adapter

A, B = "a" * 40, "b" * 40
"""Two commits."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one shape, and an adapter of the first."""
    folder = tmp_path_factory.mktemp("bases")
    found = {name: create_tiny_model(folder / name, seed) for seed, name in enumerate(("one", "two"))}
    return found | {"adapter": make_adapter(folder / "adapter", found["one"])}


def trained(folder: Path, models: dict[str, Path], named: str | Path, record: BaseRecord | None) -> Path:
    """The adapter in `folder`, which names `named` as its base."""
    shutil.copytree(models["adapter"], folder)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(named)}))
    if record is not None:
        write_record(folder, record)
    return folder


def run_with(folder: Path, text: str = "model: {path: x}\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(text)
    return folder


def refusal(adapter: Path, offered: Base | None = None, *, insist: bool = False) -> str:
    with pytest.raises(ConfigError) as caught:
        find_base(adapter, offered, insist=insist)
    return str(caught.value)


@pytest.fixture
def own(models: dict[str, Path]) -> BaseRecord:
    return record_of(Base(str(models["one"])), str(models["one"]))


def test_the_record_is_of_the_weights_that_were_loaded(models: dict[str, Path], own: BaseRecord) -> None:
    assert own == BaseRecord(weights_digest(models["one"]))
    served = record_of(Base(str(models["one"])), str(models["two"]))
    assert served == BaseRecord(weights_digest(models["one"]), weights_digest(models["two"]))


def test_the_base_that_it_names_comes_before_the_one_that_is_offered(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", models, models["one"], own)
    for offered in (None, Base(str(models["two"])), Base(str(models["one"]))):
        found = find_base(adapter, offered)
        assert (found.base, found.note) == (Base(str(models["one"])), "")


def test_a_base_of_other_weights_is_refused_where_it_was_named_expressly(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", models, models["one"], own)
    told = refusal(adapter, Base(str(models["two"])), insist=True)
    digests = [(weights_digest(models[name]) or "")[:12] for name in ("one", "two")]
    assert f"adapter {adapter} was trained on {models['one']} with the weights {digests[0]}…, and {models['two']} has {digests[1]}…" in told
    assert told.endswith(f"; set model.path to {models['one']}, or leave it out")


@pytest.mark.parametrize("command", ["train", "sft"])
def test_a_dry_run_compares_the_base_as_the_run_does(
    command: str, models: dict[str, Path], own: BaseRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    adapter = trained(tmp_path / "adapter", models, models["one"], own)
    configuration = f"configs/quickstart{'_sft' * (command == 'sft')}.yaml"
    warm = ["learner.warm_start=null"] * (command == "train")

    def dry_run(model: Path) -> Result:
        return CliRunner(env={"COLUMNS": "400"}).invoke(
            app, [command, configuration, f"model.path={model}", f"model.adapter={adapter}", "model.lora={}", *warm, "--dry-run"]
        )

    assert f"{models['one']} has the weights that it was trained on" in dry_run(models["one"]).output
    error = dry_run(models["two"]).exception
    assert isinstance(error, ConfigError) and "was trained on" in str(error)
    for module in (dry_run_module, weights_digest_module):
        monkeypatch.setattr(module, "CACHED_FROM_BYTES", 1000)
    assert re.search("not compared, which would read [0-9.]+ [KM]iB", dry_run(models["two"]).output)
    weights_digest_module._kept_digest.cache_clear()
    for name in ("one", "two"):  # now they are kept
        weights_digest(models[name])
    assert isinstance(dry_run(models["two"]).exception, ConfigError)


def test_a_copy_is_the_same_base_whatever_its_name(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    """Also where the folder that the adapter names is gone."""
    copy = shutil.copytree(models["one"], tmp_path / "another name")
    adapter = trained(tmp_path / "adapter", models, tmp_path / "gone", own)
    for insist in (True, False):
        found = find_base(adapter, Base(str(copy)), insist=insist)
        assert (found.base.path, found.note) == (str(copy), "")


def test_a_base_that_changed_on_disk_is_refused(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    base = shutil.copytree(models["one"], tmp_path / "base")
    adapter = trained(tmp_path / "adapter", models, base, own)
    assert find_base(adapter).base.path == str(base)
    shutil.copyfile(models["two"] / "model.safetensors", base / "model.safetensors")
    for told in (refusal(adapter), refusal(adapter, Base(str(base)), insist=True)):
        assert (
            f"was trained on {base} with the weights" in told
            and "restore it, or set model.path to a folder that holds those weights" in told
        )


@pytest.mark.parametrize(
    ("named", "lies", "adapter"),
    [
        ("run/model", "run/model", "run/adapter"),
        ("run/model", "run/model", "run/checkpoints/step-000003/learner/adapter"),
        ("run/1-few/merged_model", "run/1-few/merged_model", "run/2-all/adapter"),
        ("run/1-few/merged_model", "run/1-few/merged_model", "run/adapter"),
        ("models/org/base", "models/org/base", "runs/mine/adapter"),
    ],
)
def test_a_base_that_was_moved_with_its_adapter_is_found(
    named: str, lies: str, adapter: str, models: dict[str, Path], own: BaseRecord, tmp_path: Path
) -> None:
    folder = trained(tmp_path / "now" / adapter, models, tmp_path / "before" / named, own)
    shutil.copytree(models["two"], tmp_path / "now" / "elsewhere" / Path(named).name)
    assert "no folder of this machine; give it with model.path" in refusal(folder)
    shutil.copytree(models["one"], tmp_path / "now" / lies)
    assert find_base(folder).base.path == str(tmp_path / "now" / lies)


def test_another_model_in_the_place_of_the_base_is_not_taken(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    adapter = trained(tmp_path / "run" / "adapter", models, tmp_path / "before" / "model", own)
    shutil.copytree(models["two"], tmp_path / "run" / "model")
    assert "on other weights it makes a model that nobody trained" in refusal(adapter)


def test_a_published_adapter_names_no_folder(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", models, "…/one", own)
    assert "names …/one as its base model, which is no folder" in refusal(adapter)
    assert find_base(adapter, Base(str(models["one"]))).base.path == str(models["one"])
    assert "set model.path to a folder that holds those weights" in refusal(adapter, Base(str(models["two"])))


def test_a_dequantised_base_is_the_one_that_was_served(models: dict[str, Path], tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", "model: {path: x, serve_quantized: dequantized}\n")
    served = shutil.copytree(models["two"], run / "model_dequantised")
    record = record_of(Base(str(models["one"])), str(served))
    adapter = trained(run / "adapter", models, models["one"], record)
    assert find_base(adapter).base.path == str(served)
    assert find_base(adapter, Base(str(models["one"])), insist=True).note == "", "what the learner quantised is its base too"
    alone = shutil.copytree(adapter, tmp_path / "alone")
    assert find_base(alone).base.path == str(models["one"])
    shutil.rmtree(served)
    assert f"served {served}, which is gone" in refusal(adapter) and f"set model.path to {models['one']}" in refusal(adapter)


# Adapters without a record.


def test_without_a_record_the_name_is_believed_and_that_is_said(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", models, models["one"], None)
    for offered in (None, Base(str(models["one"])), Base(str(models["two"]))):
        found = find_base(adapter, offered)
        assert found.base.path == str(models["one"]) and "is its base is believed by the name" in found.note
    gone = trained(tmp_path / "other", models, tmp_path / "gone", None)
    assert find_base(gone, Base(str(models["two"]))).base.path == str(models["two"]), "nobody can tell"
    assert "no folder of this machine; give it with model.path" in refusal(gone)
    assert "does not name its base model; give it with model.path" in refusal(trained(tmp_path / "nameless", models, "", None))


def test_without_a_record_a_dequantised_base_is_known_by_the_settings_of_its_run(models: dict[str, Path], tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", "model: {path: x, serve_quantized: dequantized}\n")
    served = shutil.copytree(models["two"], run / "model_dequantised")
    adapter = trained(run / "adapter", models, models["one"], None)
    assert find_base(adapter, Base(str(models["one"]))).base.path == str(served)
    of_the_hub = trained(run / "checkpoints" / "step-000001" / "learner" / "adapter", models, "some/one", None)
    assert find_base(of_the_hub, Base("some/one", "v1")).base.path == str(served)


def test_without_a_record_another_base_that_is_named_expressly_is_doubted(models: dict[str, Path], tmp_path: Path) -> None:
    """It is no error: a base that was rounded on purpose has other weights as well."""
    adapter = trained(tmp_path / "adapter", models, models["one"], None)
    said = find_base(adapter, Base(str(models["two"])), insist=True).note
    assert said.startswith("WARNING") and f"trained on {models['one']}" in said and f"those of {models['two']}" in said
    same = shutil.copytree(models["one"], tmp_path / "same")
    assert not find_base(adapter, Base(str(same)), insist=True).note.startswith("WARNING")
    served = shutil.copytree(models["two"], tmp_path / "model_dequantised")
    assert not find_base(adapter, Base(str(served)), insist=True).note.startswith("WARNING"), "what a quantisation made of the model"


def test_without_a_record_only_a_runs_own_folders_may_be_a_base_that_moved(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = trained(tmp_path / "run" / "adapter", models, tmp_path / "before" / "model", None)
    shutil.copytree(models["one"], tmp_path / "run" / "model")
    assert "no folder of this machine" in refusal(adapter)
    run_with(tmp_path / "run")
    assert find_base(adapter).base.path == str(tmp_path / "run" / "model")


def test_another_name_of_the_hub_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", models, "some/one", None)
    assert "was trained on some/one, and model.path is some/two" in refusal(adapter, Base("some/two"), insist=True)
    assert find_base(adapter, Base("some/two")).base == Base("some/one")
    assert find_base(adapter, Base("some/one", "v1")).base == Base("some/one", "v1"), "the run's own revision"


# Models of the hub.


@pytest.fixture
def hub_cache(tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with two commits of some/model; `main` is the first."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--some--model"
    for commit, name in ((A, "one"), (B, "two")):
        shutil.copytree(models[name], folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(A)
    return folder


def test_a_hub_model_is_recorded_with_its_commit(hub_cache: Path, own: BaseRecord) -> None:
    assert record_of(Base("some/model"), "some/model") == BaseRecord(own.weights, commit=A)
    assert record_of(Base("some/model", B), "some/model").commit == B
    assert record_of(Base("never/seen"), "never/seen") == BaseRecord(None)
    assert record_of(Base("never/seen", A), "never/seen") == BaseRecord(None, commit=A)


def test_an_adapter_of_a_hub_model_is_served_at_its_commit(hub_cache: Path, models: dict[str, Path], tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", models, "some/model", record_of(Base("some/model"), "some/model"))
    (hub_cache / "refs" / "main").write_text(B)
    assert find_base(adapter).base == Base("some/model", A)
    assert find_base(adapter, Base("some/model")).base == Base("some/model", A)
    told = refusal(adapter, Base("some/model"), insist=True)
    assert f"at commit {A}, which has moved on to {B}" in told and told.endswith(f"set model.revision to {A}")
    assert find_base(adapter, Base("some/model", A), insist=True).note == ""
    assert find_base(adapter, Base(str(models["one"])), insist=True).note == "", "the same weights in a folder"


def test_another_commit_with_the_same_weights_is_the_same_base(hub_cache: Path, models: dict[str, Path], tmp_path: Path) -> None:
    """Most commits change the card only."""
    shutil.copyfile(models["one"] / "model.safetensors", hub_cache / "snapshots" / B / "model.safetensors")
    adapter = trained(tmp_path / "adapter", models, "some/model", record_of(Base("some/model"), "some/model"))
    (hub_cache / "refs" / "main").write_text(B)
    assert find_base(adapter, Base("some/model"), insist=True).note == ""


def test_a_commit_is_enough_where_no_weights_are_on_the_machine(hub_cache: Path, models: dict[str, Path], tmp_path: Path) -> None:
    shutil.rmtree(hub_cache / "snapshots" / A)
    adapter = trained(tmp_path / "adapter", models, "some/model", BaseRecord(None, commit=A))
    assert find_base(adapter).base == Base("some/model", A)
    assert f"set model.revision to {A}" in refusal(adapter, Base("some/model", B), insist=True)


def test_weights_that_are_not_on_the_machine_are_not_known(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    adapter = trained(tmp_path / "adapter", models, "never/seen", own)
    found = find_base(adapter)
    assert found.base == Base("never/seen") and "the weights of never/seen are not on this machine yet" in found.note


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("Qwen/Qwen2.5-0.5B", True),
        ("gpt2", True),
        ("/a/b", False),
        ("./a", False),
        ("a/b/c", False),
        ("builtin:tiny_qwen2", False),
        ("", False),
    ],
)
def test_names_of_the_hub(name: str, is_one: bool) -> None:
    assert is_hub_id(name) == is_one


def test_the_run_of_an_adapter(models: dict[str, Path], own: BaseRecord, tmp_path: Path) -> None:
    whole = run_with(tmp_path / "whole", "stages: [{name: few}, {name: all}]\n")
    stage = run_with(whole / "1-few")
    assert run_of(stage / "adapter") == stage
    assert run_of(stage / "checkpoints" / "step-000001" / "learner" / "adapter") == stage
    assert run_of(whole / "adapter") == whole / "2-all"
    assert run_of(tmp_path / "adapter") is None
    assert read_record(trained(stage / "adapter", models, models["one"], own)) == own
