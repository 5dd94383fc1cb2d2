"""The command line: `rollcast ...`, or equally `python -m cluster ...`."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from cluster.commands.compare import compare
from cluster.commands.convert import convert
from cluster.commands.data import data
from cluster.commands.evaluate import evaluate
from cluster.commands.merge import merge
from cluster.commands.options import TAKES_SETTINGS
from cluster.commands.push import push
from cluster.commands.report import report
from cluster.commands.score import score
from cluster.commands.sft import sft
from cluster.commands.train import train
from configs.contracts.errors import RollcastError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def rollcast() -> None:
    """Train language models by GRPO on Ray: separate processes sample completions, score them and train an adapter."""


app.command(context_settings=TAKES_SETTINGS)(train)
app.command(context_settings=TAKES_SETTINGS)(sft)
app.command(context_settings=TAKES_SETTINGS)(convert)
app.command()(evaluate)
app.command()(compare)
app.command()(score)
app.command()(report)
app.command()(merge)
app.command()(push)
app.add_typer(data, name="data")


def main() -> None:
    """Run the command line; print an error that rollcast raises on purpose without a traceback."""
    try:
        app()
    except RollcastError as error:
        Console(stderr=True, soft_wrap=True).print(f"{type(error).__name__}: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
