"""Adapters of a run in shared memory, as folders that vLLM can load. Each is verified and written once per node; old ones are removed.

    <root>/rollcast-<user id>-<run>/    root: /dev/shm, or the temporary folder where that is missing; /var/tmp for adapters that have no room there
        lifetime.lock                   locked shared by every open store: a folder that nobody locks is abandoned
        write.lock                      locked by the store that writes
        v3-1f0c…/                       adapter_config.json, adapter_model.safetensors
        2de9b612-…, vllm_dist_…         sockets and temporary files of the engines
    /dev/shm/sem.rollcast-<user id>-<run>-…    semaphores of the engines, which killed ones leave behind

A folder gets its name by one rename after its files are complete, so a folder with such a name is always complete and verified. All users of
a node may write into root: `configs/contracts/private_folders.py` says what is looked at before anything there is opened.
"""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from configs.contracts import private_folders
from configs.contracts.adapter_buffer import header
from configs.contracts.errors import AdapterError, NoRoomError, RollcastError
from configs.contracts.records import AdapterManifest, adapter_sha256

LIFETIME, WRITE = "lifetime.lock", "write.lock"
SEMAPHORES = Path("/dev/shm")
"""Where the C library keeps named semaphores."""

RUN_NAME_CHARACTERS = 32
"""Characters of a run's name in its folder's name, so that the paths of the sockets in it stay short enough."""

FULL = (errno.ENOSPC, errno.EDQUOT)

OTHER_FILES_BYTES = 1 << 20
"""Room for the header and adapter_config.json, with some to spare."""

KEPT_VERSIONS = 3
"""Adapters that stay: running requests still name the previous one."""

BF16_EXPONENT = 0x7F80
"""Mask of a bfloat16's exponent. If all these bits are ones, the value is infinite or not a number."""


def shared_memory() -> Path:
    """The folder of this node whose files are held in memory."""
    shm = Path("/dev/shm")
    return shm if os.access(shm, os.W_OK) else Path(tempfile.gettempdir())


def disk() -> Path:
    """The folder of this node for adapters that have no room in shared memory. Not TMPDIR: a worker's own lies in shared memory."""
    return next((folder for folder in (Path("/var/tmp"), Path("/tmp")) if os.access(folder, os.W_OK)), Path("/tmp"))


def _free(folder: Path) -> int:
    """Bytes free on the disk of a folder, which may not exist yet."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def run_folder(root: Path, run_name: str) -> Path:
    """The folder for the adapters of a run. The end of the run's name tells it from others, and is kept."""
    return root / f"{_prefix()}{run_name[-RUN_NAME_CHARACTERS:]}"


def _prefix() -> str:
    return f"rollcast-{os.geteuid()}-"


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
        raise AdapterError(f"adapter {manifest.version} has {buffer.nbytes} bytes, but its manifest says {manifest.nbytes}; send it again")
    found = adapter_sha256(buffer)
    if found != manifest.sha256:
        raise AdapterError(
            f"adapter {manifest.version} has the hash {found[:12]}, but its manifest says {manifest.sha256[:12]}; send it again"
        )
    if not all_finite(manifest, buffer):
        raise AdapterError(f"adapter {manifest.version} has values that are not finite; export it again after a step with finite gradients")


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


def remove_abandoned(root: Path) -> list[Path]:
    """Remove the adapters of this user's runs that have no open store.

    Returns:
        The folders removed.
    """
    removed = private_folders.remove_abandoned(root, _prefix(), LIFETIME)
    for folder in removed:
        for semaphore in SEMAPHORES.glob(f"sem.{folder.name}-*"):
            with suppress(OSError):  # another user's, who may take any name here
                semaphore.unlink()
    return removed


