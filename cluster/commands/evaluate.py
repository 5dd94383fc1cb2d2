"""`rollcast evaluate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Data = Annotated[
    list[str] | None,
    typer.Option(
        help="Data set: math_500, aime_2024, aime_2025, gsm8k, or a path or hub id, with @split; repeatable. Default: evaluation.data, or the "
        "held-out prompts."
    ),
]
NumGenerations = Annotated[int | None, typer.Option(min=1, help="Completions for each prompt; default 1, which is greedy.")]
Temperature = Annotated[float | None, typer.Option(min=0, help="0 is greedy; default for several completions: actors.temperature.")]
TopP = Annotated[float | None, typer.Option(help="Default: actors.top_p.")]
PassAt = Annotated[str | None, typer.Option(help="Give pass@k for these k, as 1,4,8; default: for --num-generations.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use so many prompts of each data set, a seeded subset.")]
Seed = Annotated[int | None, typer.Option(help="Of sampling, subset and bootstrap; default: the run's.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join (host:port, auto, or local); overrides cluster.address.")]


def settings_of(
    data: list[str] | None,
    num_generations: int | None,
    temperature: float | None,
    top_p: float | None,
    pass_at: str | None,
    limit: int | None,
    seed: int | None,
    address: str | None,
) -> list[str]:
    """The options as settings of a run."""
    given = {
        "evaluation.data": json.dumps(data) if data else None,
        "evaluation.num_generations": num_generations,
        "evaluation.temperature": temperature,
        "evaluation.top_p": top_p,
        "evaluation.pass_at": f"[{pass_at}]" if pass_at else None,
        "evaluation.max_prompts": limit,
        "evaluation.seed": seed,
        "cluster.address": address,
    }
    return [f"{key}={value}" for key, value in given.items() if value is not None]


def evaluate(
    run: Annotated[str, typer.Argument(help="Directory of a run, such as runs/quickstart, or the YAML file of one.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings over the file: actors.max_completion_length=4096.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="PEFT folder, or none for the base model. Default: the run's result, or its newest checkpoint.")
    ] = None,
    data: Data = None,
    num_generations: NumGenerations = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    pass_at: PassAt = None,
    limit: Limit = None,
    seed: Seed = None,
    address: Address = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for completions and summary; default: evaluations/TIME in the run's.")
    ] = None,
) -> None:
    """Evaluate a model: greedy accuracy, or avg@k, pass@k and majority vote, with 95 % intervals; writes every completion."""
    from cluster.evaluation.run import adapter_to_evaluate, load_target, run_evaluation

    console = Console()
    settings = settings_of(data, num_generations, temperature, top_p, pass_at, limit, seed, address)
    config, folder = load_target(run, [*(overrides or []), *settings], console)
    where = output or (folder or config.out_dir) / "evaluations" / time.strftime("%Y%m%d-%H%M%S")
    run_evaluation(config, folder, adapter_to_evaluate(config, folder, adapter), where.absolute(), console)
