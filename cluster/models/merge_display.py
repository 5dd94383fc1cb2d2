"""Show the progress and the result of a merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cluster.models.merge import TOLERANCE, MergeOutcome, MergeSource


@contextmanager
def merge_progress(source: MergeSource, console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Print what is merged into what, and show the progress."""
    console.print(f"adapter: {source.adapter}\nbase:    {source.base}", markup=False)
    for note in source.notes:
        console.print(note, style="yellow", markup=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("starting", total=1)
        yield lambda what, done, total: shown.update(task, description=what, completed=done, total=total)


def say_outcome(folder: Path, outcome: MergeOutcome, dtype: str, console: Console) -> None:
    """Print sizes, and how much the merged model differs from the base with its adapter."""
    mean, largest = TOLERANCE[dtype]
    console.print(
        f"merged: {outcome.modules} modules; {outcome.parameters / 1e6:,.1f} M parameters in {dtype}, {outcome.nbytes / 1e6:,.1f} MB\n"
        f"checked: token log-probabilities differ from base + adapter by {outcome.mean_difference:.2g} nats on average (at most {mean:g} is "
        f"accepted), {outcome.max_difference:.2g} at most ({largest:g}), over {outcome.checked_tokens} tokens; the adapter itself changes them "
        f"by {outcome.mean_effect:.2g}",
        markup=False,
    )
    if outcome.rounding_drowns_the_adapter:
        console.print(
            f"WARNING: rounding to {dtype} changes the model more than half as much as training did; --dtype float32 keeps all of it, "
            "and so does serving the adapter by itself",
            style="yellow",
            markup=False,
        )
    console.print(f"folder: {folder}", markup=False)
