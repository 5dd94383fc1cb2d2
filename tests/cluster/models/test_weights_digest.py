"""A model is known by its tensors: not by its folder, the number of its files, or what else is in them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.models import weights_digest as module
from cluster.models.weights_digest import weights_digest


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def sharded(model: Path, folder: Path) -> Path:
    """The same weights in two files with an index, in other order, with other metadata."""
    folder.mkdir()
    tensors = list(load_file(model / "model.safetensors").items())
    places = {}
    for number, part in enumerate((tensors[5:], tensors[:5]), start=1):
        name = f"model-{number:05d}-of-00002.safetensors"
        save_file(dict(part), folder / name, metadata={"format": "pt", "part": str(number)})
        places |= dict.fromkeys((key for key, _ in part), name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder


def test_files_and_names_do_not_matter(model: Path, tmp_path: Path) -> None:
    digest = weights_digest(model)
    assert digest is not None and len(digest) == 64
    assert weights_digest(sharded(model, tmp_path / "sharded")) == digest
    (model / "config.json").write_text("{}")
    assert weights_digest(model) == digest


@pytest.mark.parametrize("place", [0, -1])
def test_one_bit_of_any_tensor_matters(model: Path, place: int) -> None:
    before = weights_digest(model)
    tensors = load_file(model / "model.safetensors")
    name = sorted(tensors)[place]
    tensors[name].reshape(-1).view(np.uint32)[place] ^= 1
    save_file(tensors, model / "model.safetensors")
    assert weights_digest(model) != before


def test_names_shapes_and_types_matter(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    found = {weights_digest(model)}
    name = "model.norm.weight"
    others = (
        {**{key: value for key, value in tensors.items() if key != name}, "model.form.weight": tensors[name]},
        {**tensors, name: tensors[name].reshape(2, -1)},
        {**tensors, name: tensors[name].view(np.int32)},
        {key: value.astype(np.float16) for key, value in tensors.items()},
    )
    for changed in others:
        save_file(changed, model / "model.safetensors")
        found.add(weights_digest(model))
    assert len(found) == 5


def test_a_folder_without_all_of_its_weights_has_none(model: Path, tmp_path: Path) -> None:
    assert weights_digest(tmp_path) is None and weights_digest(tmp_path / "nowhere") is None
    folder = sharded(model, tmp_path / "sharded")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert weights_digest(folder) is None
    (model / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:100_000])
    assert weights_digest(model) is None, "a download that was cut short"


def test_weights_of_pytorch_are_known_by_their_bytes(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(content)
    first = weights_digest(model)
    (model / "pytorch_model.bin").write_bytes(content[::-1])
    assert first is not None and weights_digest(model) not in (None, first)


def test_a_large_model_is_read_once_until_a_file_changes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the changed file has the size and the time of the old one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "CACHED_FROM_BYTES", 1000)
    digest = weights_digest(model)
    (entry,) = (tmp_path / "cache" / "rollcast" / "weights").iterdir()
    module._kept_digest.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_sha256", lambda part: pytest.fail(f"{part.title} is read again"))
        assert weights_digest(model) == digest
    before = (model / "model.safetensors").stat()
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    os.utime(model / "model.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (model / "model.safetensors").stat().st_size == before.st_size
    assert weights_digest(model) not in (None, digest)
    entry.write_text("no JSON")
    module._kept_digest.cache_clear()
    assert weights_digest(model) not in (None, digest)


def test_a_cache_folder_that_cannot_be_written_is_done_without(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(module, "CACHED_FROM_BYTES", 1000)
    assert weights_digest(model) is not None


def test_small_models_leave_nothing_in_the_cache(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights_digest(model)
    assert not (tmp_path / "cache").exists()
