"""A recipe of TRL, Open-R1 or MedicalGPT on the command line: shown, written, or trained as it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from configs.contracts.errors import ConfigError
from configs.loading import Config
from configs.recipes.conversion import Arguments, Conversion, is_recipe, read_recipe_of, sort_arguments
from configs.recipes.kinds import GRPO, SFT, RecipeKind
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.yaml_files import read_yaml


def load_run(arguments: Sequence[str], accelerate: Path | None, console: Console) -> RunConfig:
    """A run from what stands on the command line. What a recipe became is shown.

    Args:
        arguments: a file of rollcast and `section.key=value`; or a recipe, `--key value` of it, or both, and `section.key=value`.
        accelerate: accelerate file of a recipe.

    Raises:
        ConfigError: it is neither, or cannot work.
    """
    return _load(GRPO, arguments, accelerate, console)


def load_sft(arguments: Sequence[str], accelerate: Path | None, console: Console) -> SftConfig:
    """A supervised fine-tuning from what stands on the command line, as `load_run` a run of GRPO.

    Raises:
        ConfigError: as of `load_run`.
    """
    return _load(SFT, arguments, accelerate, console)


def _load(kind: RecipeKind[Config], arguments: Sequence[str], accelerate: Path | None, console: Console) -> Config:
    path, given = _split(arguments, kind)
    tree = read_yaml(path) if path else {}
    if path and not is_recipe(tree):
        _refuse_recipe_options(path, given, accelerate, kind)
        return kind.config_of(tree, str(path), given.overrides)
    conversion = read_recipe_of(kind, path, given, accelerate)
    show(conversion, console)
    return conversion.config


def convert_recipe(arguments: Sequence[str], accelerate: Path | None, output: Path | None, console: Console, *, sft: bool = False) -> None:
    """Show what a recipe becomes, and write the file, or print it to the standard output.

    Args:
        sft: it is a recipe of supervised fine-tuning, and of GRPO otherwise.

    Raises:
        ConfigError: it is no such recipe, it cannot work, or the file cannot be written.
    """
    _convert(SFT if sft else GRPO, arguments, accelerate, output, console)


def _convert(kind: RecipeKind[Any], arguments: Sequence[str], accelerate: Path | None, output: Path | None, console: Console) -> None:
    path, given = _split(arguments, kind)
    conversion = read_recipe_of(kind, path, given, accelerate)
    show(conversion, console)
    if output is None:
        print(conversion.to_yaml(), end="")
        return
    try:
        output.write_text(conversion.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}; give another path with --output") from None
    console.print(f"written: {output}; train it with: {kind.command} {output}", markup=False, highlight=False, soft_wrap=True)


def show(conversion: Conversion[Any], console: Console) -> None:
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


def _split(arguments: Sequence[str], kind: RecipeKind[Any]) -> tuple[Path | None, Arguments]:
    """The file, if the first argument is one or `--config` names one, and the rest."""
    first, *rest = arguments
    named = not first.startswith("--")
    given = sort_arguments(rest if named else arguments, kind)
    if named and given.recipe:
        raise ConfigError(f"{first} and --config {given.recipe} are two recipes; give one of them")
    return Path(first) if named else given.recipe, given


def _refuse_recipe_options(path: Path, given: Arguments, accelerate: Path | None, kind: RecipeKind[Any]) -> None:
    options = [f"--{setting}" for setting in given.settings]
    if accelerate or given.accelerate:
        options.append("--accelerate")
    if options:
        raise ConfigError(
            f"{', '.join(options)}: {path} is a file of rollcast, and such options belong to recipes of TRL, Open-R1 or MedicalGPT; "
            f"write settings as {kind.example}, and see {kind.command} --help for options"
        )
