"""`rollcast compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.evaluate import Data, Limit, NumGenerations, PassAt, Seed, Temperature, TopP, settings_of
from cluster.commands.options import Address, Verbose


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Models to compare: base, and NAME=PATH for each PEFT adapter, run directory or whole model. Before them, optionally: a YAML "
            "file or run directory that gives data, rewards and settings, and settings that override it, such as actors.top_p=0.9."
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
        typer.Option(
            "--output",
            "-o",
            help="Folder for page, completions and summary; default: comparisons/TIME in the run's directory, or here without one.",
        ),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Compare models on the same prompts: a table, and a page with their answers side by side."""
    from cluster.comparison.compare import run_comparison
    from cluster.comparison.compared_models import read_arguments

    settings = settings_of(
        data=data,
        num_generations=num_generations,
        temperature=temperature,
        top_p=top_p,
        pass_at=pass_at,
        limit=limit,
        seed=seed,
        address=address,
    )
    run_comparison(read_arguments(models), settings, output, Console(emoji=False), verbose=verbose)
