"""Python objects as the settings of a run: what is no setting is written into the run directory, so that the run can resume."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, cast, runtime_checkable

import numpy as np
from rich.console import Console

from cluster.api.arguments import checked_overrides
from cluster.output.run_dir import Resume, RunDirectory
from configs.contracts.errors import ConfigError
from configs.loading import config_of, sft_config_of
from configs.recipes.command_line import config_of_mapping, load_run, load_sft
from configs.recipes.kinds import GRPO, SFT
from configs.schema.rewards import RewardSpec
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.yaml_files import YamlValue
from rewards.functions.pickled import write_reward
from rewards.functions.registry import validate


@runtime_checkable
class SavesParquet(Protocol):
    """A `datasets.Dataset`, or another table that writes itself to a file."""

    def to_parquet(self, path: str, /) -> object:
        """Write all rows."""
        ...


Settings = str | Path | Mapping[str, object] | RunConfig
SftSettings = str | Path | Mapping[str, object] | SftConfig
Data = str | Path | Sequence[Mapping[str, object]] | SavesParquet
Reward = str | Path | Callable[..., object] | RewardSpec | Mapping[str, object]

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
    overrides = checked_overrides(overrides)
    if isinstance(config, str | Path):
        return load_run([str(config), *overrides], None, Console(emoji=False))
    if isinstance(config, SftConfig):
        raise ConfigError("these are settings of a supervised fine-tuning; give them to rollcast.sft")
    return config_of_mapping(GRPO, _tree(config), overrides, Console(emoji=False))


def load_sft_config(config: SftSettings, overrides: Sequence[str] = ()) -> SftConfig:
    """Read the settings of a supervised fine-tuning, as `load_config` reads those of a GRPO run."""
    overrides = checked_overrides(overrides)
    if isinstance(config, str | Path):
        return load_sft([str(config), *overrides], None, Console(emoji=False))
    if isinstance(config, RunConfig):
        raise ConfigError("these are settings of a GRPO run; give them to rollcast.train")
    return config_of_mapping(SFT, _tree(config), overrides, Console(emoji=False))


def with_inputs(config: RunConfig, data: Data | None, rewards: Sequence[Reward] | None, resume: Resume) -> tuple[RunConfig, Resume]:
    """The settings with data and rewards from Python, and how to open the run directory afterwards.

    Nothing is written, and no earlier run is moved aside, before all of it is known to be usable.

    Raises:
        ConfigError: no reward is listed, one cannot be pickled or does not exist, the data are of another type, or the settings cannot work with them.
    """
    if rewards is not None and (isinstance(rewards, str | Mapping) or not isinstance(rewards, Sequence)):
        raise ConfigError(
            f"rewards is {rewards!r}; give a list of names, path/to/file.py:function, functions, or {{'name': ..., 'weight': ...}}"
        )
    if rewards is not None and not rewards:
        raise ConfigError("rewards is an empty list; list at least one, or leave `rewards` out for those of the configuration")
    tree = _tree(config)
    with _Inputs.staged(config.out_dir) as inputs:
        if data is not None:
            _with_data(tree, inputs.source_of(data))
        if rewards is not None:
            _with(tree, "rewards", functions=[inputs.add_reward(reward) for reward in rewards])
        changed = config_of(tree, "the configuration")
        resolved = changed.rewards_resolved
        here = [spec for spec in resolved.functions if not inputs.holds(spec.name)]
        validate(resolved.model_copy(update={"functions": tuple(here)}))
        return changed, inputs.install(resume)


def sft_with_data(config: SftConfig, data: Data | None, resume: Resume) -> tuple[SftConfig, Resume]:
    """The settings with data from Python, as `with_inputs` makes them."""
    if data is None:
        return config, resume
    tree = _tree(config)
    with _Inputs.staged(config.out_dir) as inputs:
        _with_data(tree, inputs.source_of(data))
        return sft_config_of(tree, "the configuration"), inputs.install(resume)


def _tree(config: object) -> dict[str, YamlValue]:
    """A copy of the settings as a tree; the schema checks afterwards what a caller's mapping holds."""
    if isinstance(config, RunConfig | SftConfig):
        return config.model_dump(mode="json", exclude_unset=True)
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"the configuration is {config!r}; give the path of a YAML file, a mapping of its content, or settings that are read already"
        )
    try:
        return cast("dict[str, YamlValue]", deepcopy(dict(config)))
    except TypeError as error:
        raise ConfigError(f"the configuration holds what is no setting ({error}); give texts, numbers, lists and mappings") from None


