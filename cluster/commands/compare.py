"""`rollcast compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.evaluate import Address, Data, Limit, NumGenerations, PassAt, Seed, Temperature, TopP, settings_of


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="What to compare: base, and name=PATH for PEFT adapters, run directories or whole models. Before them, a YAML file or run "
            "directory whose data, rewards and settings hold; and settings over it, as actors.max_completion_length=4096."
        ),
    ],
    data: Data = None,
    num_generations: NumGenerations = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    pass_at: PassAt = None,
    limit: Limit = None,
    seed: Seed = None,
    address: Address = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for page, completions and summary; default: comparisons/TIME in the run's, or here."),
    ] = None,
) -> None:
    """Compare models on the same prompts: table, completions, and a page with answers side by side."""
    from cluster.comparison.compare import run_comparison
    from cluster.comparison.compared_models import read_arguments

    settings = settings_of(data, num_generations, temperature, top_p, pass_at, limit, seed, address)
    run_comparison(read_arguments(models), settings, output, Console())
