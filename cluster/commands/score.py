"""`rollcast score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


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
    from cluster.inspection.rescoring import CompletionFile, score_file, section_from
    from configs.loading import load_config

    section = section_from(rewards or [], param or [], load_config(config, []) if config else None, timeout_s)
    if score_file(section, CompletionFile.open(completions, completion_column), graders, output, Console()).failed:
        raise typer.Exit(1)
