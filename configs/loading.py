"""YAML and command-line overrides -> `RunConfig` or `SftConfig`, and back.

Everything that can be wrong with a configuration ends here as one `ConfigError`, which lists each fault as
`key: value, rule; remedy`. Paths in a configuration are relative to the current directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from configs.contracts.errors import ConfigError
from configs.faults import describe_fault, section_at
from configs.schema.run import RunConfig
from configs.schema.section import Section
from configs.schema.sft import SftConfig
from configs.schema.stages import stage_folder
from configs.yaml_files import dump_yaml, parse_yaml, read_yaml, shown

Config = TypeVar("Config", RunConfig, SftConfig)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from a YAML file, then apply overrides from left to right.

    Args:
        path: the YAML file.
        overrides: `learner.learning_rate=1e-4`. The value is YAML; for a key that holds text it may be any text.
            An empty value means null. Lists are replaced as a whole.

    Raises:
        ConfigError: the file cannot be read, is not YAML (names file and line), or what it says breaks the schema
            (lists every fault, with the nearest existing key for an unknown one).
    """
    path = Path(path)
    return config_of(read_yaml(path), str(path), overrides)


def load_sft_config(path: str | Path, overrides: Sequence[str] = ()) -> SftConfig:
    """Read a supervised fine-tuning, as `load_config` reads a run of GRPO."""
    path = Path(path)
    return sft_config_of(read_yaml(path), str(path), overrides)


def config_of(tree: dict[str, Any], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None) -> RunConfig:
    """A run from what a file holds, with all its stages; `tree` takes the overrides.

    Args:
        source: where it comes from, for people.
        origins: key of the run -> what it was made of, for people.

    Raises:
        ConfigError: as of `load_config`.
    """
    config = _validated(RunConfig, tree, source, overrides, origins)
    stage_configs(config, source)
    return config


def sft_config_of(tree: dict[str, Any], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None) -> SftConfig:
    """A supervised fine-tuning from what a file holds, as `config_of` a run of GRPO."""
    return _validated(SftConfig, tree, source, overrides, origins)


def stage_configs(config: RunConfig, source: str = "stages") -> tuple[RunConfig, ...]:
    """The run of every stage: the settings above `stages`, those of the stage over them, and the model and adapter of the stage before.

    Raises:
        ConfigError: one of them cannot work.
    """
    above = config.model_dump(exclude_unset=True, exclude={"stages"})
    found: list[RunConfig] = []
    for number, stage in enumerate(config.stages, start=1):
        tree = stage.over(above)
        tree["out_dir"] = config.out_dir.absolute() / stage_folder(number, stage.name)
        called = f"{source}, stage {number} ({stage.name}),"
        if found:
            if "warm_start" in stage.learner:
                raise ConfigError(f"{called} has learner.warm_start, which comes before all stages; set it above them, or in the first")
            tree["learner"] = tree.get("learner", {}) | {"warm_start": None}
            tree["model"] = above["model"] | _going_on(found[-1])
        found.append(_for_one_repository(_validated(RunConfig, tree, called), config.out_dir.absolute().name))
    return tuple(found)


def _for_one_repository(stage: RunConfig, name: str) -> RunConfig:
    """The stage, pushed where the whole run is pushed: a repository called after `1-few` would say nothing."""
    hub = stage.cluster.push_to_hub
    if hub is None or hub.hub_model_id is not None:
        return stage
    hub = hub.model_copy(update={"hub_model_id": name})
    return stage.model_copy(update={"cluster": stage.cluster.model_copy(update={"push_to_hub": hub})})


def _going_on(before: RunConfig) -> dict[str, Any]:
    """The model and adapter that a stage leaves to the next."""
    return {"path": before.trained_model_path, "adapter": str(before.out_dir / "adapter"), "merge_adapter": False}


def _validated(
    root: type[Config], tree: dict[str, Any], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None
) -> Config:
    for override in overrides:
        _apply_override(tree, override, root)
    try:
        return root.model_validate(tree)
    except ValidationError as error:
        faults = list(dict.fromkeys(describe_fault(detail, origins or {}, root) for detail in error.errors(include_url=False)))
        raise ConfigError("\n  ".join([f"{source} does not describe a run:", *faults])) from None


def dump_config(config: RunConfig | SftConfig) -> str:
    """The whole run, defaults included, as YAML that is read back to an equal one."""
    return dump_yaml(config.model_dump(mode="json"))


def _apply_override(tree: dict[str, Any], override: str, root: type[Section]) -> None:
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"override {override!r} must have the form section.key=value, such as learner.learning_rate=1e-4")
    place = tree
    for depth, name in enumerate(names[:-1], start=1):
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise ConfigError(f"override {override!r}: {'.'.join(names[:depth])} is {shown(place)}, not a section; replace it as a whole")
    place[names[-1]] = _parse_value(names, text, override, root)


def _parse_value(names: Sequence[str], text: str, override: str, root: type[Section]) -> Any:
    """The value of an override. Text keys take anything as it stands: a template or `1234567` needs no quotes."""
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        if _holds_text(names, root):
            return text
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError(f"override {override!r}: the value {text!r} cannot be read: {problem}") from None
    return text if value is not None and not isinstance(value, str) and _holds_text(names, root) else value


def _holds_text(names: Sequence[str], root: type[Section]) -> bool:
    """Whether the schema has only text (or null) at this key."""
    section = section_at(names[:-1], root)
    field = section.model_fields.get(names[-1]) if section else None
    return field is not None and set(get_args(field.annotation) or (field.annotation,)) <= {str, Path, type(None)}
