"""Arguments and options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.stopping import exit_code_of

TAKES_SETTINGS = {"ignore_unknown_options": True}
"""Pass `--key value` of a recipe on as arguments: they are not options of the command."""

Config = Annotated[
    str,
    typer.Argument(
        help="YAML file of the run, such as configs/quickstart.yaml; or a recipe of TRL, Open-R1 or MedicalGPT: its YAML file, or its shell "
        "line from the first --key on."
    ),
]
Accelerate = Annotated[
    Path | None, typer.Option(help="Accelerate file of a recipe, such as zero2.yaml: gives the number of learner ranks.")
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join: HOST:PORT, auto, or local for a private one. Overrides cluster.address.")
]
Resume = Annotated[
    str,
    typer.Option(
        help="auto: continue an unfinished run in out_dir; none: start anew; or the path of a checkpoint, which becomes the newest."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the resolved settings, placement, batch arithmetic and memory estimate, and start nothing.")
]

Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show every setting of a recipe, also those that are taken as they are, with name and value.")
]


def exit_with(exit_reason: str) -> None:
    """End the command as its work ended: with 130, 143 or 129 where a signal stopped it (README.md).

    Raises:
        typer.Exit: a signal stopped the work.
    """
    if code := exit_code_of(exit_reason):
        raise typer.Exit(code)


def with_address(settings: list[str], address: str | None) -> list[str]:
    """`settings`, with the option --address as one more of them."""
    return [*settings, *([f"cluster.address={address}"] if address else [])]
