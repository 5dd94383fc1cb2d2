"""Convert a recipe written for TRL, Open-R1 or MedicalGPT into a `RunConfig` or `SftConfig`, and say what became of every setting.

Nothing is dropped in silence: each setting becomes a key of the run, or is shown with the reason why it has no effect here, or is an
error with a remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from textwrap import wrap
from typing import Generic

from configs.contracts.errors import ConfigError
from configs.launch.other_trainers import other_trainer
from configs.loading import Config
from configs.recipes.draft import DONE_ANYWAY, Draft, Row
from configs.recipes.kinds import KINDS, AnyKind, RecipeKind, exclusive_settings, guess_kind
from configs.recipes.shared_rules import OFFLOAD
from configs.recipes.tables import KeyTables
from configs.yaml_files import YamlValue, dump_yaml

ACCELERATE = "accelerate: "
"""Prefix of the keys of an accelerate file, in rows."""


@dataclass(frozen=True)
class Conversion(Generic[Config]):
    """A converted recipe."""

    kind: RecipeKind[Config]
    config: Config
    tree: Mapping[str, YamlValue]
    """The keys of `config` that were set, nested as in a file of rollcast."""
    rows: tuple[Row, ...]
    source: str
    """Name of the recipe, for messages."""

    def to_yaml(self) -> str:
        """Write a file of rollcast that loads to `config`; a comment beside each key says which settings it was made from."""
        ignored = ", ".join(row.setting for row in self.rows if not row.target and not row.setting.startswith(ACCELERATE))
        head = [f"Converted by `{self.kind.convert_command}` from {self.source}.", *([f"No effect here: {ignored}."] if ignored else [])]
        comments = [f"# {line}" for sentence in head for line in wrap(sentence, 120)]
        return "\n".join([*comments, "", *_lines(self.tree, "", _notes(self.rows)), ""])


def convert(
    kind: RecipeKind[Config],
    settings: Mapping[str, YamlValue],
    launch: Mapping[str, YamlValue] | None = None,
    overrides: Sequence[str] = (),
    source: str = "the recipe",
) -> Conversion[Config]:
    """Convert the settings of a recipe.

    Args:
        kind: kind of the recipe.
        settings: the recipe, under any name that TRL, Open-R1 or MedicalGPT has or had for a setting.
        launch: the accelerate file, nested keys with a dot.
        overrides: `section.key=value`, applied to the result.
        source: name of the recipe, for messages.

    Raises:
        ConfigError: a setting is unknown, not supported, or contradicts another; or the recipe is of another kind.
    """
    given = _named(settings, kind)
    launched = _add_launch_settings(given, launch or {}, kind.tables)
    if "model_name_or_path" not in given.values:
        raise ConfigError(f"{source}: model_name_or_path is not given; add the hub id or the folder of a model")
    draft = Draft(given.values, given.written, kind.tables)
    _apply_tables(draft, kind.tables)
    kind.apply_rules(draft)
    rows = (*draft.rows, *launched, *(Row(key, None, why="it is empty") for key in given.empty))
    tree = draft.tree()
    config = kind.config_of(tree, source, overrides, draft.origins())
    return Conversion(kind, config, _ordered(tree, kind.order), tuple(_overridden(rows, overrides)), source)


@dataclass(frozen=True)
class _Given:
    """The settings of a recipe under the names of the tables."""

    values: dict[str, YamlValue]
    written: dict[str, str]
    """Name in the tables -> name in the recipe."""
    empty: list[str]
    """Settings that are null, as written."""


def _named(settings: Mapping[str, YamlValue], kind: AnyKind) -> _Given:
    """Find each setting in the tables; those inside `model_init_kwargs` count as if given beside it."""
    other = other_trainer(settings)
    if other is not None:
        raise ConfigError(other)
    tables, nested = kind.tables, settings.get("model_init_kwargs")
    inside = nested if isinstance(nested, dict) else {}
    both = {**inside, **settings}
    given = _Given({}, {}, [])
    unknown: list[str] = []
    for key, value in both.items():
        name = "model_revision" if key == "revision" and key in inside else tables.old_names.get(key, key)
        if name not in tables.known:
            unknown.append(key)
            continue
        if value is None or value == "None":
            if name in tables.never_null:
                raise ConfigError(f"{key}: null is not supported: {tables.never_null[name]}")
            given.empty.append(key)
            continue
        if name in given.values:
            raise ConfigError(f"{given.written[name]} and {key} are the same setting; keep one of them")
        given.written[name], given.values[name] = key, value
    if unknown:
        raise ConfigError(_unknown(unknown, kind, both))
    return given


def _unknown(keys: Sequence[str], kind: AnyKind, settings: Mapping[str, YamlValue]) -> str:
    """The error about all unknown settings. Names the right command if the recipe is of another kind."""
    guessed = guess_kind(kind, settings)
    faults: list[str] = []
    if guessed is not kind:
        shown = ", ".join(exclusive_settings(guessed, settings)[:3])
        faults.append(
            f"{shown}: only recipes of {guessed.name} have such settings, and this command takes recipes of {kind.name}; "
            f"use {guessed.command}, or {guessed.convert_command}"
        )
    remedy = "remove it, or write what it means as section.key=value"
    for key in keys:
        others = [other.name for other in KINDS if key in other.tables.known]
        if not others:
            near = _nearest(key, guessed.tables.known, remedy)
            faults.append(f"{key}: there is no such setting of TRL, Open-R1 or MedicalGPT; {near}")
        elif guessed is kind:
            near = _nearest(key, kind.tables.known, remedy)
            faults.append(f"{key}: there is no such setting in recipes of {kind.name}, only in those of {others[0]}; {near}")
    return "\n  ".join(faults)


def _nearest(key: str, known: Iterable[str], otherwise: str) -> str:
    near = get_close_matches(key, list(known), n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def _add_launch_settings(given: _Given, launch: Mapping[str, YamlValue], tables: KeyTables) -> list[Row]:
    """Add the settings of an accelerate file that the recipe does not give; returns rows about the others."""
    rows: list[Row] = []
    known = [*tables.accelerate_no_effect, *tables.accelerate]
    unknown = [f"accelerate file: {key}: there is no such key; {_nearest(key, known, 'remove it')}" for key in launch if key not in known]
    if unknown:
        raise ConfigError("\n  ".join(unknown))
    for key, value in launch.items():
        if key in tables.accelerate_no_effect:
            rows.append(Row(f"{ACCELERATE}{key}", value, why=tables.accelerate_no_effect[key]))
        elif why := _add_launch_setting(given, key, value, tables):
            rows.append(Row(f"{ACCELERATE}{key}", value, why=why))
    return rows


def _add_launch_setting(given: _Given, key: str, value: YamlValue, tables: KeyTables) -> str:
    """Add one setting of an accelerate file; returns why it has no effect, or "" if it was added."""
    name = {"num_processes": key, "use_cpu": key, "deepspeed_config.offload_optimizer_device": OFFLOAD}.get(key)
    if key == "deepspeed_config.offload_param_device" and value not in ("none", None):
        raise ConfigError(f"accelerate file: {key}: {value} is not supported: {tables.on_the_gpu} stays on the GPU; set it to none")
    if key == "mixed_precision":
        name = {"bf16": "bf16", "fp16": "fp16"}.get(str(value))
        if name and any(setting in given.values for setting in ("bf16", "fp16", "dtype")):
            return "the recipe gives the precision itself"
        value = True
    if name is None:
        return tables.accelerate[key] if "zero_stage" in key else DONE_ANYWAY
    if name in given.values:
        return "the recipe or an option gives it itself"
    given.values[name], given.written[name] = value, f"{ACCELERATE}{key}"
    return ""


def _apply_tables(draft: Draft, tables: KeyTables) -> None:
    """Copy, refuse or ignore each setting that needs no rule. All that are refused are named at once."""
    refused: list[str] = []
    for setting in draft.given:
        if setting in tables.targets:
            draft.copy_setting(setting)
        elif setting in tables.refused:
            try:
                draft.refuse_unless_harmless(setting)
            except ConfigError as error:
                refused.append(error.message)
        elif setting in tables.no_effect:
            draft.note_ignored(setting, tables.no_effect[setting])
    if refused:
        raise ConfigError("\n  ".join(refused))


def _overridden(rows: Sequence[Row], overrides: Sequence[str]) -> Iterator[Row]:
    """The rows after `section.key=value` replaced the values of its key."""
    last = {key.strip(): value for key, _, value in (override.partition("=") for override in overrides)}
    for row in rows:
        if row.target not in last:
            yield row
        elif row.setting:
            yield replace(row, value=last[row.target], why=f"{row.target}={last[row.target]} wins")
    yield from (Row("", None, key, value, "an option") for key, value in last.items())


def _ordered(tree: Mapping[str, YamlValue], order: Mapping[str, int], prefix: str = "") -> dict[str, YamlValue]:
    """Sort the keys as the schema does."""
    ordered = sorted(tree.items(), key=lambda item: order.get(prefix + item[0], 0))  # keys of a mapping keep their order
    return {key: _ordered(value, order, f"{prefix}{key}.") if isinstance(value, dict) else value for key, value in ordered}


def _notes(rows: Sequence[Row]) -> dict[str, str]:
    """Key of the run -> its comment: the settings that it was made from, unless one of the same name, and the reason."""
    settings: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for row in rows:
        settings.setdefault(row.target, []).append(row.setting)
        reasons[row.target] = row.why
    notes = {}
    for target, names in settings.items():
        joined = ", ".join(name for name in names if name)
        origin = "" if joined == target.rpartition(".")[2] else joined
        notes[target] = f"{origin} ({reasons[target]})" if origin and reasons[target] else origin or reasons[target]
    return notes


def _lines(tree: Mapping[str, YamlValue], prefix: str, notes: Mapping[str, str]) -> list[str]:
    """YAML of a section. The comment of a key stands behind its value, or above a value of several lines."""
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
