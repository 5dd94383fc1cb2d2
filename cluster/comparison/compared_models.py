"""The models of a comparison, read from the command line, and the settings of a comparison without a run. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.models.adapter_base import Base, find_base
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
    """Make the settings of a comparison without a YAML file: the adapters' base and the accuracy reward; without a GPU, float32 on the CPU.

    Raises:
        ConfigError: nothing says which model `base` is, or no data set is named.
    """
    bases = {base.path: (one, base) for one in models if one.adapter for base in [find_base(one.adapter).base]}
    if len(bases) > 1 and any(one == ComparedModel(BASE) for one in models):
        (first, (one, _)), (second, (other, _)), *_ = bases.items()
        raise ConfigError(
            f"base is named, but {one.name} is an adapter of {first}, and {other.name} of {second}: base must be one model; name it as "
            "name=PATH instead, or put a YAML file or a run directory first"
        )
    whole = next((Base(str(one.model)) for one in models if one.model), None)
    base = next((base for _, base in bases.values()), whole)
    if base is None:
        raise ConfigError("only base is named, and nothing says which model that is: put a YAML file or a run directory before it")
    model: dict[str, YamlValue] = {"path": base.path, "revision": base.revision}
    accuracy = {"name": "accuracy", "params": {"answer_style": "auto"}}
    tree: dict[str, YamlValue] = {"model": model, "data": {"path": base.path}, "rewards": {"functions": [accuracy]}}
    if not NVIDIA_DRIVER.exists():
        tree |= {"model": {**model, "dtype": "float32"}, "actors": {"gpus_per_worker": 0}, "learner": {"gpus_per_rank": 0}}
    config = config_of(tree, "the command line", overrides)
    if not config.evaluation.data:
        raise ConfigError("no data set is named: give --data, or a YAML file or run directory whose held-out prompts are used")
    return config
