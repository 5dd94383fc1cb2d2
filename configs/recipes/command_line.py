"""Take a recipe of TRL, Open-R1 or MedicalGPT from the command line: train it, or show and write what it becomes.

A recipe is a flat YAML file, options as those systems take them (`--learning_rate 1e-6 --reward_funcs accuracy format`), or both; or the
launcher's whole line, typed or in a shell script. An accelerate file beside it says how many processes train.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import yaml
from rich.console import Console

from configs.contracts.errors import ConfigError
from configs.foreign.answers import Command, answer_to_settings, flat
from configs.foreign.other_files import read_tree
from configs.foreign.recognition import refuse_foreign_file, refuse_foreign_line, refuse_foreign_script, refuse_other_kinds
from configs.key_types import key_type
from configs.launch.other_trainers import TRAINERS, trainer_of_script
from configs.launch.shell_lines import SCRIPTS, Launch, launch_in, launch_of
from configs.loading import Config, read_settings
from configs.overrides import parse_in_line
from configs.recipes.conversion import Conversion, convert
from configs.recipes.conversion_table import show_rows
from configs.recipes.kinds import GRPO, KINDS, SFT, AnyKind, RecipeKind
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.yaml_files import YamlValue, read_yaml

COMMAND_OPTIONS = ("--accelerate", "--address", "--dry-run", "--resume")
"""Options of the commands that train, for the spelling of others."""

SECTIONS = ("model", "data", "actors", "rewards", "learner", "cluster", "evaluation", "out_dir")
"""Keys that only a file of rollcast has, and no recipe; `seed` is in both."""

_OVERRIDE = re.compile(r"(?:(?:model|data|actors|rewards|learner|cluster|evaluation)\.[\w.]+|stages|seed|out_dir)=.*", re.DOTALL)


@dataclass(frozen=True)
class Arguments:
    """The arguments of a command, sorted."""

    recipe: Path | None
    """`--config FILE`, as TRL's scripts take it."""
    accelerate: Path | None
    """`--config_file FILE`, as `accelerate launch` takes it."""
    settings: Mapping[str, YamlValue]
    """`--key value`."""
    overrides: tuple[str, ...]
    """`learner.beta=0.04`."""
    repeated: tuple[str, ...] = ()
    """Keys that were given more than once: the last value counts, as in the scripts' own command line."""
    strays: tuple[str, ...] = ()
    """The errors about words that are neither an option nor a setting."""


def load_run(arguments: Sequence[str], accelerate: Path | None, console: Console, *, verbose: bool = False) -> RunConfig:
    """Load a GRPO run from the command line; the conversion of a recipe is shown on `console`.

    Args:
        arguments: a file of rollcast and `section.key=value`; or a recipe, its options `--key value`, or both, and `section.key=value`.
        accelerate: accelerate file of a recipe.
        verbose: show the settings of a recipe too that are taken as they are.

    Raises:
        ConfigError: the arguments are neither, or the run cannot work.
    """
    return _load(GRPO, arguments, accelerate, console, verbose)


def load_sft(arguments: Sequence[str], accelerate: Path | None, console: Console, *, verbose: bool = False) -> SftConfig:
    """Load a supervised fine-tuning from the command line, as `load_run` loads a GRPO run.

    Raises:
        ConfigError: see `load_run`.
    """
    return _load(SFT, arguments, accelerate, console, verbose)


