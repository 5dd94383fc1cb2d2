"""Recipes written for TRL, Open-R1 or MedicalGPT -> `RunConfig` or `SftConfig`, and what became of every setting.

A recipe is a flat YAML file, options as those systems take them (`--learning_rate 1e-6 --reward_funcs accuracy format`), or both; an accelerate
file beside it says how many processes train. Nothing is dropped in silence: each setting becomes a key of the run, or is shown with the
reason why it has no effect here, or ends with an error that says what to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from textwrap import wrap
from typing import Any, Generic

import yaml

from configs.contracts.errors import ConfigError
from configs.loading import Config
from configs.recipes.draft import Draft, Row
from configs.recipes.kinds import GRPO, KINDS, SFT, RecipeKind, kind_that_is_meant, telling
from configs.recipes.shared_rules import OFFLOAD
from configs.recipes.tables import KeyTables
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.yaml_files import dump_yaml, parse_yaml, read_yaml

SECTIONS = ("model", "data", "actors", "rewards", "learner", "cluster", "evaluation", "out_dir")
"""Keys by which a file of rollcast is known from a recipe; `seed` is in both."""

ACCELERATE = "accelerate: "
"""Before the keys of an accelerate file, in rows."""

_OVERRIDE = re.compile(r"(?:(?:model|data|actors|rewards|learner|cluster|evaluation)\.[\w.]+|stages|seed|out_dir)=.*", re.DOTALL)


@dataclass(frozen=True)
class Arguments:
    """What stands behind the command, sorted."""

    recipe: Path | None
    """`--config FILE`, as TRL's scripts take it."""
    accelerate: Path | None
    """`--config_file FILE`, as `accelerate launch` takes it."""
    settings: Mapping[str, Any]
    """`--key value`."""
    overrides: tuple[str, ...]
    """`learner.beta=0.04`."""


@dataclass(frozen=True)
class Conversion(Generic[Config]):
    """A recipe, converted."""

    kind: RecipeKind[Config]
    config: Config
    tree: Mapping[str, Any]
    """The keys of `config` that were set, as a file of rollcast holds them."""
    rows: tuple[Row, ...]
    source: str

    def to_yaml(self) -> str:
        """A file of rollcast that loads to `config`: what was set, each key with what it was made of."""
        ignored = ", ".join(row.setting for row in self.rows if not row.target and not row.setting.startswith(ACCELERATE))
        head = [f"Converted by `{self.kind.convert_command}` from {self.source}.", *([f"No effect here: {ignored}."] if ignored else [])]
        comments = [f"# {line}" for sentence in head for line in wrap(sentence, 120)]
        return "\n".join([*comments, "", *_lines(self.tree, "", _notes(self.rows)), ""])


def is_recipe(tree: Mapping[str, Any]) -> bool:
    """Whether a YAML file is a flat recipe rather than a file of rollcast."""
    known = frozenset().union(*(kind.tables.known for kind in KINDS))
    return not any(section in tree for section in SECTIONS) and any(key in known and key != "seed" for key in tree)


def sort_arguments(arguments: Sequence[str], kind: RecipeKind[Any] = GRPO) -> Arguments:
    """`--key value ...`, `--key=value`, `--flag` and `section.key=value`, in any order.

    Raises:
        ConfigError: a value without a key, or a key given twice.
    """
    values: dict[str, list[str]] = {}
    overrides: list[str] = []
    key = ""
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            key = key.replace("-", "_")
            if key in values:
                raise ConfigError(f"--{key} is given twice; keep one of them")
            values[key] = [value] if equals else []
        elif _OVERRIDE.fullmatch(argument):
            overrides.append(argument)
        elif key:
            values[key].append(argument)
        else:
            raise ConfigError(f"{argument!r} is neither --key value nor section.key=value, such as {kind.example}")
    settings = {key: _value_of(key, texts, kind.tables) for key, texts in values.items()}
    recipe, accelerate = settings.pop("config", None), settings.pop("config_file", None)
    return Arguments(Path(recipe) if recipe else None, Path(accelerate) if accelerate else None, settings, tuple(overrides))


def read_recipe(path: Path | None, arguments: Arguments, accelerate: Path | None = None) -> Conversion[RunConfig]:
    """Convert a recipe of GRPO from files and options; options win.

    Raises:
        ConfigError: a file cannot be read or is no recipe, a setting is unknown, cannot be followed, or does not go with another.
    """
    return read_recipe_of(GRPO, path, arguments, accelerate)


