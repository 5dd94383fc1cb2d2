"""Adapters of a run in shared memory, as folders that vLLM can load. Each is verified and written once per node; old ones are removed.

    <root>/rollcast-<run>/      root: /dev/shm, or the temporary folder where that is missing
        lifetime.lock           locked shared by every open store: a folder that nobody locks is abandoned
        write.lock              locked by the store that writes
        v3-1f0c…/               adapter_config.json, adapter_model.safetensors
        2de9b612-…              sockets of the engines

A folder gets its name by one rename after its files are complete, so a folder with such a name is always complete and verified. Locks
are the kernel's (flock): they end with their process, however that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from configs.contracts.adapter_buffer import header
from configs.contracts.errors import AdapterError
from configs.contracts.records import AdapterManifest, adapter_sha256

PREFIX = "rollcast-"
BF16_EXPONENT = 0x7F80
"""Mask of a bfloat16's exponent. If all these bits are ones, the value is infinite or not a number."""


def shared_memory() -> Path:
    """The folder of this node whose files are held in memory."""
    shm = Path("/dev/shm")
    return shm if os.access(shm, os.W_OK) else Path(tempfile.gettempdir())


def run_folder(root: Path, run_name: str) -> Path:
    """The folder for the adapters of a run."""
    return root / f"{PREFIX}{run_name}"


def all_finite(manifest: AdapterManifest, buffer: np.ndarray) -> bool:
    """True if every value of the adapter is finite. `buffer`: uint8 [nbytes]."""
    if manifest.dtype == "float32":
        return bool(np.isfinite(buffer.view(np.float32)).all())
    return not bool((buffer.view(np.uint16) & BF16_EXPONENT == BF16_EXPONENT).any())


def check_adapter(manifest: AdapterManifest, buffer: np.ndarray) -> None:
    """Refuse an adapter that is cut short, damaged or not finite. `buffer`: uint8 [nbytes].

    Raises:
        AdapterError: the text names the fault.
    """
    if buffer.nbytes != manifest.nbytes:
        raise AdapterError(f"adapter {manifest.version} has {buffer.nbytes} bytes and its manifest says {manifest.nbytes}; send it again")
    found = adapter_sha256(buffer)
    if found != manifest.sha256:
        raise AdapterError(
            f"adapter {manifest.version} has the hash {found[:12]} and its manifest says {manifest.sha256[:12]}; send it again"
        )
    if not all_finite(manifest, buffer):
        raise AdapterError(f"adapter {manifest.version} has values that are not finite; do not broadcast after such a step")


def peft_config(manifest: AdapterManifest) -> dict[str, object]:
    """The content of `adapter_config.json` for this adapter."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": manifest.base_model,
        "r": manifest.r,
        "lora_alpha": manifest.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(manifest.target_modules),
        "bias": "none",
        "use_rslora": manifest.use_rslora,
        "use_dora": False,
        "modules_to_save": None,
        "inference_mode": True,
    }


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[int]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, kind)
        yield lock
    finally:
        os.close(lock)


def remove_abandoned(root: Path) -> list[Path]:
    """Remove the adapters of runs that have no open store.

    Returns:
        The folders removed.
    """
    removed = []
    for folder in root.glob(f"{PREFIX}*"):
        try:
            with _locked(folder / "lifetime.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
        except OSError:  # it is locked, belongs to another user, or was removed just now
            continue
    return removed


class AdapterStore:
    """The adapters of one run on this node. Every rollout worker of the node opens one on the same folder.

    Example::

        store = AdapterStore(shared_memory(), "my-run")
        folder = store.write(manifest, buffer)      # /dev/shm/rollcast-my-run/v3-1f0c…
        store.close()                             # the last of the node removes the folder
    """

    def __init__(self, root: Path, run_name: str, keep: int = 3) -> None:
        """Args:
        root: folder in shared memory.
        run_name: the same for all workers of a run, and different from other runs'.
        keep: number of versions to keep; running requests still name the previous one.
        """
        self.folder = run_folder(root, run_name)
        self.keep = keep
        remove_abandoned(root)
        self._lifetime = self._join()

    def _join(self) -> int:
        while True:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                lock = os.open(self.folder / "lifetime.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:  # the last store before this one removed it between the two lines above
                continue
            fcntl.flock(lock, fcntl.LOCK_SH)
            if os.fstat(lock).st_nlink:
                return lock
            os.close(lock)

    def write(self, manifest: AdapterManifest, buffer: np.ndarray) -> Path:
        """Write the folder of an adapter, unless another store of this node has; returns the folder. `buffer`: uint8 [nbytes].

        Raises:
            AdapterError: the adapter is cut short, damaged or not finite; nothing is written.
        """
        folder = self.folder / f"v{manifest.version}-{manifest.sha256[:16]}"
        with _locked(self.folder / "write.lock", fcntl.LOCK_EX):
            if not folder.is_dir():
                check_adapter(manifest, buffer)
                self._write(folder, manifest, buffer)
                self._remove_old(folder)
        return folder

    def _write(self, folder: Path, manifest: AdapterManifest, buffer: np.ndarray) -> None:
        head = header(manifest)
        temporary = self.folder / "writing"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a writer that was killed; this store holds the lock
        temporary.mkdir()
        (temporary / "adapter_config.json").write_text(json.dumps(peft_config(manifest)))
        with (temporary / "adapter_model.safetensors").open("wb") as file:
            file.write(head)
            file.write(buffer.data)
        temporary.rename(folder)

    def _remove_old(self, newest: Path) -> None:
        written = sorted((path for path in self.folder.glob("v*") if path != newest), key=lambda path: path.stat().st_mtime_ns)
        for path in written[: max(0, len(written) + 1 - self.keep)]:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Close the store; the last one of the node removes the folder."""
        if self._lifetime < 0:
            return
        os.close(self._lifetime)
        self._lifetime = -1
        remove_abandoned(self.folder.parent)