def convert_recipe(
    arguments: Sequence[str], accelerate: Path | None, output: Path | None, console: Console, *, sft: bool = False, verbose: bool = False
) -> None:
    """Show what a recipe becomes, and write the file, or print it to the standard output.

    Args:
        sft: the recipe is one of supervised fine-tuning, not of GRPO.
        verbose: show the settings too that are taken as they are.

    Raises:
        ConfigError: the arguments are no such recipe, the run cannot work, or the file cannot be written.
    """
    kind: AnyKind = SFT if sft else GRPO
    path, given = _split(arguments, accelerate, kind)
    _say_repeated(given, console)
    tree = _read(path, kind) if path else {}
    with _besides(given.strays):
        conversion = read_recipe(kind, tree, given, path)
    show(conversion, console, verbose=verbose)
    if output is None:
        print(conversion.to_yaml(), end="")
        return
    try:
        output.write_text(conversion.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}; give another path with --output") from None
    console.print(f"written: {output}; train it with: {kind.command} {output}", markup=False, highlight=False, soft_wrap=True)


def config_of_mapping(kind: RecipeKind[Config], tree: dict[str, YamlValue], overrides: Sequence[str], console: Console) -> Config:
    """Make the configuration of a mapping that Python gives: the content of a file of rollcast, or of a recipe.

    Raises:
        ConfigError: it is neither, or another system's, or cannot work.
    """
    if answer := answer_to_settings(flat(tree), "the configuration", _command(kind)):
        raise ConfigError(answer)
    if not is_recipe(tree):
        return kind.config_of(tree, "the configuration", overrides, {})
    conversion = convert(kind, tree, overrides=overrides, source="the configuration")
    show(conversion, console)
    return conversion.config


def read_recipe(
    kind: RecipeKind[Config], settings: Mapping[str, YamlValue], arguments: Arguments, path: Path | None = None
) -> Conversion[Config]:
    """Convert a recipe with options; options win over the recipe.

    Args:
        settings: the recipe; empty if there are only options.
        path: file of the recipe, for messages.

    Raises:
        ConfigError: the settings are no recipe of this kind, a setting cannot be converted, or the accelerate file cannot be read.
    """
    if path and not is_recipe(settings):
        raise ConfigError(f"{path} {_no_recipe(settings)}")
    file = arguments.accelerate
    launch = _flat(read_yaml(file)) if file else {}
    names = [*(str(name) for name in (path, file) if name), *(f"--{setting}" for setting in arguments.settings)]
    return convert(kind, {**settings, **arguments.settings}, launch, arguments.overrides, source=", ".join(names))


def is_recipe(tree: Mapping[str, YamlValue]) -> bool:
    """Tell a flat recipe from a file of rollcast."""
    known = frozenset().union(*(kind.tables.known for kind in KINDS))
    return not any(section in tree for section in SECTIONS) and any(key in known and key != "seed" for key in tree)


def sort_arguments(arguments: Sequence[str], kind: AnyKind = GRPO) -> Arguments:
    """Sort `--key value ...`, `--key=value`, `--flag` and `section.key=value`, which may come in any order.

    Raises:
        ConfigError: a value has no key.
    """
    given = _sorted(arguments, kind)
    with _besides(given.strays):
        return given


def _sorted(arguments: Sequence[str], kind: AnyKind) -> Arguments:
    values: dict[str, list[str]] = {}
    overrides: list[str] = []
    repeated: dict[str, None] = {}
    faults: list[str] = []
    key = ""
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            key = key.replace("-", "_")
            if key in values:
                repeated[key] = None
            values[key] = [value] if equals else []
        elif _OVERRIDE.fullmatch(argument):
            overrides.append(argument)
        elif key:
            values[key].append(argument)
        else:
            faults.append(_stray(argument, kind))
    settings = {key: _value_of(key, texts, kind) for key, texts in values.items()}
    recipe, accelerate = (_path_of(settings.pop(name, None)) for name in ("config", "config_file"))
    return Arguments(recipe, accelerate, settings, tuple(overrides), tuple(repeated), tuple(faults))


