"""Python objects as the settings of a run: what is no setting is written into the run directory, so that the run can resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.output.run_dir import Resume, RunDirectory
from configs.contracts.errors import ConfigError
from configs.loading import config_of, sft_config_of
from configs.recipes.command_line import load_run, load_sft
from configs.schema.rewards import RewardSpec
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from rewards.functions.pickled import write_reward

Settings = str | Path | Mapping[str, Any] | RunConfig
SftSettings = str | Path | Mapping[str, Any] | SftConfig
Data = "str | Path | Sequence[Mapping[str, Any]] | datasets.Dataset"
Reward = str | Callable[..., Any] | RewardSpec | Mapping[str, Any]

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


def with_inputs(config: RunConfig, data: Any, rewards: Sequence[Reward], resume: Resume) -> tuple[RunConfig, Resume]:
    """The settings with data and rewards from Python, and how to open the run directory afterwards.

    Raises:
        ConfigError: a reward cannot be pickled, or the data are of another type.
    """
    tree = _tree(config)
    folder, resume = _folder_for_inputs(config.out_dir, resume, data, rewards)
    if data is not None:
        tree["data"] = {**tree.get("data", {}), "path": _data_path(data, folder)}
    if rewards:
        tree["rewards"] = {**tree.get("rewards", {}), "functions": [_reward_spec(reward, folder) for reward in rewards]}
    return config_of(tree, "the configuration"), resume


def sft_with_data(config: SftConfig, data: Any, resume: Resume) -> tuple[SftConfig, Resume]:
    """The settings with data from Python, as `with_inputs` makes them."""
    if data is None:
        return config, resume
    tree = _tree(config)
    folder, resume = _folder_for_inputs(config.out_dir, resume, data, ())
    tree["data"] = {**tree.get("data", {}), "path": _data_path(data, folder)}
    return sft_config_of(tree, "the configuration"), resume


def _tree(config: Mapping[str, Any] | RunConfig | SftConfig) -> dict[str, Any]:
    return deepcopy(dict(config)) if isinstance(config, Mapping) else config.model_dump(mode="json", exclude_unset=True)


def _folder_for_inputs(out_dir: Path, resume: Resume, data: Any, rewards: Sequence[Reward]) -> tuple[Path, Resume]:
    """The folder to write into. A finished run is moved aside first, as the run itself would do, and would take the inputs with it."""
    folder = out_dir.absolute() / INPUTS
    if (data is None or isinstance(data, str | Path)) and not any(callable(each) for each in rewards):
        return folder, resume
    RunDirectory.open(out_dir, resume).close()
    folder.mkdir(parents=True, exist_ok=True)
    return folder, "auto" if resume == "none" else resume


def _data_path(data: Any, folder: Path) -> str:
    if isinstance(data, str | Path):
        return str(data)
    if hasattr(data, "to_parquet"):
        path = folder / "train.parquet"
        data.to_parquet(str(path))
        return str(path)
    if not (isinstance(data, Sequence) and data and all(isinstance(row, Mapping) for row in data)):
        raise ConfigError(f"data is {type(data).__name__}; give a path, a list of dicts with at least one row, or a datasets.Dataset")
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in data), encoding="utf-8")
    return str(path)


def _reward_spec(reward: Reward, folder: Path) -> Any:
    if isinstance(reward, RewardSpec):
        return reward.model_dump()
    return {"name": write_reward(reward, folder / "rewards")} if callable(reward) else reward