def read_recipe_of(kind: RecipeKind[Config], path: Path | None, arguments: Arguments, accelerate: Path | None = None) -> Conversion[Config]:
    """Convert a recipe of any kind, as `read_recipe` one of GRPO.

    Raises:
        ConfigError: as of `read_recipe`, or the recipe is of another kind.
    """
    settings = read_yaml(path) if path else {}
    if path and not is_recipe(settings):
        found = [section for section in SECTIONS if section in settings]
        reason = (
            f"is a run of rollcast already (it has {', '.join(found)}); train it as it is" if found else "has no setting of a known recipe"
        )
        raise ConfigError(f"{path} {reason}")
    settings = {**settings, **arguments.settings}
    file = accelerate or arguments.accelerate
    launch = _flat(read_yaml(file)) if file else {}
    names = [*(str(name) for name in (path, file) if name), *(f"--{setting}" for setting in arguments.settings)]
    return convert_to(kind, settings, launch, arguments.overrides, source=", ".join(names))


def convert(
    settings: Mapping[str, Any], launch: Mapping[str, Any] | None = None, overrides: Sequence[str] = (), source: str = "the recipe"
) -> Conversion[RunConfig]:
    """Convert settings of a recipe of GRPO; see `convert_to`."""
    return convert_to(GRPO, settings, launch, overrides, source)


def convert_sft(
    settings: Mapping[str, Any], launch: Mapping[str, Any] | None = None, overrides: Sequence[str] = (), source: str = "the recipe"
) -> Conversion[SftConfig]:
    """Convert settings of a recipe of supervised fine-tuning; see `convert_to`."""
    return convert_to(SFT, settings, launch, overrides, source)


def convert_to(
    kind: RecipeKind[Config],
    settings: Mapping[str, Any],
    launch: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    source: str = "the recipe",
) -> Conversion[Config]:
    """Convert settings.

    Args:
        kind: of the recipe.
        settings: of the recipe, under any name that TRL, Open-R1 or MedicalGPT has or had for them.
        launch: of the accelerate file, nested keys with a dot.
        overrides: `section.key=value`, over what comes out.
        source: where the settings come from, for people.
    """
    tables = kind.tables
    written, given, empty = _named(settings, kind)
    launched = _launched(launch or {}, given, written, tables)
    if "model_name_or_path" not in given:
        raise ConfigError(f"{source}: model_name_or_path is not given; add the hub id or the folder of a model")
    draft = Draft(given, written, tables)
    for setting in given:
        if setting in tables.targets:
            draft.put_as_it_stands(setting)
        elif setting in tables.refused:
            draft.refuse_where_asked(setting)
        elif setting in tables.no_effect:
            draft.ignore(setting, tables.no_effect[setting])
    kind.work_out(draft)
    rows = (*draft.rows, *launched, *(Row(key, None, why="it is empty") for key in empty))
    config = kind.config_of(draft.tree, source, overrides, draft.origins())
    return Conversion(kind, config, _ordered(draft.tree, kind.order), tuple(_overridden(rows, overrides)), source)


def _overridden(rows: Sequence[Row], overrides: Sequence[str]) -> Iterator[Row]:
    """The same rows where `section.key=value` has the last word."""
    last = {key.strip(): value for key, _, value in (override.partition("=") for override in overrides)}
    for row in rows:
        if row.target not in last:
            yield row
        elif row.setting:
            yield replace(row, value=last[row.target], why=f"{row.target}={last[row.target]} wins")
    yield from (Row("", None, key, value, "an option") for key, value in last.items())


def _named(settings: Mapping[str, Any], kind: RecipeKind[Any]) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """Name in the tables -> as written; name in the tables -> value; settings that are null."""
    tables, nested = kind.tables, settings.get("model_init_kwargs")
    inside = nested if isinstance(nested, dict) else {}
    both = {**inside, **settings}
    written: dict[str, str] = {}
    given: dict[str, Any] = {}
    empty: list[str] = []
    for key, value in both.items():
        name = "model_revision" if key == "revision" and key in inside else tables.old_names.get(key, key)
        if name not in tables.known:
            raise ConfigError(_unknown(key, kind, both))
        if value is None or value == "None":
            if name in tables.never_null:
                raise ConfigError(f"{key}: null is not supported: {tables.never_null[name]}")
            empty.append(key)
            continue
        if name in given:
            raise ConfigError(f"{written[name]} and {key} are the same setting; keep one of them")
        written[name], given[name] = key, value
    return written, given, empty


