"""`rollcast sft`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.options import Accelerate


def sft(
    config: Annotated[
        str,
        typer.Argument(
            help="YAML file of the fine-tuning, such as configs/quickstart_sft.yaml, or an SFT recipe of TRL, Open-R1, MedicalGPT: a flat YAML file, "
            "or the first --key of a shell line."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings over the file: learner.learning_rate=1e-4 out_dir=runs/mine; for a recipe also its own: --max_length 2048."
        ),
    ] = None,
    accelerate: Accelerate = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on with an unfinished run in out_dir; none: begin anew; or the path of a checkpoint.")
    ] = "auto",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join (host:port, auto, or local); overrides cluster.address.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved settings, placement, batch arithmetic and memory, and start nothing.")
    ] = False,
) -> None:
    """Fine-tune a model on demonstrations: LoRA or every weight. Its adapter starts GRPO (docs/sft.md)."""
    from configs.recipes.command_line import load_sft

    settings = [config, *(overrides or []), *([f"cluster.address={address}"] if address else [])]
    run = load_sft(settings, accelerate, Console())
    if dry_run:
        from cluster.inspection.dry_run import show_sft_dry_run
        from cluster.models.starting_adapter import with_starting_adapter

        show_sft_dry_run(with_starting_adapter(run), Console())
        return
    from cluster.train.sft import run_sft

    run_sft(run, resume if resume in ("auto", "none") else Path(resume))
