"""An adapter carries the digest of its base, in a file that is loaded as before."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from cluster.models.base_record import BaseRecord, read_record, write_record
from tests.cluster.models.test_merge import make_adapter

RECORD = BaseRecord("a" * 64, "b" * 64, "c" * 40)


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(tmp_path_factory.mktemp("record") / "adapter", tiny_model)


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "adapter")


@pytest.mark.parametrize("record", [RECORD, BaseRecord("a" * 64), BaseRecord(None, commit="c" * 40)])
def test_a_record_is_read_back_and_the_tensors_stay(made: Path, adapter: Path, record: BaseRecord) -> None:
    assert read_record(adapter) is None
    write_record(adapter, RECORD)
    write_record(adapter, record)
    assert read_record(adapter) == record
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (made, adapter))
    assert before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    assert sorted(file.name for file in adapter.iterdir()) == sorted(file.name for file in made.iterdir())


def test_peft_loads_the_folder_and_writes_a_new_head(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    write_record(adapter, RECORD)
    with safe_open(adapter / "adapter_model.safetensors", "np") as file:
        assert file.metadata()["format"] == "pt", "transformers refuses a file of another format"
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), str(adapter)).save_pretrained(str(tmp_path / "again"))
    assert read_record(tmp_path / "again") is None, "whoever trains it further may have put it on another base"


def test_what_cannot_be_read_has_no_record(adapter: Path, tmp_path: Path) -> None:
    assert read_record(tmp_path / "nowhere") is None
    for content in (b"", b"\xff" * 40, b"\2\0\0\0\0\0\0\0[]"):
        (adapter / "adapter_model.safetensors").write_bytes(content)
        assert read_record(adapter) is None
