"""Load a `RunConfig` or `SftConfig` from YAML and command-line overrides, and write it as YAML.

All faults of a configuration are listed in one `ConfigError`, each as `key: value, rule; remedy`. Paths in a configuration are relative
to the current directory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from configs.contracts.errors import ConfigError
from configs.faults import describe_fault
from configs.key_types import KeyType, Settling
from configs.overrides import apply_overrides
from configs.schema.run import RunConfig
from configs.schema.section import Section
from configs.schema.sft import SftConfig
from configs.schema.stages import merged, stage_folder
from configs.yaml_files import YamlValue, dump_yaml, read_yaml

Config = TypeVar("Config", bound=RunConfig | SftConfig, covariant=True)

REMOVED_KEYS = (("actors", "on_new_adapter"),)
"""Section and name of the keys that earlier versions wrote into the config.yaml of a run, and that nothing read."""

RUN_FILES = ("run.lock", "metrics.jsonl", "summary.json")
"""A config.yaml beside one of these was written by a run."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run from a YAML file, then apply overrides from left to right.

    Args:
        overrides: `learner.learning_rate=1e-4`; see `configs.overrides`.

    Raises:
        ConfigError: the file cannot be read, is not YAML (the error names the line), or breaks the schema
            (the error lists every fault, and suggests the nearest key for an unknown one).
    """
    path = Path(path)
    return config_of(read_settings(path), str(path), overrides)


def load_sft_config(path: str | Path, overrides: Sequence[str] = ()) -> SftConfig:
    """Read a supervised fine-tuning, as `load_config` reads a GRPO run."""
    path = Path(path)
    return sft_config_of(read_settings(path, SftConfig), str(path), overrides)


def read_settings(path: Path, root: type[Section] = RunConfig) -> dict[str, YamlValue]:
    """Read a YAML file. In the config.yaml of an older run, keys that no longer exist are ignored, and named on stderr.

    Args:
        root: the settings that the file may hold: their types tell text from numbers. Keys that it does not have are read as plain YAML.

    Raises:
        ConfigError: the file cannot be read, holds no mapping, or has a value with two readings.
    """
    settling = Settling(KeyType.of(root))
    tree = read_yaml(path, settling)
    if settling.faults:
        raise ConfigError("\n  ".join([f"{path} has values with two readings:", *settling.faults]))
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
    apply_overrides(tree, overrides, RunConfig)
    config = _validated(RunConfig, tree, source, origins)
    stage_configs(config, source)
    return config


def sft_config_of(
    tree: dict[str, YamlValue], source: str, overrides: Sequence[str] = (), origins: Mapping[str, str] | None = None
) -> SftConfig:
    """Make a supervised fine-tuning from the content of a file, as `config_of` makes a GRPO run."""
    apply_overrides(tree, overrides, SftConfig)
    return _validated(SftConfig, tree, source, origins)


def stage_configs(config: RunConfig, source: str = "stages") -> tuple[RunConfig, ...]:
    """Make the run of every stage: its own settings over those above `stages`, and the model and adapter of the previous stage.

    Raises:
        ConfigError: a stage cannot work.
    """
    above = config.model_dump(exclude_unset=True, exclude={"stages"})
    found: list[RunConfig] = []
    faults: list[str] = []
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
        try:
            found.append(_for_one_repository(_validated(RunConfig, tree, name), config.out_dir.absolute().name))
        except ConfigError as error:
            faults.append(error.message)
    if faults:
        raise ConfigError("\n".join(faults))
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
