"""`rollcast init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table


def init(
    name: Annotated[str | None, typer.Argument(help="Name of a packaged file, such as quickstart; default: list them.")] = None,
) -> None:
    """Write one of the YAML files that come with rollcast into the current folder, with a comment at every key."""
    from configs.packaged import packaged_names, write_packaged

    console = Console(emoji=False, soft_wrap=True, highlight=False)
    if name is None:
        table = Table(box=box.SIMPLE)
        table.add_column("rollcast init ...", no_wrap=True)
        table.add_column("what it trains")
        for packaged, purpose in packaged_names().items():
            table.add_row(packaged, purpose)
        Console(emoji=False, highlight=False).print(table)
        return
    written = write_packaged(name, Path.cwd())
    command = "sft" if name.removesuffix(".yaml").endswith("sft") else "train"
    console.print(f"{written.name} is written; look it over, then: rollcast {command} {written.name}", markup=False)
