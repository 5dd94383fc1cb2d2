"""What lies in shared memory is verified, complete, bounded in number, and gone in the end."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.engine.adapter_folders import AdapterStore, keep_temporary_files_in, remove_abandoned, run_folder
from configs.contracts.errors import AdapterError, NoRoomError, RollcastError
from configs.contracts.records import Adapter, AdapterManifest, TensorSlot, adapter_sha256


def make_adapter(version: int, values: np.ndarray | None = None, dtype: Any = "float32") -> Adapter:
    """Two tensors, of 2 x 3 and 3 x 2 values."""
    values = np.arange(12, dtype=np.float32) + version if values is None else values
    buffer = values.view(np.uint8)
    half = buffer.nbytes // 2
    slots = (TensorSlot("m.a.lora_A.weight", (2, 3), 0, half), TensorSlot("m.a.lora_B.weight", (3, 2), half, 2 * half))
    return Adapter(AdapterManifest(version, adapter_sha256(buffer), dtype, slots, 2, 4.0, ("a",), "tiny"), buffer)


def refusal(store: AdapterStore, manifest: AdapterManifest, buffer: np.ndarray) -> str:
    with pytest.raises(AdapterError) as caught:
        store.write(manifest, buffer)
    assert not list(store.folder.glob("v*")), "a refused adapter must leave nothing behind"
    return str(caught.value)


def test_the_file_holds_the_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    adapter = make_adapter(3)
    folder = AdapterStore(tmp_path, "run").write(*[adapter.manifest, adapter.buffer])
    tensors = load_file(folder / "adapter_model.safetensors")
    assert tensors["m.a.lora_A.weight"].tolist() == [[3, 4, 5], [6, 7, 8]]
    assert tensors["m.a.lora_B.weight"].tolist() == [[9, 10], [11, 12], [13, 14]]


def test_bfloat16_is_written_as_it_is(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    values = torch.tensor([1.5, -2.0, 3.0, 0.1, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, -0.25], dtype=torch.bfloat16)
    adapter = make_adapter(1, values.view(torch.int16).numpy().view(np.uint16), "bfloat16")
    tensors = load_file(AdapterStore(tmp_path, "run").write(adapter.manifest, adapter.buffer) / "adapter_model.safetensors")
    assert torch.equal(tensors["m.a.lora_A.weight"], values[:6].view(2, 3))


def test_damaged_adapters_are_refused(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, "run")
    good = make_adapter(1)
    assert "hash" in refusal(store, good.manifest, good.buffer[::-1].copy())
    assert "bytes" in refusal(store, good.manifest, good.buffer[:-4].copy())
    slots = (good.manifest.slots[0], replace(good.manifest.slots[1], start_byte=28))
    assert "follow each other" in refusal(store, replace(good.manifest, slots=slots), good.buffer)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    store = AdapterStore(tmp_path, "run")
    wrong = np.ones(12, dtype=np.float32)
    wrong[7] = value
    float32, bfloat16 = make_adapter(1, wrong), make_adapter(1, (wrong.view(np.uint32) >> 16).astype(np.uint16), "bfloat16")
    for adapter in (float32, bfloat16):
        assert "not finite" in refusal(store, adapter.manifest, adapter.buffer)


def test_old_versions_go_and_the_last_few_stay(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path, "run", keep=3)
    for version in range(6):
        adapter = make_adapter(version)
        store.write(adapter.manifest, adapter.buffer)
    assert sorted(path.name.split("-")[0] for path in store.folder.glob("v*")) == ["v3", "v4", "v5"]


def put_many(root: Path, barrier: Any) -> None:
    store = AdapterStore(root, "run", keep=30)
    barrier.wait()
    for version in range(20):
        adapter = make_adapter(version)
        store.write(adapter.manifest, adapter.buffer)
    os._exit(0)


def test_concurrent_writers_leave_whole_adapters(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    store = AdapterStore(tmp_path, "run", keep=30)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    writers = [context.Process(target=put_many, args=(tmp_path, barrier)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    folders = sorted(store.folder.glob("v*"))
    assert len(folders) == 20
    assert all(len(load_file(folder / "adapter_model.safetensors")) == 2 for folder in folders)


def test_the_last_to_close_removes_the_folder(tmp_path: Path) -> None:
    first, second = AdapterStore(tmp_path, "run"), AdapterStore(tmp_path, "run")
    first.close()
    assert second.folder.is_dir()
    second.close()
    second.close()
    assert not second.folder.exists()


held: list[Any] = []
"""What a process keeps until it is killed."""


def hold_open(root: Path, opened: Any) -> None:
    store = AdapterStore(root, f"killed-{os.getppid()}")
    keep_temporary_files_in(store.folder)
    tempfile.mkstemp(prefix="vllm_dist_")
    held.append(multiprocessing.get_context("spawn").Lock())
    opened.set()
    time.sleep(600)


def wait_until(condition: Callable[[], bool], limit_s: float = 10.0) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    opened = context.Event()
    holder = context.Process(target=hold_open, args=(tmp_path, opened))
    holder.start()
    assert opened.wait(60)
    assert remove_abandoned(tmp_path) == [], "a run that lives keeps its adapters"
    assert holder.pid is not None
    (folder,) = tmp_path.glob("rollcast-*")
    semaphores = Path("/dev/shm").glob
    assert len(list(folder.glob("vllm_dist_*"))) == len(list(semaphores(f"sem.{folder.name}-*"))) == 1
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    AdapterStore(tmp_path, "next").close()
    assert wait_until(lambda: not list(tmp_path.glob("rollcast-*")))
    assert not list(semaphores(f"sem.{folder.name}-*"))


def test_runs_of_the_same_name_have_folders_of_their_own(tmp_path: Path) -> None:
    """One of another user, who chose the name first, does not stand in the way; what else lies there is left alone."""
    private_ray = tmp_path / "rollcast-abcdefgh"
    private_ray.mkdir(mode=0o700)
    names = []
    for user in (os.geteuid() + 1, os.geteuid()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "geteuid", lambda user=user: user)
            names.append(run_folder(tmp_path, "quickstart-0123").name)
    assert names[0] != names[1]
    AdapterStore(tmp_path, "next").close()
    assert private_ray.is_dir() and not list(private_ray.iterdir())


def test_a_folder_that_another_user_made_is_refused(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, "run")
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(RollcastError, match="its mode is 0777"):
        AdapterStore(tmp_path, "run")
    assert not list(folder.iterdir())


def full_at(monkeypatch: pytest.MonkeyPatch, *roots: Path, free: int = 1000) -> None:
    """Let the disks of these folders have `free` bytes."""
    real = shutil.disk_usage

    def usage(path: Path) -> Any:
        found = real(path)
        return found._replace(free=free) if any(Path(path).is_relative_to(root) for root in roots) else found

    monkeypatch.setattr(shutil, "disk_usage", usage)


def test_an_adapter_without_room_in_shared_memory_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "shm", tmp_path / "disk"
    store, adapter = AdapterStore(memory, "run", overflow=disk), make_adapter(3)
    with monkeypatch.context() as patched:
        full_at(patched, memory)
        folder = store.write(adapter.manifest, adapter.buffer)
    assert folder.parent == run_folder(disk, "run") and (folder / "adapter_model.safetensors").exists()
    assert store.note.startswith(f"adapter 3 needs 1,048,624 bytes, and {memory} has ") and f"engines load it from {disk}" in store.note
    again = make_adapter(4)
    assert store.write(again.manifest, again.buffer).parent == run_folder(memory, "run"), "there is room again"
    assert store.note == ""
    store.close()
    assert not list(memory.iterdir()) and not list(disk.iterdir())


def test_a_disk_that_fills_up_while_an_adapter_is_written_leaves_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "shm", tmp_path / "disk"
    store, adapter = AdapterStore(memory, "run", overflow=disk), make_adapter(3)
    rename = Path.rename

    def full(self: Path, target: Path) -> Path:
        if self.is_relative_to(memory):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    assert store.write(adapter.manifest, adapter.buffer).is_relative_to(disk)
    assert not list(store.folder.glob("v*")) and not (store.folder / "writing").exists()


def test_an_adapter_without_room_anywhere_is_refused_with_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, disk = tmp_path / "shm", tmp_path / "disk"
    store, adapter = AdapterStore(memory, "run", overflow=disk), make_adapter(3)
    full_at(monkeypatch, memory, disk)
    assert refusal(store, adapter.manifest, adapter.buffer) == (
        f"adapter 3 needs 1,048,624 bytes, and {memory} has 1,000 free, and {disk} 1,000; free some space in one of them, or give the "
        "container more (--shm-size)"
    )
    with pytest.raises(NoRoomError):
        store.write(adapter.manifest, adapter.buffer)


def test_an_adapter_that_another_worker_has_written_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, adapter = AdapterStore(tmp_path, "run"), AdapterStore(tmp_path, "run"), make_adapter(3)
    written = first.write(adapter.manifest, adapter.buffer)
    full_at(monkeypatch, tmp_path)
    assert second.write(adapter.manifest, adapter.buffer) == written