def keep_temporary_files_in(folder: Path) -> None:
    """Put what this process and its children leave when they are killed, temporary files and named semaphores, where the next sweep finds it."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    multiprocessing.current_process()._config["semprefix"] = f"/{folder.name}"  # pyright: ignore[reportAttributeAccessIssue]


class AdapterStore:
    """The adapters of one run on this node. Every rollout worker of the node opens one on the same folder.

    Example::

        store = AdapterStore(shared_memory(), "my-run")
        folder = store.write(manifest, buffer)      # /dev/shm/rollcast-1000-my-run/v3-1f0c…
        store.close()                               # the last of the node removes the folder
    """

    def __init__(self, root: Path, run_name: str, keep: int = KEPT_VERSIONS, overflow: Path | None = None) -> None:
        """Args:
        root: folder in shared memory.
        run_name: the same for all workers of a run, and different from other runs'.
        keep: number of versions to keep.
        overflow: folder for adapters that have no room in `root`; without one, they are refused.

        Raises:
            RollcastError: another user has the folder.
        """
        self.folder = run_folder(root, run_name)
        self.keep = keep
        self.note = ""
        """Why the last adapter is not in shared memory; "" if it is."""
        self._run_name, self._overflow_root = run_name, overflow
        self._overflow: AdapterStore | None = None
        remove_abandoned(root)
        self._lifetime = private_folders.hold(self.folder, LIFETIME)

    def write(self, manifest: AdapterManifest, buffer: np.ndarray) -> Path:
        """Write the folder of an adapter, unless another store of this node has; returns the folder. `buffer`: uint8 [nbytes].

        Raises:
            AdapterError: the adapter is cut short, damaged or not finite; nothing is written.
            NoRoomError: there is no room for it.
        """
        try:
            folder, self.note = self._written(manifest, buffer), ""
        except OSError as error:
            if error.errno not in FULL:
                raise
            folder = self._written_elsewhere(manifest, buffer)
        return folder

    def _written(self, manifest: AdapterManifest, buffer: np.ndarray) -> Path:
        folder = self.folder / f"v{manifest.version}-{manifest.sha256[:16]}"
        with private_folders.locked(self.folder / WRITE, fcntl.LOCK_EX):
            if not folder.is_dir():
                check_adapter(manifest, buffer)
                # before writing: what is written to a full shared memory takes the room of Ray's objects and of the engines
                if shutil.disk_usage(self.folder).free < manifest.nbytes + OTHER_FILES_BYTES:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
                self._write(folder, manifest, buffer)
                self._remove_old(folder)
        return folder

    def _written_elsewhere(self, manifest: AdapterManifest, buffer: np.ndarray) -> Path:
        needed, free = manifest.nbytes + OTHER_FILES_BYTES, shutil.disk_usage(self.folder).free
        lack = f"adapter {manifest.version} needs {needed:,} bytes, and {self.folder.parent} has {free:,} free"
        if self._overflow_root is None:
            raise NoRoomError(f"{lack}; free some space there")
        try:
            if self._overflow is None:
                self._overflow = AdapterStore(self._overflow_root, self._run_name, self.keep)
            folder = self._overflow.write(manifest, buffer)
        except RollcastError as error:
            free_there = _free(self._overflow_root)
            if free_there >= needed:
                raise
            raise NoRoomError(
                f"{lack}, and {self._overflow_root} {free_there:,}; free some space in one of them, or give the container more (--shm-size)"
            ) from error
        self.note = (
            f"{lack}: engines load it from {self._overflow_root}, which is slower; free some space, or give the container more (--shm-size)"
        )
        return folder

    def _write(self, folder: Path, manifest: AdapterManifest, buffer: np.ndarray) -> None:
        head = header(manifest)
        temporary = self.folder / "writing"
        shutil.rmtree(temporary, ignore_errors=True)  # left by a writer that was killed; this store holds the lock
        try:
            temporary.mkdir()
            (temporary / "adapter_config.json").write_text(json.dumps(peft_config(manifest)))
            with (temporary / "adapter_model.safetensors").open("wb") as file:
                file.write(head)
                file.write(buffer.data)
            temporary.rename(folder)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _remove_old(self, newest: Path) -> None:
        written = sorted((path for path in self.folder.glob("v*") if path != newest), key=lambda path: path.stat().st_mtime_ns)
        for path in written[: max(0, len(written) + 1 - self.keep)]:
            shutil.rmtree(path, ignore_errors=True)

    def close(self) -> None:
        """Close the store; the last one of the node removes the folder."""
        if self._lifetime < 0:
            return
        if self._overflow is not None:
            self._overflow.close()
        os.close(self._lifetime)
        self._lifetime = -1
        remove_abandoned(self.folder.parent)
