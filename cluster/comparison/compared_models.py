"""The models of a comparison, read from the command line, and the settings of a comparison without a run. Starts nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.contracts.errors import ConfigError
from configs.loading import config_of
from configs.schema.run import RunConfig
from configs.yaml_files import YamlValue

BASE = "base"

NVIDIA_DRIVER = Path("/proc/driver/nvidia")


@dataclass(frozen=True)
class ComparedModel:
    """One model of a comparison: an adapter on the base model, a whole model, or (neither) the base model itself."""

    name: str
    adapter: Path | None = None
    model: Path | None = None

    @property
    def source(self) -> str:
        """Folder that it is loaded from, for display."""
        return str(self.adapter or self.model or "the base model")


@dataclass(frozen=True)
class CompareArguments:
    """The arguments of `rollcast compare`."""

    config: str | None
    models: Sequence[ComparedModel]
    overrides: Sequence[str]


def read_arguments(arguments: Sequence[str]) -> CompareArguments:
    """Read `CONFIG` (a YAML file or run directory), `base`, `name=PATH` and `section.key=value`, in any order.

    Raises:
        ConfigError: no model is named, a name is given twice, or a path holds no model.
    """
    configs, models, overrides = [], [], []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if argument == BASE:
            models.append(ComparedModel(BASE))
        elif equals and ("." in name or name in RunConfig.model_fields):
            overrides.append(argument)
        elif equals:
            models.append(_compared_model(name, Path(path)))
        else:
            configs.append(argument)
    if len(configs) > 1:
        raise ConfigError(
            f"{' and '.join(configs)}: only one file or run directory can give the settings; write models as name=PATH, or base"
        )
    names = [model.name for model in models]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled:
        raise ConfigError(f"{doubled} is named twice; give each model a name of its own")
    if not names:
        raise ConfigError("no model to compare is named; write base for the base model, or name=PATH for an adapter or a whole model")
    return CompareArguments(configs[0] if configs else None, models, overrides)


def _compared_model(name: str, path: Path) -> ComparedModel:
    path = path.expanduser().absolute()
    for folder in (path, path / "adapter"):  # a run directory means its final adapter
        if (folder / "adapter_config.json").exists():
            return ComparedModel(name, adapter=folder)
    if (path / "config.json").exists():
        return ComparedModel(name, model=path)
    raise ConfigError(
        f"{name}={path} holds neither an adapter (adapter_config.json), nor a model (config.json), nor a finished run (adapter/); "
        "correct the path"
    )


def config_without_file(models: Sequence[ComparedModel], overrides: Sequence[str]) -> RunConfig:
    """Make the settings of a comparison without a YAML file: the adapters' base model and the accuracy reward; without a GPU, float32 on the CPU.

    Raises:
        ConfigError: the adapters have different base models, or no base model is known, or no data set is named.
    """
    bases = {_base_of(one.adapter): one for one in models if one.adapter}
    if len(bases) > 1:
        (first, one), (second, other), *_ = bases.items()
        raise ConfigError(
            f"{one.name} is an adapter of {first}, but {other.name} is one of {second}: adapters can be compared on one base model only; "
            "merge them, and compare the merged models"
        )
    whole = next((str(one.model) for one in models if one.model), None)
    path = next(iter(bases), whole)
    if path is None:
        raise ConfigError("only base is named, and nothing says which model that is: put a YAML file or a run directory before it")
    accuracy = {"name": "accuracy", "params": {"answer_style": "auto"}}
    tree: dict[str, YamlValue] = {"model": {"path": path}, "data": {"path": path}, "rewards": {"functions": [accuracy]}}
    if not NVIDIA_DRIVER.exists():
        on_cpu = {"model": {"path": path, "dtype": "float32"}, "actors": {"gpus_per_worker": 0}, "learner": {"gpus_per_rank": 0}}
        tree |= on_cpu
    config = config_of(tree, "the command line", overrides)
    if not config.evaluation.data:
        raise ConfigError("no data set is named: give --data, or a YAML file or run directory whose held-out prompts are used")
    return config


def _base_of(adapter: Path) -> str:
    base = json.loads((adapter / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"{adapter} does not name its base model: give a YAML file whose model.path is that model")
    return str(Path(base).resolve()) if Path(base).exists() else str(base)
