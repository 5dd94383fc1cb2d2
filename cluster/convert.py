"""A recipe of TRL, Open-R1 or MedicalGPT on the command line: shown, written, or trained as it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from cluster.errors import ConfigError
from configs.loading import config_of, read_yaml
from configs.recipes import Arguments, Conversion, is_recipe, read_recipe, sort_arguments
from configs.schema import RunConfig


def load_run(arguments: Sequence[str], accelerate: Path | None, console: Console) -> RunConfig:
    """A run from what stands on the command line. What a recipe became is shown.

    Args:
        arguments: a file of rollcast and `section.key=value`; or a recipe, `--key value` of it, or both, and `section.key=value`.
        accelerate: accelerate file of a recipe.

    Raises:
        ConfigError: it is neither, or cannot work.
    """
    path, given = _split(arguments)
    tree = read_yaml(path) if path else {}
    if path and not is_recipe(tree):
        _refuse_recipe_options(path, given, accelerate)
        return config_of(tree, str(path), given.overrides)
    conversion = read_recipe(path, given, accelerate)
    show(conversion, console)
    return conversion.config


def convert_recipe(arguments: Sequence[str], accelerate: Path | None, output: Path | None, console: Console) -> None:
    """Show what a recipe becomes, and write the file, or print it to the standard output.

    Raises:
        ConfigError: it is no recipe, it cannot work, or the file cannot be written.
    """
    path, given = _split(arguments)
    conversion = read_recipe(path, given, accelerate)
    show(conversion, console)
    if output is None:
        print(conversion.to_yaml(), end="")
        return
    try:
        output.write_text(conversion.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}; give another path with --output") from None
    console.print(f"written: {output}; train it with: rollcast train {output}", markup=False, highlight=False, soft_wrap=True)


def show(conversion: Conversion, console: Console) -> None:
    """What became what, what is set although the recipe does not say it, and what has no effect here and why."""
    rows = conversion.rows
    console.print(f"converted from {conversion.source}", markup=False, highlight=False, soft_wrap=True)
    said = _table("of the recipe", "here", "")
    for row in rows:
        if row.setting and row.target:
            said.add_row(row.origin, row.outcome, row.why)
    unsaid = _table("not in the recipe, set here", "because")
    for row in rows:
        if not row.setting:
            unsaid.add_row(row.outcome, row.why)
    without = _table("no effect here", "because")
    for why, settings in groupby(sorted((row for row in rows if not row.target), key=lambda row: row.why), key=lambda row: row.why):
        without.add_row("\n".join(row.origin for row in settings), why)
    for table in (said, unsaid, without):
        if table.row_count:
            console.print(table)


def _table(*headings: str) -> Table:
    """Long names are broken over lines, never cut."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _split(arguments: Sequence[str]) -> tuple[Path | None, Arguments]:
    """The file, if the first argument is one or `--config` names one, and the rest."""
    first, *rest = arguments
    named = not first.startswith("--")
    given = sort_arguments(rest if named else arguments)
    if named and given.recipe:
        raise ConfigError(f"{first} and --config {given.recipe} are two recipes; give one of them")
    return Path(first) if named else given.recipe, given


def _refuse_recipe_options(path: Path, given: Arguments, accelerate: Path | None) -> None:
    options = [f"--{setting}" for setting in given.settings]
    if accelerate or given.accelerate:
        options.append("--accelerate")
    if options:
        raise ConfigError(
            f"{', '.join(options)}: {path} is a file of rollcast, and such options belong to recipes of TRL, Open-R1 or MedicalGPT; "
            "write settings as learner.beta=0.04, and see rollcast train --help for options"
        )
