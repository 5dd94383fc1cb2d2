"""`rollcast doctor`."""

from __future__ import annotations

import typer
from rich.console import Console


def doctor() -> None:
    """Check this environment: versions, GPU, jail of code rewards, memory, disk, ports. Ends with exit code 1 if anything is broken."""
    from cluster.inspection.doctor import examine, show_findings

    if not show_findings(examine(), Console(emoji=False)):
        raise typer.Exit(1)
