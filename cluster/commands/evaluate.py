"""`rollcast evaluate`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.options import Address, Verbose

Data = Annotated[
    list[str] | None,
    typer.Option(
        help="Data set: math_500, aime_2024, aime_2025, gsm8k, or a path or hub id, optionally with @SPLIT; repeatable. Default: "
        "evaluation.data, or else the held-out prompts."
    ),
]
NumGenerations = Annotated[int | None, typer.Option(min=1, help="Completions for each prompt; default: 1, greedy.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="0 is greedy; default: 0 for one completion, actors.temperature for several.")
]
TopP = Annotated[float | None, typer.Option(help="Nucleus sampling; default: actors.top_p.")]
PassAt = Annotated[str | None, typer.Option(help="Report pass@k for these k, such as 1,4,8; default: --num-generations.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Number of prompts to use of each data set, chosen by the seed.")]
Seed = Annotated[int | None, typer.Option(help="Seed of sampling, subset and bootstrap; default: the run's.")]

SETTINGS = {
    "data": "evaluation.data",
    "num_generations": "evaluation.num_generations",
    "temperature": "evaluation.temperature",
    "top_p": "evaluation.top_p",
    "pass_at": "evaluation.pass_at",
    "limit": "evaluation.max_prompts",
    "seed": "evaluation.seed",
    "address": "cluster.address",
}
"""Option -> the key of the run's settings that it overrides."""


def settings_of(**options: object) -> list[str]:
    """The options that are given, as settings of a run; the names are those of `SETTINGS`.

    Example: `settings_of(limit=200, pass_at="1,4", seed=None) == ["evaluation.max_prompts=200", "evaluation.pass_at=[1,4]"]`.
    """
    given = {name: value for name, value in options.items() if value not in (None, [], "")}
    written = {"data": json.dumps, "pass_at": "[{}]".format}
    return [f"{SETTINGS[name]}={written.get(name, str)(value)}" for name, value in given.items()]


def evaluate(
    run: Annotated[str, typer.Argument(help="Directory of a run, such as runs/quickstart, or its YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings that override the run's, such as actors.max_completion_length=4096.")
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option(help="PEFT folder, or none for the base model. Default: the run's final adapter, or else its newest checkpoint."),
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
        Path | None,
        typer.Option("--output", "-o", help="Folder for completions and summary; default: evaluations/TIME in the run's directory."),
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Evaluate a model: greedy accuracy, or avg@k, pass@k and majority vote, with 95 % intervals. Keeps every completion."""
    from cluster.evaluation.run import adapter_to_evaluate, load_target, run_evaluation
    from cluster.inspection.first_checks import refuse_serving_first

    console = Console(emoji=False)
    settings = settings_of(
        data=data,
        num_generations=num_generations,
        temperature=temperature,
        top_p=top_p,
        pass_at=pass_at,
        limit=limit,
        seed=seed,
        address=address,
    )
    config, folder = load_target(run, [*(overrides or []), *settings], console, verbose=verbose)
    refuse_serving_first(config)
    output = output or (folder or config.out_dir) / "evaluations" / time.strftime("%Y%m%d-%H%M%S")
    run_evaluation(config, folder, adapter_to_evaluate(config, folder, adapter), output.absolute(), console)
