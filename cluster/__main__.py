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


_TAKES_SETTINGS = {"ignore_unknown_options": True}
"""`--key value` of a recipe is no option of ours, and is passed on."""

_Accelerate = Annotated[Path | None, typer.Option(help="Accelerate file of a recipe, such as zero2.yaml: how many processes train.")]


@app.command(context_settings=_TAKES_SETTINGS)
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
    accelerate: _Accelerate = None,
    resume: Annotated[
        str, typer.Option(help="auto: go on with an unfinished run in out_dir; none: begin anew; or the path of a checkpoint.")
    ] = "auto",
    address: Annotated[str | None, typer.Option(help="Ray cluster to join (host:port, auto, or local); overrides cluster.address.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved run, placement, batch arithmetic and memory, and start nothing.")
    ] = False,
) -> None:
    """Train a model by GRPO."""
    from cluster.convert import load_run
    from cluster.train import run_training

    settings = [config, *(overrides or []), *([f"cluster.address={address}"] if address else [])]
    run = load_run(settings, accelerate, Console())
    if dry_run:
        from cluster.dry_run import show_dry_run
        from cluster.starting_adapter import with_starting_adapter

        show_dry_run(with_starting_adapter(run), Console())
        return
    run_training(run, resume if resume in ("auto", "none") else Path(resume))


@app.command(context_settings=_TAKES_SETTINGS)
def convert(
    recipe: Annotated[
        str, typer.Argument(help="Recipe of TRL, Open-R1 or MedicalGPT: a flat YAML file; or the first --key of a shell line.")
    ],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings over the file: --beta 0.01, or learner.beta=0.01.")] = None,
    accelerate: _Accelerate = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="YAML file to write; without it, it is printed.")] = None,
) -> None:
    """Show what a recipe of TRL, Open-R1 or MedicalGPT becomes: a YAML file for `rollcast train`, and a table of what became what."""
    from cluster.convert import convert_recipe

    convert_recipe([recipe, *(settings or [])], accelerate, output, Console(stderr=True))


@app.command()
def score(
    completions: Annotated[
        Path, typer.Option(help="Completions: Parquet (as in a run's completions/), JSONL, JSON or CSV file, or a folder of them.")
    ],
    rewards: Annotated[
        list[str] | None, typer.Argument(help="Rewards: built-in names, path/to/file.py:function or package.module:function.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML of a run, such as runs/x/config.yaml: its weights, parameters and limits hold for the rewards."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(help="reward.parameter=value, as accuracy.answer_style=answer_tag; repeatable.")
    ] = None,
    completion_column: Annotated[str, typer.Option(help="Column with the completions: text, or chat messages.")] = "completion",
    graders: Annotated[int | None, typer.Option(min=1, help="Grader processes; default: one for each core.")] = None,
    timeout_s: Annotated[float | None, typer.Option(min=0.001, help="Hard limit on one completion under one reward; default 10.")] = None,
    output: Annotated[Path | None, typer.Option(help="Parquet file to write, with a column for each value and outcome.")] = None,
) -> None:
    """Score existing completions with any rewards, and show what became of each: for writing and debugging a reward.

    Ends with exit code 1 where a reward timed out, crashed or gave something that is no reward.
    """
    from cluster.score import score_file, section_from
    from configs.loading import load_config

    run = load_config(config, []) if config else None
    found = score_file(
        section_from(rewards or [], param or [], run.rewards if run else None, timeout_s),
        completions,
        completion_column=completion_column,
        max_completion_length=run.actors.max_completion_length if run else None,
        graders=graders,
        output=output,
        console=Console(),
    )
    if found.failed:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, such as runs/quickstart; several are drawn over one another.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="HTML file to write; default: report.html in the run's directory, or here for several."),
    ] = None,
) -> None:
    """Write a run's curves, rewards and sampled completions as one HTML page, or those of several runs over one another."""
    from cluster.report import write_report

    Console(soft_wrap=True, highlight=False).print(f"report: {write_report(runs, output)}", markup=False)


def main() -> None:
    """Entry point: errors that rollcast raises on purpose are shown without a traceback."""
    try:
        app()
    except RollcastError as error:
        Console(stderr=True, soft_wrap=True).print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
