"""Load a `RunConfig` or `SftConfig` from YAML and command-line overrides, and write it as YAML.

All faults of a configuration are listed in one `ConfigError`, each as `key: value, rule; remedy`. Paths in a configuration are relative
to the current directory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from configs.contracts.errors import ConfigError
from configs.faults import describe_fault, section_at
from configs.schema.run import RunConfig
from configs.schema.section import Section
from configs.schema.sft import SftConfig
from configs.schema.stages import merged, stage_folder
from configs.yaml_files import YamlValue, dump_yaml, parse_yaml, read_yaml, shown

Config = TypeVar("Config", bound=RunConfig | SftConfig, covariant=True)

REMOVED_KEYS = (("actors", "on_new_adapter"),)
"""Section and name of the keys that earlier versions wrote into the config.yaml of a run, and that nothing read."""

RUN_FILES = ("run.lock", "metrics.jsonl", "summary.json")
"""A config.yaml beside one of these was written by a run."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from a YAML file, then apply overrides from left to right.

    Args:
        overrides: `learner.learning_rate=1e-4`. The value is YAML; for a key that holds text it may be any text.
            An empty value means null. A list is replaced as a whole.

    Raises:
        ConfigError: the file cannot be read, is not YAML (the error names the line), or breaks the schema
            (the error lists every fault, and suggests the nearest key for an unknown one).
    """
    path = Path(path)
    return config_of(read_settings(path), str(path), overrides)


def load_sft_config(path: str | Path, overrides: Sequence[str] = ()) -> SftConfig:
    """Read a supervised fine-tuning, as `load_config` reads a GRPO run."""
    path = Path(path)
    return sft_config_of(read_settings(path), str(path), overrides)


def read_settings(path: Path) -> dict[str, YamlValue]:
    """Read a YAML file. In the config.yaml of an older run, keys that no longer exist are ignored, and named on stderr.

    Raises:
        ConfigError: the file cannot be read, or holds no mapping.
    """
    tree = read_yaml(path)
    if path.name == "config.yaml" and any((path.parent / name).exists() for name in RUN_FILES):
        for section, name in REMOVED_KEYS:
            inside = tree.get(section)
            if isinstance(inside, dict) and inside.pop(name, None) is not None:
                print(f"{path}: {section}.{name} is ignored: the key no longer exists, and it had no effect", file=sys.stderr)
    return tree


def config_of(
    tree: dict[str, YamlValue], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None
) -> RunConfig:
    """Make a run from the content of a file, and check all its stages. The overrides are written into `tree`.

    Args:
        source: name of the file, for errors.
        origins: key of the run -> the settings that it was made from, for errors.

    Raises:
        ConfigError: the tree breaks the schema, or an override cannot be applied.
    """
    _apply_overrides(tree, overrides, RunConfig)
    config = _validated(RunConfig, tree, source, origins)
    stage_configs(config, source)
    return config


def sft_config_of(
    tree: dict[str, YamlValue], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None
) -> SftConfig:
    """Make a supervised fine-tuning from the content of a file, as `config_of` makes a GRPO run."""
    _apply_overrides(tree, overrides, SftConfig)
    return _validated(SftConfig, tree, source, origins)


def stage_configs(config: RunConfig, source: str = "stages") -> tuple[RunConfig, ...]:
    """Make the run of every stage: its own settings over those above `stages`, and the model and adapter of the previous stage.

    Raises:
        ConfigError: a stage cannot work.
    """
    above = config.model_dump(exclude_unset=True, exclude={"stages"})
    found: list[RunConfig] = []
    for number, stage in enumerate(config.stages, start=1):
        tree = stage.over(above)
        tree["out_dir"] = config.out_dir.absolute() / stage_folder(number, stage.name)
        name = f"{source}, stage {number} ({stage.name}),"
        if found:
            if "warm_start" in stage.learner:
                raise ConfigError(
                    f"{name} has learner.warm_start, which comes before all stages; set it above the stages, or in the first one"
                )
            tree = merged(tree, {"learner": {"warm_start": None}, "model": _continued_model(found[-1])})
        found.append(_for_one_repository(_validated(RunConfig, tree, name), config.out_dir.absolute().name))
    return tuple(found)


def _for_one_repository(stage: RunConfig, name: str) -> RunConfig:
    """The stage, pushed to the repository of the whole run: a repository named `1-few` would tell nothing."""
    hub = stage.cluster.push_to_hub
    if hub is None or hub.hub_model_id is not None:
        return stage
    hub = hub.model_copy(update={"hub_model_id": name})
    return stage.model_copy(update={"cluster": stage.cluster.model_copy(update={"push_to_hub": hub})})


def _continued_model(before: RunConfig) -> dict[str, object]:
    """The section `model` of a stage that continues with the model and adapter of the stage before."""
    return {"path": before.trained_model_path, "adapter": str(before.out_dir / "adapter"), "merge_adapter": False}


def _validated(root: type[Config], tree: Mapping[str, object], source: str, origins: Mapping[str, str] | None = None) -> Config:
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        faults = list(dict.fromkeys(describe_fault(detail, origins or {}, root) for detail in error.errors(include_url=False)))
        raise ConfigError("\n  ".join([f"{source} does not describe a run:", *faults])) from None


def dump_config(config: RunConfig | SftConfig) -> str:
    """Write the whole run, defaults included, as YAML that is read back to an equal run."""
    return dump_yaml(config.model_dump(mode="json"))


def _apply_overrides(tree: dict[str, YamlValue], overrides: Sequence[str], root: type[Section]) -> None:
    for override in overrides:
        _apply_override(tree, override, root)


def _apply_override(tree: dict[str, YamlValue], override: str, root: type[Section]) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"override {override!r} does not have the form section.key=value; write it as learner.learning_rate=1e-4")
    section = tree
    for depth, name in enumerate(names[:-1], start=1):
        if section.get(name) is None:
            section[name] = {}
        inside = section[name]
        if not isinstance(inside, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(names[:depth])} is {shown(inside)}, not a section; replace it as a whole")
        section = inside
    section[names[-1]] = _parse_value(names, text, override, root)


def _parse_value(names: Sequence[str], text: str, override: str, root: type[Section]) -> YamlValue:
    """Read the value of an override. A key that holds text takes it unchanged: a template or `1234567` needs no quotes."""
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        if _holds_text(names, root):
            return text
        problem = (error.problem if isinstance(error, yaml.MarkedYAMLError) else None) or "not YAML"
        raise ConfigError(f"override {override!r}: the value {text!r} cannot be read: {problem}; quote it as in YAML") from None
    return text if value is not None and not isinstance(value, str) and _holds_text(names, root) else value


def _holds_text(names: Sequence[str], root: type[Section]) -> bool:
    """Tell whether the key holds only text (or null)."""
    section = section_at(names[:-1], root)
    field = section.model_fields.get(names[-1]) if section else None
    if field is None:
        return False
    # The arguments of a mapping or a list, such as dict[str, str], are no alternatives.
    kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
    return set(kinds) <= {str, Path, NoneType}