def _unknown(key: str, kind: RecipeKind[Any], settings: Mapping[str, Any]) -> str:
    meant = kind_that_is_meant(kind, settings)
    if meant is not kind:
        shown = ", ".join(telling(meant, settings)[:3])
        return (
            f"{shown}: a recipe of {meant.name} has such settings, and this command takes recipes of {kind.name}; use {meant.command}, or "
            f"{meant.convert_command}"
        )
    near = get_close_matches(key, kind.tables.known, n=1)
    hint = f"did you mean {near[0]}?" if near else "remove it, or write what it means as section.key=value"
    return f"{key}: no such setting of TRL, Open-R1 or MedicalGPT is known; {hint}"


def _launched(launch: Mapping[str, Any], given: dict[str, Any], written: dict[str, str], tables: KeyTables) -> list[Row]:
    """Takes what an accelerate file says into the settings, where the recipe does not say it, and tells of the rest."""
    rows: list[Row] = []
    for key, value in launch.items():
        if key in tables.accelerate_no_effect:
            rows.append(Row(f"{ACCELERATE}{key}", value, why=tables.accelerate_no_effect[key]))
        elif key not in tables.accelerate:
            near = get_close_matches(key, [*tables.accelerate_no_effect, *tables.accelerate], n=1)
            raise ConfigError(f"accelerate file: {key}: there is no such key{f'; did you mean {near[0]}?' if near else '; remove it'}")
        else:
            rows += _launch_row(key, value, given, written, tables)
    return rows


def _launch_row(key: str, value: Any, given: dict[str, Any], written: dict[str, str], tables: KeyTables) -> list[Row]:
    name = {"num_processes": key, "use_cpu": key, "deepspeed_config.offload_optimizer_device": OFFLOAD}.get(key)
    if key == "deepspeed_config.offload_param_device" and value not in ("none", None):
        raise ConfigError(f"accelerate file: {key}: {value} is not supported: {tables.on_the_gpu} stays on the GPU; set it to none")
    if key == "mixed_precision":
        name = {"bf16": "bf16", "fp16": "fp16"}.get(str(value))
        if name and any(setting in given for setting in ("bf16", "fp16", "dtype")):
            return [Row(f"{ACCELERATE}{key}", value, why="the recipe says it itself")]
        value = True
    if name is None:
        return [
            Row(
                f"{ACCELERATE}{key}",
                value,
                why="it asks for what is done anyway" if "zero_stage" not in key else tables.accelerate[key],
            )
        ]
    if name in given:
        return [Row(f"{ACCELERATE}{key}", value, why="the recipe or an option says it itself")]
    given[name], written[name] = value, f"{ACCELERATE}{key}"
    return []


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict) and key == "deepspeed_config"
        flat |= _flat(value, f"{key}.") if nested else {f"{prefix}{key}": value}
    return flat


def _value_of(key: str, texts: Sequence[str], tables: KeyTables) -> Any:
    if not texts:
        return True
    values = [text if tables.old_names.get(key, key) in tables.text else _parsed(text) for text in texts]
    return values[0] if len(values) == 1 else values


def _parsed(text: str) -> Any:
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return text


def _ordered(tree: Mapping[str, Any], order: Mapping[str, int], prefix: str = "") -> dict[str, Any]:
    """The same keys in the order of the schema."""
    ordered = sorted(tree.items(), key=lambda item: order[prefix + item[0]])
    return {key: _ordered(value, order, f"{prefix}{key}.") if isinstance(value, dict) else value for key, value in ordered}


def _notes(rows: Sequence[Row]) -> dict[str, str]:
    """Key of the run -> what to say of it: the settings that it was made of, unless one of the same name, and why."""
    settings: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        settings.setdefault(row.target, []).append(row.setting)
        reasons[row.target] = row.why
    notes = {}
    for target, names in settings.items():
        from_here = ", ".join(name for name in names if name)
        origin = "" if from_here == target.rpartition(".")[2] else from_here
        notes[target] = f"{origin} ({reasons[target]})" if origin and reasons[target] else origin or reasons[target]
    return notes


def _lines(tree: Mapping[str, Any], prefix: str, notes: Mapping[str, str]) -> list[str]:
    """YAML of a section, each key with what it was made of behind it, or above it where the value has lines of its own."""
    lines: list[str] = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            lines += [f"{key}:", *(f"  {line}" if line else line for line in _lines(value, f"{name}.", notes)), *([] if prefix else [""])]
            continue
        text = dump_yaml({key: value}, width=float("inf")).rstrip("\n").split("\n")
        note = notes.get(name, "")
        if len(text) == 1:
            lines.append(f"{text[0]}  # {note}" if note else text[0])
        else:
            lines += [*([f"# {note}"] if note else []), *text]
    return lines
