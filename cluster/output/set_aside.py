"""Set aside, in the run directory, what a run did after the checkpoint that it is resumed from: the run goes on from there, and nothing is lost.

abandoned/after-step-000004/     what was done after step 4, under the names that it had: checkpoints/, completions/, evaluations/, metrics.jsonl,
                                 tensorboard/, and the results of the end (summary.json, adapter/, ...)
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from cluster.files.metrics_file import read_rows, truncate
from cluster.files.tensorboard_file import write_events
from cluster.output.checkpoint import Checkpoint, folders_in

ABANDONED = "abandoned"

RESULTS = ("summary.json", "report.html", "evaluation_after.json", "adapter")
"""What a run writes at its end. It goes first: a summary of an end that was given up would tell the next start that there is nothing to resume."""

OF_STEPS = ("checkpoints", "completions", "evaluations")
"""Folders with a file or a folder for each step, `step-000004`."""


def set_aside_after(run: Path, head: Checkpoint) -> list[str]:
    """Make a checkpoint the newest of a run directory. What the run did after it is moved to `abandoned/`.

    A checkpoint of another place is of another training: then everything is moved that the run did.

    Returns:
        The lines to show; none where nothing was moved.
    """
    own = head.folder.resolve().parent == (run / "checkpoints").resolve()
    last = head.step if own else -1
    results = RESULTS if own else (*RESULTS, "evaluation_before.json")
    moved = [*(run / name for name in results if (run / name).exists()), *_later(run, last)]
    log = run / "metrics.jsonl"
    cut = any(row["step"] > last for row in read_rows(log))
    if not moved and not cut:
        return []
    folder = _new_folder(run / ABANDONED / (f"after-step-{head.step:06d}" if own else "before-resuming-elsewhere"))
    for path in moved:
        _move(path, run, folder)
    if cut:
        _cut_metrics(run, folder, last)
    names = [str(path.relative_to(run)) for path in moved if path.parent.name != "completions"]
    names += ["completions"] * any(path.parent.name == "completions" for path in moved) + ["lines of metrics.jsonl"] * cut
    after = f"after step {last}" if own else f"that is not of {head.folder}"
    return [f"what this directory holds {after} is set aside in {folder}: {', '.join(names)}", *_way_back(folder)]


def set_aside_damaged(run: Path, head: Checkpoint) -> list[str]:
    """Move the checkpoints after the newest whole one to `abandoned/`: else they would count among those that are kept. Returns the lines to show."""
    damaged = [path for path in folders_in(run / "checkpoints") if _step(path) > head.step]
    if not damaged:
        return []
    folder = _new_folder(run / ABANDONED / f"after-step-{head.step:06d}")
    for path in damaged:
        _move(path, run, folder)
    return [f"damaged checkpoints are set aside in {folder}: {', '.join(path.name for path in damaged)}"]


def _later(run: Path, last: int) -> Iterator[Path]:
    for name in OF_STEPS:
        yield from sorted(path for path in (run / name).glob("step-*") if _step(path) > last)


def _step(path: Path) -> int:
    """The step of `step-000004` or `step-000004.parquet`; -1 of any other name."""
    found = re.fullmatch(r"step-(\d+)(?:\.parquet)?", path.name)
    return int(found[1]) if found else -1


def _move(path: Path, run: Path, folder: Path) -> None:
    target = folder / path.relative_to(run)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


def _cut_metrics(run: Path, folder: Path, last: int) -> None:
    """Keep the whole log in `folder`, and in the run its lines up to `last`, as events of TensorBoard too."""
    log, events = run / "metrics.jsonl", run / "tensorboard"
    shutil.copy2(log, folder / log.name)
    truncate(log, last)
    if events.exists():
        _move(events, run, folder)
        write_events(events, read_rows(log))


def _new_folder(wanted: Path) -> Path:
    number, folder = 1, wanted
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}.{number}")
    folder.mkdir(parents=True)
    return folder


def _way_back(folder: Path) -> list[str]:
    checkpoints = folders_in(folder / "checkpoints")
    return [f"to go back to it: --resume {checkpoints[-1]}"] if checkpoints else []
