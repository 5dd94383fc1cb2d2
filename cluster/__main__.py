"""The command line: `rollcast ...`, or equally `python -m cluster ...`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from cluster.commands.compare import compare
from cluster.commands.convert import convert
from cluster.commands.data import data
from cluster.commands.doctor import doctor
from cluster.commands.evaluate import evaluate
from cluster.commands.init import init
from cluster.commands.merge import merge
from cluster.commands.options import TAKES_SETTINGS
from cluster.commands.push import push
from cluster.commands.report import report
from cluster.commands.score import score
from cluster.commands.sft import sft
from cluster.commands.train import train
from cluster.installation import require_matching_wheels
from cluster.stopping import EndedBySignal, unwinding_on_signals
from configs.contracts.errors import RollcastError
from rollcast import __version__

ANYWHERE = {"doctor", "init", "--version", "--help", "--install-completion", "--show-completion"}
"""Commands that also run where the packages of the environment clash."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"rollcast {__version__}")
        raise typer.Exit


@app.callback()
def rollcast(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Train language models by GRPO on Ray: separate processes sample completions, score them and train an adapter."""


app.command(context_settings=TAKES_SETTINGS)(train)
app.command(context_settings=TAKES_SETTINGS)(sft)
app.command(context_settings=TAKES_SETTINGS)(convert)
app.command()(init)
app.command()(doctor)
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
        if not ANYWHERE.intersection(sys.argv[1:2]):
            require_matching_wheels()
        with unwinding_on_signals():
            app()
    except RollcastError as error:
        _say_in_red(f"{type(error).__name__}: {error}")
        sys.exit(error.exit_code)
    except EndedBySignal as ended:
        _say_in_red(str(ended))
        raise


def _say_in_red(text: str) -> None:
    Console(emoji=False, stderr=True, soft_wrap=True).print(text, style="red", markup=False, highlight=False)


if __name__ == "__main__":
    main()
