"""`rollcast convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.options import Accelerate, Verbose


def convert(
    recipe: Annotated[
        str, typer.Argument(help="Recipe of TRL, Open-R1 or MedicalGPT: its YAML file, or its shell line from the first --key on.")
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Settings that override the recipe's, such as --beta 0.01 or learner.beta=0.01.")
    ] = None,
    accelerate: Accelerate = None,
    sft: Annotated[bool, typer.Option("--sft", help="Take it as a recipe of supervised fine-tuning, for `rollcast sft`.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="YAML file to write; default: print it.")] = None,
    verbose: Verbose = False,
) -> None:
    """Convert a recipe of TRL, Open-R1 or MedicalGPT into a YAML file of rollcast, with a table of what changed."""
    from configs.recipes.command_line import convert_recipe

    console = Console(emoji=False, stderr=True)
    convert_recipe([recipe, *(settings or [])], accelerate, output, console, sft=sft, verbose=verbose)
