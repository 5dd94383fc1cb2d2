"""`rollcast push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def push(
    source: Annotated[Path, typer.Argument(help="Run directory, or folder of an adapter or a merged model.")],
    repo_id: Annotated[str, typer.Option("--repo-id", help="Repository: USER/NAME, or NAME alone for the token's own user.")],
    merged: Annotated[
        bool, typer.Option("--merged", help="Push the run's merged model instead of its adapter; merge it first if needed.")
    ] = False,
    adapter: Annotated[
        Path | None, typer.Option(help="Push this adapter of the run, such as a checkpoint's, instead of its final one.")
    ] = None,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Visibility of a repository that is created; default: the account's setting.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch to push to; created if missing. Default: main.")] = None,
    message: Annotated[str, typer.Option(help="Commit message.")] = "Push by rollcast",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files to push, and push nothing.")] = False,
) -> None:
    """Push an adapter or a merged model to the hub, with model card, settings, curves and report. Reads the token from HF_TOKEN."""
    from cluster.publish.push import collect, show
    from cluster.publish.push import push as push_files

    console = Console(emoji=False, soft_wrap=True, highlight=False)
    files = collect(source, merged=merged, adapter=adapter, console=console)
    show(files, console)
    if dry_run:
        console.print(f"dry run: nothing was pushed to {repo_id}", markup=False)
        return
    push_files(files, repo_id, private=private, revision=revision, message=message, console=console)
