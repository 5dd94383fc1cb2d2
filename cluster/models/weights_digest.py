"""The digest of a model's weights, by which a base is known wherever it lies.

    safetensors files ─► each tensor: name, type, shape, SHA-256 of its bytes ─► sorted by name ─► SHA-256

So the digest is the same in one file and in many, under any folder name. Reading takes about a second for 1 GB (0.8 s on one idle core). Digests
of large models are kept in the user's cache folder, and are read from there as long as no file of the model has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cluster.models.safetensors_head import read_head

CACHED_FROM_BYTES = 256 << 20
"""Digests of smaller models are computed again each time: that takes a quarter of a second."""

READ_BYTES = 4 << 20
THREADS = 4
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class StampedFile:
    """A file and what changes whenever its content does."""

    path: Path
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> StampedFile:
        found = path.stat()
        return cls(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    @property
    def stamp(self) -> list[str | int]:
        return [self.path.name, self.size, self.mtime_ns, self.ctime_ns, self.inode]


@dataclass(frozen=True, slots=True)
class _StoredBytes:
    """Bytes of one tensor in a file; `title` has its name, type and shape."""

    file: Path
    title: str
    start: int
    end: int


def weights_digest(folder: Path) -> str | None:
    """Compute the digest of the weights in a model's folder; None where it holds none, or not all of them.

    Example: `weights_digest(Path("runs/x/base_model")) == "5f1c…"` (64 hexadecimal digits).
    """
    try:
        files = tuple(StampedFile.of(file) for file in weight_files(folder))
        return _kept_digest(folder.absolute(), files) if files else None
    except (OSError, ValueError, KeyError):  # no such folder, or files that are cut short
        return None


def bytes_to_read(folder: Path) -> int:
    """Count the bytes that `weights_digest` would read; 0 where the digest is kept from before."""
    try:
        files = tuple(StampedFile.of(file) for file in weight_files(folder))
    except (OSError, ValueError, KeyError):
        return 0
    return 0 if _kept(_entry(folder.absolute()), files) else sum(file.size for file in files)


def weight_files(folder: Path) -> list[Path]:
    """Find the files that hold a model's weights, in the order of their names: safetensors, or else PyTorch's own."""
    index = folder / INDEX
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


@lru_cache(maxsize=64)
def _kept_digest(folder: Path, files: tuple[StampedFile, ...]) -> str:
    """Look the digest up in the cache folder, or compute it and keep it there."""
    if sum(file.size for file in files) < CACHED_FROM_BYTES:
        return _computed(files)
    entry = _entry(folder)
    kept = _kept(entry, files)
    if kept is not None:
        return kept
    digest = _computed(files)
    _keep(entry, json.dumps({"model": str(folder), "files": [file.stamp for file in files], "digest": digest}))
    return digest


def _kept(entry: Path, files: tuple[StampedFile, ...]) -> str | None:
    """Read the digest in an entry, if the files are as they were."""
    try:
        kept = json.loads(entry.read_text())
        return kept["digest"] if kept["files"] == [file.stamp for file in files] else None
    except (OSError, ValueError, KeyError):
        return None


def _entry(folder: Path) -> Path:
    return cache_folder() / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:32]}.json"


def cache_folder() -> Path:
    """Return the folder of kept digests."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rollcast" / "weights"


def _keep(entry: Path, text: str) -> None:
    """Write an entry whole, where the cache folder can be written."""
    unfinished = entry.with_name(f"{entry.name}.{os.getpid()}.tmp")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text)
        os.replace(unfinished, entry)
    except OSError:
        pass  # the next command computes it again


def _computed(files: tuple[StampedFile, ...]) -> str:
    parts = [part for file in files for part in _parts(file)]
    with ThreadPoolExecutor(THREADS) as threads:
        digests = threads.map(_sha256, parts)
        lines = sorted(f"{part.title} {digest}\n" for part, digest in zip(parts, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _parts(file: StampedFile) -> Iterator[_StoredBytes]:
    """Iterate over the tensors of a safetensors file. A file of another format is one part."""
    if file.path.suffix != ".safetensors":
        yield _StoredBytes(file.path, file.path.name, 0, file.size)
        return
    with file.path.open("rb") as content:
        entries, data_start = read_head(content), content.tell()
    for name, entry in entries.items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield _StoredBytes(file.path, f"{name} {entry['dtype']} {entry['shape']}", data_start + start, data_start + end)


def _sha256(part: _StoredBytes) -> str:
    digest, left = hashlib.sha256(), part.end - part.start
    with part.file.open("rb") as content:
        content.seek(part.start)
        while left:
            block = content.read(min(left, READ_BYTES))
            if not block:
                raise OSError(f"{part.file} is cut short")
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
