"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TAKES_SETTINGS = {"ignore_unknown_options": True}
"""`--key value` of a recipe is no option of ours, and is passed on."""

Accelerate = Annotated[Path | None, typer.Option(help="Accelerate file of a recipe, such as zero2.yaml: how many processes train.")]
