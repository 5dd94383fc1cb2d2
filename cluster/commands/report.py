"""`rollcast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, such as runs/quickstart; the curves of several are overlaid.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file to write; default: report.html in the run's directory, or here for several runs."),
    ] = None,
) -> None:
    """Write one HTML page with a run's curves, rewards and sampled completions, or with the curves of several runs overlaid."""
    from cluster.report import write_report

    Console(emoji=False, soft_wrap=True, highlight=False).print(f"report: {write_report(runs, output)}", markup=False)