def _with(tree: dict[str, YamlValue], section: str, **values: YamlValue) -> None:
    """Set keys of a section of the tree."""
    found = tree.get(section)
    tree[section] = {**(found if isinstance(found, dict) else {}), **values}


def _with_data(tree: dict[str, YamlValue], source: dict[str, YamlValue]) -> None:
    """Set the source of the rows in the place of the tree's."""
    found = tree.get("data")
    if isinstance(found, dict):
        found.pop("data_files", None)
    _with(tree, "data", **source)


@dataclass(frozen=True)
class _Inputs:
    """Data and rewards on their way into the run directory: first complete in a folder of their own, then moved."""

    stage: Path
    out_dir: Path

    @classmethod
    @contextmanager
    def staged(cls, out_dir: Path) -> Iterator[_Inputs]:
        with TemporaryDirectory(prefix="rollcast-inputs-") as folder:
            yield cls(Path(folder), out_dir)

    @property
    def folder(self) -> Path:
        """The folder into which they are going to be moved."""
        return self.out_dir.absolute() / INPUTS

    def holds(self, reward: str) -> bool:
        return reward.startswith(f"{self.folder}/")

    def source_of(self, data: Data) -> dict[str, YamlValue]:
        """Keys of section `data`: a path with the split of the settings, or the file of rows, which has all of them."""
        return {"path": str(data)} if isinstance(data, str | Path) else {"path": self._written(data), "split": "train"}

    def _written(self, data: object) -> str:
        """The path of rows once they are written."""
        if isinstance(data, SavesParquet):
            return self._table(data)
        if not isinstance(data, Sequence):
            raise ConfigError(f"data is {type(data).__name__}; give a path, a list of dicts, or a datasets.Dataset")
        if not data:
            raise ConfigError("data has no rows; give at least one")
        lines = "".join(_json_line(number, row) for number, row in enumerate(data))
        (self.stage / "train.jsonl").write_text(lines, encoding="utf-8")
        return str(self.folder / "train.jsonl")

    def _table(self, data: SavesParquet) -> str:
        try:
            data.to_parquet(str(self.stage / "train.parquet"))
        except Exception as error:  # of the caller's table, or of a generator behind it
            raise ConfigError(
                f"data of type {type(data).__name__} cannot be written as Parquet: {type(error).__name__}: {error}"
            ) from error
        return str(self.folder / "train.parquet")

    def add_reward(self, reward: Reward) -> YamlValue:
        """The entry of a reward under `rewards.functions`; a callable is pickled, also one that is named in a mapping."""
        if isinstance(reward, RewardSpec):
            return reward.model_dump()
        if callable(reward):
            return {"name": self._pickled(reward)}
        if isinstance(reward, Mapping):
            entry = cast("dict[str, YamlValue]", dict(reward))
            named: object = entry.get("name")
            return {**entry, "name": self._pickled(named)} if callable(named) else entry
        if isinstance(reward, str | Path):
            return str(reward)
        raise ConfigError(f"rewards holds {reward!r}; give a name, path/to/file.py:function, a function, or {{'name': ..., 'weight': ...}}")

    def _pickled(self, reward: Callable[..., object]) -> str:
        written = write_reward(reward, self.stage / "rewards")
        return f"{self.folder}{written.removeprefix(str(self.stage))}"

    def install(self, resume: Resume) -> Resume:
        """Move the files into the run directory; returns how to open it afterwards.

        A finished run is moved aside first, as the run itself would do, and would take the inputs with it.
        """
        files = [file for file in self.stage.rglob("*") if file.is_file()]
        if not files:
            return resume
        directory = RunDirectory.open(self.out_dir, resume)
        directory.close()
        if directory.notice:
            print(directory.notice)
        for file in files:
            target = self.folder / file.relative_to(self.stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f"{target.name}.tmp")
            shutil.copyfile(file, unfinished)
            os.replace(unfinished, target)
        return "auto" if resume == "none" else resume


def _json_line(number: int, row: object) -> str:
    if not isinstance(row, Mapping):
        raise ConfigError(f"data[{number}] is {row!r}; give rows as dicts, such as {{'prompt': ..., 'solution': ...}}")
    for column, value in row.items():
        try:
            json.dumps(value, ensure_ascii=False, default=_of_numpy).encode()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"data[{number}] has {value!r} in column {column!r} ({error}); give JSON values, or a datasets.Dataset"
            ) from None
    return json.dumps(dict(row), ensure_ascii=False, default=_of_numpy) + "\n"


def _of_numpy(value: object) -> object:
    """The lists and numbers of NumPy, which pandas puts into rows.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
