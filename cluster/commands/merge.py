"""`rollcast merge`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


class Dtype(StrEnum):
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


def merge(
    source: Annotated[Path, typer.Argument(help="Run directory, such as runs/quickstart, or the folder of a PEFT adapter.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write; default: merged in the run's directory, or ADAPTER-merged beside an adapter."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Folder or hub id of the unquantised base model; default: the one that the run or the adapter names.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the saved weights.")] = Dtype.bfloat16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing folder.")] = False,
) -> None:
    """Merge an adapter into its unquantised base model, as a folder to serve; log-probabilities are compared as a check."""
    from cluster.models.merge import find_source, merge_adapter
    from cluster.models.merge_display import merge_progress, say_outcome

    console = Console(emoji=False, soft_wrap=True, highlight=False)
    found = find_source(source, base)
    with merge_progress(found, console) as progress:
        folder, outcome = merge_adapter(found, output, dtype=dtype.value, overwrite=overwrite, progress=progress)
    say_outcome(folder, outcome, dtype.value, console)
