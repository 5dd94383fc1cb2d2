"""The command line: `rollcast ...`, the same as `python -m cluster ...`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.errors import RollcastError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="GRPO post-training as a disaggregated actor/learner system on Ray.",
)


@app.callback()
def rollcast() -> None:
    """GRPO post-training as a disaggregated actor/learner system on Ray."""


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run, such as configs/quickstart.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Dotted settings over the file: learner.learning_rate=1e-4 out_dir=runs/mine.")
    ] = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on with an unfinished run in out_dir; none: begin anew; or the path of a checkpoint.")
    ] = "auto",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join (host:port, auto, or local); overrides cluster.address.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved run, placement, batch arithmetic and memory, and start nothing.")
    ] = False,
) -> None:
    """Train a model by GRPO."""
    from cluster.train import run_training
    from configs.loading import load_config

    settings = list(overrides or []) + ([f"cluster.address={address}"] if address else [])
    run = load_config(config, settings)
    if dry_run:
        from cluster.dry_run import show_dry_run

        show_dry_run(run, Console())
        return
    run_training(run, resume if resume in ("auto", "none") else Path(resume))


def main() -> None:
    """Entry point: errors that rollcast raises on purpose are shown without a traceback."""
    try:
        app()
    except RollcastError as error:
        Console(stderr=True, soft_wrap=True).print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
