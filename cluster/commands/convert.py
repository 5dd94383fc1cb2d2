"""`rollcast convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.options import Accelerate


def convert(
    recipe: Annotated[
        str, typer.Argument(help="Recipe of TRL, Open-R1 or MedicalGPT: a flat YAML file; or the first --key of a shell line.")
    ],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings over the file: --beta 0.01, or learner.beta=0.01.")] = None,
    accelerate: Accelerate = None,
    sft: Annotated[bool, typer.Option("--sft", help="It is a recipe of supervised fine-tuning: a file for `rollcast sft`.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="YAML file to write; without it, it is printed.")] = None,
) -> None:
    """Show what a recipe of TRL, Open-R1 or MedicalGPT becomes: a YAML file to run, and a table of what became what."""
    from configs.recipes.command_line import convert_recipe

    convert_recipe([recipe, *(settings or [])], accelerate, output, Console(stderr=True), sft=sft)
