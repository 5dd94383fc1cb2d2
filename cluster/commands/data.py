"""`rollcast data`, and `rollcast data pass-rate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from cluster.commands.options import TAKES_SETTINGS, Accelerate, Address, Config, Verbose, with_address


class _ShowByDefault(TyperGroup):
    """A group of commands in which `rollcast data CONFIG` means `rollcast data show CONFIG`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["show", *args]
        return super().parse_args(ctx, args)


data = typer.Typer(
    cls=_ShowByDefault,
    no_args_is_help=True,
    help="Look at the data of a run before it starts; `rollcast data CONFIG` is short for `rollcast data show CONFIG`.",
)

Overrides = Annotated[list[str] | None, typer.Argument(help="Settings that override the file's, such as data.max_prompt_length=1024.")]


@data.command(context_settings=TAKES_SETTINGS)
def show(
    config: Config,
    overrides: Overrides = None,
    accelerate: Accelerate = None,
    examples: Annotated[int, typer.Option(min=0, help="Number of prompts to print as the model reads them.")] = 3,
    golds: Annotated[int, typer.Option(min=1, help="Number of prompts whose gold answers are read.")] = 1000,
    verbose: Verbose = False,
) -> None:
    """Show row counts, prompt lengths, rendered prompts, gold (correct) answers that cannot be read, and warnings. Needs neither Ray nor a GPU.

    Ends with exit code 1 if a run would be refused because of its gold answers or missing columns.
    """
    import logging

    from cluster.inspection.show_data import show_data
    from configs.recipes.command_line import load_run

    logging.getLogger("actors").setLevel(logging.ERROR)  # its warnings are shown below the tables
    console = Console(emoji=False, soft_wrap=True)
    run = load_run([config, *(overrides or [])], accelerate, console, verbose=verbose)
    if not show_data(run, examples, golds, console):
        raise typer.Exit(1)


@data.command("pass-rate", context_settings=TAKES_SETTINGS)
def pass_rate(
    config: Config,
    output: Annotated[Path, typer.Option("--output", "-o", help="Parquet file to write: all columns and the pass rate.")],
    overrides: Overrides = None,
    accelerate: Accelerate = None,
    num_generations: Annotated[int, typer.Option(min=1, help="Completions to sample for each prompt.")] = 8,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of prompts to measure, chosen by the seed; the first of a stream.")
    ] = None,
    reward: Annotated[str | None, typer.Option(help="Reward whose mean is the pass rate; default: the run's first.")] = None,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Measure how often the model passes each prompt, for a filter or a curriculum. After an interruption, the same command continues."""
    from cluster.inspection.pass_rate import PassRatePlan, measure_pass_rates
    from configs.recipes.command_line import load_run

    console = Console(emoji=False, soft_wrap=True)
    run = load_run(with_address([config, *(overrides or [])], address), accelerate, console, verbose=verbose)
    measure_pass_rates(run, PassRatePlan.of(run, output, num_generations, reward, limit), console)
