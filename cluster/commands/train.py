"""`rollcast train`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.options import Accelerate, Address, Config, DryRun, Resume, Verbose, exit_with, with_address


def train(
    config: Config,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings that override the file's, such as learner.learning_rate=1e-4 out_dir=runs/mine; for a recipe also its own, such as "
            "--beta 0.01."
        ),
    ] = None,
    accelerate: Accelerate = None,
    resume: Resume = "auto",
    address: Address = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Train a model by GRPO."""
    from configs.recipes.command_line import load_run

    run = load_run(with_address([config, *(overrides or [])], address), accelerate, Console(emoji=False), verbose=verbose)
    from cluster.output.run_dir import resume_of

    if dry_run:
        from cluster.inspection.dry_run import show_run

        show_run(run, Console(emoji=False), resume_of(resume))
        return
    from cluster.train.grpo import run_training
    from cluster.train.stages import run_stages

    summary = (run_stages if run.stages else run_training)(run, resume_of(resume))
    exit_with(summary["exit_reason"])
