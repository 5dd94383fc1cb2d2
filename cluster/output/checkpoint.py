"""Checkpoints of a run, written atomically: learner state, adapter, position in the data, fate of every prompt, and groups not trained yet.

A checkpoint is written to `step-000050-3f9a1c.tmp`, where every file is fsynced and hashed into `manifest.json`; one rename then makes it
current. Whenever the process is killed, this checkpoint or the previous one is whole. A checkpoint whose files do not match its
manifest is skipped, and the previous one is used.

No name is used twice: a rank on a node that was cut off from the cluster may still be writing the checkpoint of a step that the run, restored
on another node, has come to again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
from annotated_types import Ge
from pydantic import BaseModel, Strict, TypeAdapter

from cluster.files.whole_files import fsync_folder
from configs.contracts.errors import CheckpointError
from configs.contracts.records import ROLLOUT_SCHEMA, GroupSummary, ScoredGroup, Scores

MANIFEST, LOOP_STATE = "manifest.json", "loop.json"

_FACTS = TypeAdapter(tuple[GroupSummary, Scores])
_FILES = TypeAdapter(Annotated[dict[str, str], Strict()])
_STATE = TypeAdapter(dict[str, Any])


class _LeastState(BaseModel):
    """The keys that every `loop.json` has."""

    step: Annotated[int, Strict(), Ge(0)]
    identity: dict[str, Any]


_LEAST_STATE = TypeAdapter(_LeastState)
Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    folder: Path
    state: dict[str, Any]
    """The contents of `loop.json`: step, cursor (position in the data), window (fate of every prompt), and the settings that a resumed run
    must share."""

    @property
    def step(self) -> int:
        return self.state["step"]

    @property
    def learner_folder(self) -> Path:
        return self.folder / "learner"

    def require_same(self, identity: Mapping[str, object]) -> None:
        """Refuse to resume a run whose settings differ from those of the checkpoint.

        Args:
            identity: configuration key -> value, of the settings that a resumed run may not change.

        Raises:
            CheckpointError: the run that wrote this checkpoint had another value.
        """
        before = self.state["identity"]
        for name, value in identity.items():
            if before[name] != value:
                raise CheckpointError(
                    f"{self.folder} was made with {name} {before[name]}, but this run has {value}: keep {before[name]}, or start anew "
                    "in another out_dir or with --resume none"
                )


def folders_in(checkpoints: Path) -> list[Path]:
    """List the folders of all published checkpoints, whole or damaged, the oldest first."""
    return sorted(checkpoints.glob("step-*[0-9]"))


def begin(checkpoints: Path, step: int) -> Path:
    """Make an empty folder to write a checkpoint into, and remove what an interrupted write left."""
    for leftover in checkpoints.glob("*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)  # a rank that was cut off may still write into it
    folder = checkpoints / f"step-{step:06d}-{secrets.token_hex(3)}.tmp"
    checkpoints.mkdir(exist_ok=True)  # but not a run directory that is gone
    folder.mkdir()
    return folder


@contextmanager
def writing(checkpoints: Path, step: int) -> Iterator[Path]:
    """Yield an empty folder to write a checkpoint into, for `finish`. What is unfinished when an error ends it is removed.

    Raises:
        CheckpointError: the disk is full, or the folder cannot be written.
    """
    unfinished = None
    try:
        unfinished = begin(checkpoints, step)
        yield unfinished
    except (OSError, CheckpointError) as error:
        written = _removed_bytes(unfinished)
        raise CheckpointError(_why_unwritten(checkpoints, step, written, error)) from None
    except BaseException:
        _removed_bytes(unfinished)
        raise


def _removed_bytes(unfinished: Path | None) -> int:
    """Remove an unfinished folder, if there is one; returns the bytes that were in it."""
    if unfinished is None:
        return 0
    written = _bytes_in(unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)
    return written


def _why_unwritten(checkpoints: Path, step: int, written: int, error: OSError | CheckpointError) -> str:
    reason = error.message if isinstance(error, CheckpointError) else error.strerror or str(error)
    previous = max(folders_in(checkpoints), default=None)
    goes_on = f"run the same command again, which goes on from {previous.name if previous else 'the beginning'}"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or any(sign in reason for sign in ("No space left", "quota")):
        needed = f"about {_bytes_in(previous) >> 20} MiB" if previous else f"more than {written >> 20} MiB"
        free = shutil.disk_usage(next(each for each in (checkpoints, *checkpoints.parents) if each.exists())).free >> 20
        remedy = f"it needs {needed} and {free} MiB are free; free some space and {goes_on}"
    else:
        remedy = f"make the folder writable again and {goes_on}"
    return f"the checkpoint of step {step} cannot be written to {checkpoints} ({reason}): {remedy}"


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def finish(folder: Path, state: Mapping[str, object], keep: int | None) -> Path:
    """Hash, fsync and publish a folder that `begin` made; remove all checkpoints but the newest `keep`."""
    (folder / LOOP_STATE).write_text(json.dumps(state, indent=1))
    files = {str(file.relative_to(folder)): _fsynced_sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps(files, indent=1))
    _fsynced_sha256(manifest)
    final = folder.with_name(folder.name.rpartition("-")[0])
    if final.exists():
        shutil.rmtree(final)
    os.rename(folder, final)
    fsync_folder(final.parent)
    if keep is not None:
        # Later ones are damaged, or of a run that went on from an earlier one: they must not count in place of whole ones.
        for old in [each for each in folders_in(final.parent) if each.name <= final.name][:-keep]:
            shutil.rmtree(old, ignore_errors=True)
    return final


def newest(checkpoints: Path, warn: Callable[[str], None] = print) -> Checkpoint | None:
    """Read the newest whole checkpoint, or return None. A damaged one is reported with `warn(message)` and skipped."""
    for folder in reversed(folders_in(checkpoints)):
        try:
            return read(folder)
        except CheckpointError as error:
            warn(f"{error.message}; the previous checkpoint is used")
    return None


def read(folder: Path) -> Checkpoint:
    """Verify and read one checkpoint.

    Raises:
        CheckpointError: it is missing, or a file is missing, truncated or altered.
    """
    files = _read_json(folder, MANIFEST, _FILES)
    if LOOP_STATE not in files:
        raise CheckpointError(
            f"{folder} is not a whole checkpoint: {MANIFEST} does not name {LOOP_STATE}; give another one with --resume PATH"
        )
    for name, expected in files.items():
        file = folder / name
        if not file.is_file() or _sha256(file) != expected:
            raise CheckpointError(
                f"{file} is missing or does not match its hash: the checkpoint is damaged; give another one with --resume PATH"
            )
    _read_json(folder, LOOP_STATE, _LEAST_STATE)
    return Checkpoint(folder, _read_json(folder, LOOP_STATE, _STATE))


def _read_json(folder: Path, name: str, kind: TypeAdapter[Content]) -> Content:
    try:
        return kind.validate_json((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, OSError) else "it is not JSON of the right kind"
        raise CheckpointError(
            f"{folder} is not a whole checkpoint ({reason}): it needs a readable {name}; give another one with --resume PATH"
        ) from None


def write_groups(folder: Path, groups: Sequence[ScoredGroup], bodies: Sequence[pa.Table]) -> None:
    """Store scored groups that are not trained yet: bodies as Arrow files, summaries and scores as JSON."""
    folder.mkdir()
    for index, (group, body) in enumerate(zip(groups, bodies, strict=True)):
        with pa.OSFile(str(folder / f"{index:05d}.arrow"), "wb") as sink, pa.ipc.new_file(sink, body.schema) as writer:
            writer.write_table(body)
        (folder / f"{index:05d}.json").write_bytes(_FACTS.dump_json((group.summary, group.scores)))


def read_groups(folder: Path) -> list[tuple[GroupSummary, Scores, pa.Table]]:
    """Read the groups that `write_groups` stored, in the same order."""
    found = []
    for facts in sorted(folder.glob("*.json")):
        with pa.OSFile(str(facts.with_suffix(".arrow")), "rb") as source:
            body = pa.ipc.open_file(source).read_all()
        if not body.schema.equals(ROLLOUT_SCHEMA):
            raise CheckpointError(
                f"{facts.with_suffix('.arrow')} has the columns {body.schema.names}: it was written by another version of rollcast; "
                "resume with that version"
            )
        summary, scores = _FACTS.validate_json(facts.read_bytes())
        found.append((summary, scores, body))
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _fsynced_sha256(file: Path) -> str:
    with file.open("rb") as content:
        os.fsync(content.fileno())
        return hashlib.file_digest(content, "sha256").hexdigest()