@contextmanager
def _besides(faults: Sequence[str]) -> Iterator[None]:
    """Raise faults that are known already, together with those that come up inside.

    Raises:
        ConfigError: there is one.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError("\n  ".join([*faults, error.message])) from None
    if faults:
        raise ConfigError("\n  ".join(faults))


def _stray(argument: str, kind: AnyKind) -> str:
    """The error about an argument that is neither an option nor a setting."""
    section = argument.partition(".")[0]
    near = get_close_matches(section, SECTIONS, n=1) if "." in argument.partition("=")[0] else []
    hint = f": there is no section {section!r}, did you mean {near[0]!r}? Write" if near else "; write"
    return f"{argument!r} is neither --key value nor section.key=value{hint} a setting as {kind.example}"


def show(conversion: Conversion[RunConfig | SftConfig], console: Console, *, verbose: bool = False) -> None:
    """Print the settings that changed, the keys that the recipe does not set, and the settings without effect (with reasons).

    Args:
        verbose: print the settings too that are taken as they are.
    """
    console.print(f"converted from {conversion.source}", markup=False, highlight=False, soft_wrap=True)
    show_rows(conversion.rows, console, verbose=verbose)


def _load(kind: RecipeKind[Config], arguments: Sequence[str], accelerate: Path | None, console: Console, verbose: bool) -> Config:
    path, given = _split(arguments, accelerate, kind)
    tree = _read(path, kind) if path else {}
    if path and not is_recipe(tree):
        with _besides([*given.strays, *_recipe_options(path, given, kind)]):
            return _own_config(kind, tree, path, given.overrides)
    _say_repeated(given, console)
    with _besides(given.strays):
        conversion = read_recipe(kind, tree, given, path)
    show(conversion, console, verbose=verbose)
    return conversion.config


def _read(path: Path, kind: AnyKind) -> dict[str, YamlValue]:
    """Read the settings of a file: YAML, JSON or TOML.

    Raises:
        ConfigError: it holds none, or those of another system.
    """
    refuse_other_kinds(path)
    tree = read_tree(path) if path.suffix.lower() in (".json", ".toml") else read_settings(path, kind.root)
    refuse_foreign_file(path, tree, _command(kind))
    return tree


def _command(kind: AnyKind) -> Command:
    return Command("SFT" if kind.root is SftConfig else "GRPO", {"GRPO": GRPO.order, "SFT": SFT.order})


def _split(arguments: Sequence[str], accelerate: Path | None, kind: AnyKind) -> tuple[Path | None, Arguments]:
    """Find the file, which is the first argument or that of `--config`, and sort the rest."""
    first, *rest = _training_arguments(arguments, kind)
    named = not first.startswith("--")
    given = _sorted(rest if named else [first, *rest], kind)
    if named and given.recipe:
        raise ConfigError(f"{first} and --config {given.recipe} are two recipes; give one of them")
    return _config_of_run(Path(first)) if named else given.recipe, replace(given, accelerate=accelerate or given.accelerate)


def _training_arguments(arguments: Sequence[str], kind: AnyKind) -> list[str]:
    """The arguments without the words of a launcher and of the shell; those of a shell script in its place.

    Raises:
        ConfigError: the script that is launched is of another trainer, or nothing is left.
    """
    if Path(arguments[0]).suffix in SCRIPTS:
        refuse_foreign_script(Path(arguments[0]), _command(kind))
        launch = launch_in(Path(arguments[0]))
        launch = Launch(launch.script, (*launch.arguments, *arguments[1:]))
    else:
        refuse_foreign_line(arguments, _command(kind))
        launch = launch_of(arguments)
    trainer = trainer_of_script(launch.script) if launch.script else None
    if trainer is not None and trainer not in ("GRPO", "SFT"):
        raise ConfigError(f"{launch.script} trains by {trainer}, and {TRAINERS}; run it with TRL")
    if trainer is not None and trainer != {GRPO.name: "GRPO", SFT.name: "SFT"}[kind.name]:
        other = next(other for other in KINDS if other is not kind)
        raise ConfigError(f"{launch.script} is a script of {other.name}, and this command is for {kind.name}; use {other.command}")
    if not launch.arguments:
        refuse_other_kinds(Path(launch.script))
        raise ConfigError(f"{' '.join(arguments)} has neither a file nor a setting; give a YAML file, or --key value ...")
    return list(launch.arguments)


def _config_of_run(path: Path) -> Path:
    """The config.yaml of a run directory; other paths as they are."""
    if not path.is_dir():
        return path
    if not (path / "config.yaml").is_file():
        raise ConfigError(f"{path} is a folder without config.yaml; give a YAML file, or the out_dir of a run")
    return path / "config.yaml"


def _own_config(kind: RecipeKind[Config], tree: dict[str, YamlValue], path: Path, overrides: Sequence[str]) -> Config:
    """Make the configuration of a file of rollcast. A file of the other command is named as such.

    Raises:
        ConfigError: it cannot work, or belongs to the other command.
    """
    before = deepcopy(tree)
    try:
        return kind.config_of(tree, str(path), overrides, {})
    except ConfigError:
        other = next(other for other in KINDS if other.name != kind.name)
        try:
            other.config_of(before, str(path), (), {})
        except ConfigError:
            pass
        else:
            raise ConfigError(
                f"{path} is a file of {other.name}, and this command is for {kind.name}; use {other.command} {path}"
            ) from None
        raise


def _say_repeated(given: Arguments, console: Console) -> None:
    for key in given.repeated:
        value = given.settings.get(key, given.recipe if key == "config" else given.accelerate)
        console.print(f"--{key} is given more than once; the last, {value}, counts", markup=False, highlight=False, soft_wrap=True)


def _recipe_options(path: Path, given: Arguments, kind: AnyKind) -> list[str]:
    """The error about options of a recipe beside a file of rollcast; none without them."""
    options = [f"--{setting.replace('_', '-')}" for setting in given.settings]
    if given.accelerate:
        options.append("--accelerate")
    if not options:
        return []
    near = {near for option in options for near in get_close_matches(option, COMMAND_OPTIONS, n=1, cutoff=0.75) if near != option}
    remedy = f"did you mean {' and '.join(sorted(near))}?" if near else f"write settings as {kind.example}, or see {kind.command} --help"
    return [
        f"{', '.join(options)}: {path} is a file of rollcast, and only recipes of TRL, Open-R1 or MedicalGPT take such options; {remedy}"
    ]


def _no_recipe(settings: Mapping[str, YamlValue]) -> str:
    found = [section for section in SECTIONS if section in settings]
    if found:
        return f"is a run of rollcast already (it has {', '.join(found)}); train it as it is"
    return "has no setting of a known recipe; give a recipe of TRL, Open-R1 or MedicalGPT"


def _path_of(value: YamlValue) -> Path | None:
    return Path(str(value)) if value else None


def _value_of(key: str, texts: Sequence[str], kind: AnyKind) -> YamlValue:
    if not texts:
        return True
    name = kind.tables.old_names.get(key, key)
    is_text = name in kind.tables.text or (name in kind.tables.targets and key_type(kind.tables.targets[name].split("."), kind.root).texts)
    values = [text if is_text else _parsed(text) for text in texts]
    return values[0] if len(values) == 1 else values


def _parsed(text: str) -> YamlValue:
    """A value of an option: a list or a mapping in brackets, a number, true, false or null; anything else is text as it is typed."""
    try:
        value = parse_in_line(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, str) or (isinstance(value, list | dict) and text.lstrip()[:1] not in ("[", "{")) else value


def _flat(launch: Mapping[str, YamlValue]) -> dict[str, YamlValue]:
    """The keys of an accelerate file; those inside `deepspeed_config` with a dot."""
    flat: dict[str, YamlValue] = {}
    for key, value in launch.items():
        if isinstance(value, dict) and key == "deepspeed_config":
            flat |= {f"{key}.{name}": inside for name, inside in value.items()}
        else:
            flat[key] = value
    return flat
