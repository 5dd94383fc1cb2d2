"""The run directory: everything that a run writes. One live run at a time holds its lock.

config.yaml       the settings, with all defaults       summary.json     the results
metrics.jsonl     one line for each step                tensorboard/     the same metrics as events
completions/      step-000001.parquet ...               checkpoints/     step-000050/ ...
adapter/          the final adapter, tokenizer, card    logs/            one file for each process, and Ray's own
base_model/ data/ made for `builtin:` names             model_dequantised/  plain weights that the engines serve instead of a quantised base
report.html       the report                            wandb_run_id     the run's id at W&B, for a resumed run
abandoned/        what was done after a checkpoint that the run was resumed from by --resume PATH
1-<name>/ ...     in a run of stages: a run directory for each stage
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from cluster.files.whole_files import write_whole
from configs.contracts.errors import ConfigError, RunDirectoryError

Resume = Literal["auto", "none"] | Path
"""`auto`: continue an unfinished run; `none`: start anew; a path: continue from that checkpoint."""


def resume_of(given: object) -> Resume:
    """Read `auto`, `none` or the path of a checkpoint, as the command line and Python callers give them.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(given, Path):
        return given
    if isinstance(given, str):
        return "auto" if given == "auto" else "none" if given == "none" else Path(given)
    raise ConfigError(f"resume is {given!r}; give 'auto', 'none' or the path of a checkpoint")


FOLDERS = ("logs", "checkpoints", "completions")


@dataclass
class RunDirectory:
    """The folder of a run, locked while the run lives. Use as a context manager or call `close`."""

    path: Path
    _lock: IO[str]
    is_new: bool = False
    """True if this process made the folder."""
    moved_aside: Path | None = None
    """The earlier run that made way for this one."""

    @property
    def notice(self) -> str:
        """What became of an earlier run in this folder; empty if there was none, or it goes on."""
        return "" if self.moved_aside is None else _notice(self.path, self.moved_aside, self.moved_aside)

    @classmethod
    def open(cls, path: Path, resume: Resume, folders: Sequence[str] = FOLDERS) -> RunDirectory:
        """Make and lock the folder, and make `folders` in it.

        If the folder holds an earlier run that is not resumed, it is first renamed to `<name>.1`, `.2`, ..., so that no results are lost.

        Raises:
            RunDirectoryError: it cannot be written, or another live run holds it.
        """
        path = path.absolute()
        is_new = not path.exists()
        lock = _lock(path)
        directory = cls(path, lock, is_new)
        if makes_way(path, resume):
            aside = _aside(path)
            os.rename(path, aside)
            lock.close()
            directory = cls(path, _lock(path), is_new=True, moved_aside=aside)
        for name in folders:
            (path / name).mkdir(exist_ok=True)
        return directory

    def read_summary(self) -> dict[str, object]:
        return read_summary(self.path)

    def write_summary(self, summary: Mapping[str, object]) -> Path:
        return self.write("summary.json", json.dumps(summary, indent=2) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file whole or not at all."""
        return write_whole(self.path / name, text)

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def close(self) -> None:
        self._lock.close()
        with suppress(OSError):  # the folder is gone, or cannot be written any more
            (self.path / "run.lock").unlink(missing_ok=True)

    def discard(self) -> None:
        """Take back a run that was refused: remove its folder, if this process made it, and put an earlier run back that made way for it."""
        if not self.is_new:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if self.moved_aside is not None and not self.path.exists():
            os.rename(self.moved_aside, self.path)

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_summary(path: Path) -> dict[str, object]:
    """Read the `summary.json` of a run directory; empty if it cannot be read."""
    try:
        found = json.loads((path / "summary.json").read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


NOTHING_LEARNED = "nothing was learned"
"""Exit reason of a run that reached its end without a group whose rewards differ. Resuming it would have nothing to do: the same command starts
anew, as after any run that reached its end."""

COMPLETED_REASONS = ("finished", "data exhausted", "every group was filtered", NOTHING_LEARNED)
"""Exit reasons of runs that reached their end. With any other reason, the run can be resumed."""


def ended_well(summary: Mapping[str, object]) -> bool:
    """Return True if the run reached its end, so that there is nothing to resume."""
    return summary.get("exit_reason") in COMPLETED_REASONS


def makes_way(path: Path, resume: Resume) -> bool:
    """Tell whether an earlier run in a folder is kept elsewhere, and a new one begins: it is finished, or is not to be resumed."""
    begins_anew = resume == "none" or (resume == "auto" and ended_well(read_summary(path)))
    return begins_anew and path.is_dir() and any(child.name != "run.lock" for child in path.iterdir())


def foreseen_notice(path: Path, resume: Resume = "auto") -> str:
    """What a run in this folder would say of an earlier one, which is still there; empty if it would make way for none."""
    path = path.absolute()
    return _notice(path, _aside(path), path) if makes_way(path, resume) else ""


def _notice(path: Path, aside: Path, there: Path) -> str:
    """Say that a run begins anew, where the earlier run is kept, and how to go on with it instead.

    Args:
        aside: where the earlier run is kept from now on.
        there: where it is now.
    """
    summary = read_summary(there)
    state = "a finished run" if ended_well(summary) else "an earlier run"
    steps = f" of {summary['steps']} steps" if isinstance(summary.get("steps"), int) else ""
    newest = max((there / "checkpoints").glob("step-*"), default=None)
    remedy = f"; to go on from its last checkpoint instead: --resume {newest}" if newest else ""
    return f"{path} had {state}{steps}: it is kept as {aside}, and this run begins anew with step 1{remedy}"


def _lock(path: Path) -> IO[str]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "run.lock").open("a+")
    except OSError as error:
        raise RunDirectoryError(f"out_dir {path} cannot be written ({error.strerror}): choose another with out_dir=PATH") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "another process"
        raise RunDirectoryError(
            f"out_dir {path} is held by a live run ({holder}): wait for it, stop it, or choose another with out_dir=PATH"
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()} on {os.uname().nodename}")
    lock.flush()
    return lock


def _aside(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return candidate
