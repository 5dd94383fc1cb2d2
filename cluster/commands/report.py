"""`rollcast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, such as runs/quickstart; several are drawn over one another.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file to write; default: report.html in the run's directory, or here for several."),
    ] = None,
) -> None:
    """Write a run's curves, rewards and sampled completions as one HTML page, or those of several runs over one another."""
    from cluster.report import write_report

    Console(soft_wrap=True, highlight=False).print(f"report: {write_report(runs, output)}", markup=False)
