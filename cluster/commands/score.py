"""`rollcast score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def score(
    completions: Annotated[
        Path, typer.Option(help="Completions: a Parquet file (as in a run's completions/), a JSONL, JSON or CSV file, or a folder of them.")
    ],
    rewards: Annotated[
        list[str] | None,
        typer.Argument(help="Rewards: built-in names, path/to/file.py:function, or package.module:function. Default: those of --config."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of a run, such as runs/x/config.yaml, whose weights, parameters and limits the rewards get. Default: that of the run "
            "that wrote the completions."
        ),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(help="Parameter of a reward, such as accuracy.answer_style=answer_tag; repeatable.")
    ] = None,
    completion_column: Annotated[str, typer.Option(help="Column with the completions, as text or chat messages.")] = "completion",
    graders: Annotated[int | None, typer.Option(min=1, help="Number of grader processes; default: one for each core.")] = None,
    timeout_s: Annotated[
        float | None, typer.Option(min=0.001, help="Most seconds for one completion under one reward; default: 10.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Parquet file to write: all columns, and each reward's value and outcome.")] = None,
) -> None:
    """Score existing completions with any rewards, to write or debug a reward.

    Ends with exit code 1 if a reward timed out, crashed or gave an invalid value.
    """
    from cluster.inspection.rescoring import CompletionFile, run_of, score_file, section_from
    from configs.loading import load_config

    file, console = CompletionFile.open(completions, completion_column), Console(emoji=False)
    run = load_config(config, []) if config else run_of(file, console)
    section = section_from(rewards or [], param or [], run, timeout_s)
    if score_file(section, file, graders, output, console).failed:
        raise typer.Exit(1)
