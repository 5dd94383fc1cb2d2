"""`rollcast train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.options import Accelerate


def train(
    config: Annotated[
        str, typer.Argument(help="YAML file of the run, such as configs/quickstart.yaml, or a recipe of TRL, Open-R1, MedicalGPT.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings over the file: learner.learning_rate=1e-4 out_dir=runs/mine; for a recipe also its own: --beta 0.01."
        ),
    ] = None,
    accelerate: Accelerate = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on with an unfinished run in out_dir; none: begin anew; or the path of a checkpoint.")
    ] = "auto",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join (host:port, auto, or local); overrides cluster.address.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved run, placement, batch arithmetic and memory, and start nothing.")
    ] = False,
) -> None:
    """Train a model by GRPO."""
    from cluster.train.grpo import run_training
    from cluster.train.stages import run_stages
    from configs.recipes.command_line import load_run

    settings = [config, *(overrides or []), *([f"cluster.address={address}"] if address else [])]
    run = load_run(settings, accelerate, Console())
    if dry_run:
        from cluster.inspection.dry_run import show_run

        show_run(run, Console())
        return
    (run_stages if run.stages else run_training)(run, resume if resume in ("auto", "none") else Path(resume))
