"""Adapters of one base share an engine, and adapters of another have one on theirs. No engine is started here."""

from __future__ import annotations

import shutil
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.comparison.compare import _engines, _shared_tokenizer
from cluster.comparison.compared_models import ComparedModel
from cluster.models.adapter_base import Base, FoundBase, record_of
from cluster.models.base_record import write_record
from configs.contracts.errors import ConfigError
from learner.model.tiny_model import create_tiny_model
from tests.cluster.evaluation.test_serving import run_config
from tests.cluster.models.test_merge import make_adapter


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models of one shape, a copy of the first, and an adapter of each."""
    folder = tmp_path_factory.mktemp("compared")
    found = {name: create_tiny_model(folder / name, seed) for seed, name in enumerate(("one", "two"))}
    found["copy"] = shutil.copytree(found["one"], folder / "copy")
    for name in ("one", "two", "copy"):
        found[f"of_{name}"] = make_adapter(folder / f"of_{name}", found[name])
        write_record(found[f"of_{name}"], record_of(Base(str(found[name])), str(found[name])))
    return found


def test_an_engine_for_each_distinct_base(made: dict[str, Path]) -> None:
    config, console = run_config(made["one"]), Console(file=StringIO())
    models = [
        ComparedModel("grpo", adapter=made["of_two"]),
        ComparedModel("base"),
        ComparedModel("whole", model=made["two"]),
        ComparedModel("sft", adapter=made["of_one"]),
        ComparedModel("same", adapter=made["of_copy"]),
    ]
    engines = list(_engines(config, FoundBase(Base(str(made["one"]))), models, console))
    assert [(each.base.path, [one.name for one in each.models]) for each in engines] == [
        (str(made["two"]), ["grpo"]),
        (str(made["one"]), ["base", "sft", "same"]),
        (str(made["two"]), ["whole"]),
    ]
    assert engines[0].config.model.lora.r == 8 and engines[2].config.model.lora.r == 1
    _shared_tokenizer(config, engines)


def test_bases_with_different_tokenizers_are_not_compared(made: dict[str, Path], tmp_path: Path) -> None:
    """Also where the adapter has no tokenizer beside it."""
    from transformers import AutoTokenizer

    other = shutil.copytree(made["two"], tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.eos_token = "<think>"
    tokenizer.save_pretrained(other)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        text = (made["of_two"] / name).read_bytes()
        (adapter / name).write_bytes(text.replace(str(made["two"]).encode(), str(other).encode()) if name.endswith("json") else text)
    models = [ComparedModel("base"), ComparedModel("grpo", adapter=adapter)]
    config = run_config(made["one"])
    engines = list(_engines(config, FoundBase(Base(str(made["one"]))), models, Console(file=StringIO())))
    with pytest.raises(ConfigError, match="the base of grpo has another tokenizer than base: the end token is"):
        _shared_tokenizer(config, engines)


def test_a_base_that_has_changed_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    base = shutil.copytree(made["one"], tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    write_record(adapter, record_of(Base(str(base)), str(base)))
    shutil.copyfile(made["two"] / "model.safetensors", base / "model.safetensors")
    with pytest.raises(ConfigError, match=f"adapter {adapter} was trained on {base} with the weights"):
        list(_engines(run_config(made["two"]), FoundBase(Base(str(made["two"]))), [ComparedModel("mine", adapter=adapter)], Console()))
