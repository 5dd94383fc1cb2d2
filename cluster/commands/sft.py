"""`rollcast sft`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.options import Accelerate, Address, DryRun, Resume, Verbose, exit_with, with_address


def sft(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file of the fine-tuning, such as configs/quickstart_sft.yaml; or an SFT recipe of TRL, Open-R1 or MedicalGPT: its YAML "
            "file, or its shell line from the first --key on."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings that override the file's, such as learner.learning_rate=1e-4 out_dir=runs/mine; for a recipe also its own, such as "
            "--max_length 2048."
        ),
    ] = None,
    accelerate: Accelerate = None,
    resume: Resume = "auto",
    address: Address = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Fine-tune a model on demonstrations, with LoRA or all weights; GRPO can start from the result (docs/sft.md)."""
    from configs.recipes.command_line import load_sft

    run = load_sft(with_address([config, *(overrides or [])], address), accelerate, Console(emoji=False), verbose=verbose)
    from cluster.output.run_dir import resume_of

    if dry_run:
        from cluster.inspection.dry_run import say_of_earlier_run, show_sft_dry_run
        from cluster.models.starting_adapter import with_starting_adapter

        say_of_earlier_run(run, Console(emoji=False), resume_of(resume))
        show_sft_dry_run(with_starting_adapter(run), Console(emoji=False))
        return
    from cluster.train.sft import run_sft

    exit_with(run_sft(run, resume_of(resume))["exit_reason"])
