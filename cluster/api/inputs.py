"""Python objects as the settings of a run: what is no setting is written into the run directory, so that the run can resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from rich.console import Console

from cluster.output.run_dir import Resume, RunDirectory
from configs.contracts.errors import ConfigError
from configs.loading import config_of, sft_config_of
from configs.recipes.command_line import load_run, load_sft
from configs.schema.rewards import RewardSpec
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.yaml_files import YamlValue
from rewards.functions.pickled import write_reward


@runtime_checkable
class SavesParquet(Protocol):
    """A `datasets.Dataset`, or another table that writes itself to a file."""

    def to_parquet(self, path: str, /) -> object:
        """Write all rows."""
        ...


Settings = str | Path | Mapping[str, object] | RunConfig
SftSettings = str | Path | Mapping[str, object] | SftConfig
Data = str | Path | Sequence[Mapping[str, object]] | SavesParquet
Reward = str | Callable[..., object] | RewardSpec | Mapping[str, object]

INPUTS = "inputs"
"""Folder of the run directory for data and rewards that were given as Python objects."""


def load_config(config: Settings, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the settings of a GRPO run.

    Args:
        config: path of a YAML file or a recipe, a mapping of the same content, or settings that are read already.
        overrides: `learner.max_steps=10`, applied from left to right.

    Raises:
        ConfigError: lists every fault.
    """
    if isinstance(config, str | Path):
        return load_run([str(config), *overrides], None, Console())
    return config_of(_tree(config), "the configuration", overrides)


def load_sft_config(config: SftSettings, overrides: Sequence[str] = ()) -> SftConfig:
    """Read the settings of a supervised fine-tuning, as `load_config` reads those of a GRPO run."""
    if isinstance(config, str | Path):
        return load_sft([str(config), *overrides], None, Console())
    return sft_config_of(_tree(config), "the configuration", overrides)


def with_inputs(config: RunConfig, data: Data | None, rewards: Sequence[Reward], resume: Resume) -> tuple[RunConfig, Resume]:
    """The settings with data and rewards from Python, and how to open the run directory afterwards.

    Raises:
        ConfigError: a reward cannot be pickled, or the data are of another type.
    """
    tree = _tree(config)
    folder, resume = _folder_for_inputs(config.out_dir, resume, data, rewards)
    if data is not None:
        _with(tree, "data", path=_data_path(data, folder))
    if rewards:
        _with(tree, "rewards", functions=[_reward_spec(reward, folder) for reward in rewards])
    return config_of(tree, "the configuration"), resume


def sft_with_data(config: SftConfig, data: Data | None, resume: Resume) -> tuple[SftConfig, Resume]:
    """The settings with data from Python, as `with_inputs` makes them."""
    if data is None:
        return config, resume
    tree = _tree(config)
    folder, resume = _folder_for_inputs(config.out_dir, resume, data, ())
    _with(tree, "data", path=_data_path(data, folder))
    return sft_config_of(tree, "the configuration"), resume


def _tree(config: Mapping[str, object] | RunConfig | SftConfig) -> dict[str, YamlValue]:
    """A copy of the settings as a tree; the schema checks afterwards what a caller's mapping holds."""
    if isinstance(config, Mapping):
        return cast("dict[str, YamlValue]", deepcopy(dict(config)))
    return config.model_dump(mode="json", exclude_unset=True)


def _with(tree: dict[str, YamlValue], section: str, **values: YamlValue) -> None:
    """Set keys of a section of the tree."""
    found = tree.get(section)
    tree[section] = {**(found if isinstance(found, dict) else {}), **values}


def _folder_for_inputs(out_dir: Path, resume: Resume, data: Data | None, rewards: Sequence[Reward]) -> tuple[Path, Resume]:
    """The folder to write into. A finished run is moved aside first, as the run itself would do, and would take the inputs with it."""
    folder = out_dir.absolute() / INPUTS
    if (data is None or isinstance(data, str | Path)) and not any(callable(each) for each in rewards):
        return folder, resume
    RunDirectory.open(out_dir, resume).close()
    folder.mkdir(parents=True, exist_ok=True)
    return folder, "auto" if resume == "none" else resume


def _data_path(data: Data, folder: Path) -> str:
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, SavesParquet):
        path = folder / "train.parquet"
        data.to_parquet(str(path))
        return str(path)
    if not (isinstance(data, Sequence) and data and all(isinstance(row, Mapping) for row in data)):
        raise ConfigError(f"data is {type(data).__name__}; give a path, a list of dicts with at least one row, or a datasets.Dataset")
    path = folder / "train.jsonl"
    path.write_text("".join(_json_line(number, row) for number, row in enumerate(data)), encoding="utf-8")
    return str(path)


def _json_line(number: int, row: Mapping[str, object]) -> str:
    try:
        return json.dumps(dict(row), ensure_ascii=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"data[{number}] cannot be written as JSON ({error}): give JSON values, or a datasets.Dataset") from None


def _reward_spec(reward: Reward, folder: Path) -> YamlValue:
    if isinstance(reward, RewardSpec):
        return reward.model_dump()
    if callable(reward):
        return {"name": write_reward(reward, folder / "rewards")}
    return reward if isinstance(reward, str) else cast("dict[str, YamlValue]", dict(reward))
