"""What is made of the settings of a recipe that say where its data come from: one data set, a folder of files, or a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from configs.contracts.errors import ConfigError
from configs.recipes.draft import Draft

OPEN_R1_PART: Mapping[str, str] = {"id": "path", "config": "name", "split": "split", "columns": "columns", "weight": "weight"}
"""Keys of a data set in Open-R1's `dataset_mixture` -> ours."""

TRL_PART: Mapping[str, str] = {"path": "path", "name": "name", "split": "split", "columns": "columns"}
"""Keys of a data set in TRL's `datasets` -> ours."""

TRL_PART_REFUSED: Mapping[str, str] = {
    "data_dir": "give the folder as path",
    "data_files": "give the file, or a folder of the files, as path",
    "fraction": "it is a share of the mixture, which may cut every data set: write the share of each that is kept as weight of data.mixture",
}

MEDICAL_HELD_OUT_SHARE = 0.1

_MIXTURE_WINS = "each data set of the mixture has its own"


def put_source(draft: Draft) -> None:
    """Where the prompts come from.

    Raises:
        ConfigError: nothing says it, or a mixture is not as its trainer takes it.
    """
    mixture = next((setting for setting in ("dataset_mixture", "datasets") if draft.has(setting)), None)
    folder = draft.has("train_file_dir")
    if mixture is None and not folder and not draft.has("dataset_name"):
        raise ConfigError("dataset_name is not given; add the hub id of a data set, or the path of a file or folder")
    if mixture is None:
        put_one(draft, "train_file_dir" if folder else "dataset_name")
    else:
        _put_mixture(draft, mixture)
    streamed = "dataset_streaming" if draft.has("dataset_streaming") else "streaming"
    if draft.has("dataset_streaming") and draft.has("streaming") and draft.flag("dataset_streaming") != draft.flag("streaming"):
        raise ConfigError("dataset_streaming and streaming say the opposite; keep one of them")
    if draft.has(streamed):
        draft.put("data.streaming", draft.flag(streamed), "dataset_streaming", "streaming")


def put_held_out_share(draft: Draft, medical: bool) -> None:
    """How much is held out, where the trainer says it as a share."""
    if draft.has("datasets") and not draft.has("dataset_mixture"):
        if draft.has("test_split_size"):
            draft.put("data.mixture.test_split_size", draft.given["test_split_size"], "test_split_size")
    else:
        draft.ignore("test_split_size", "it splits the mixture of `datasets`, which is not given")
    if medical and not draft.flag("dataset_streaming") and not draft.flag("streaming") and "mixture" not in draft.tree["data"]:
        draft.put("data.test_split_size", MEDICAL_HELD_OUT_SHARE, why="MedicalGPT's script holds out a tenth")


def put_one(draft: Draft, source: str) -> None:
    """One data set, from the setting `source`."""
    draft.put("data.path", draft.given[source], source)
    if source == "train_file_dir":
        draft.ignore("dataset_name", "train_file_dir is used")
    for setting, target in (("dataset_config", "data.name"), ("dataset_train_split", "data.split")):
        if draft.has(setting):
            draft.put(target, draft.given[setting], setting)


def _put_mixture(draft: Draft, setting: str) -> None:
    for other in {"dataset_name", "train_file_dir", "datasets"} - {setting}:
        draft.ignore(other, f"{setting} is used")
    for other in ("dataset_config", "dataset_train_split"):
        draft.ignore(other, _MIXTURE_WINS)
    if setting == "datasets":
        draft.put("data.mixture.datasets", _parts(draft, setting, draft.given[setting], TRL_PART), setting)
        return
    given = draft.mapping(setting)
    unknown = [key for key in given if key not in ("datasets", "seed", "test_split_size")]
    if unknown or "datasets" not in given:
        problem = f"{unknown[0]} is not known there" if unknown else "it lists no datasets"
        raise ConfigError(
            f"{draft.written(setting)}: {problem}; write {{datasets: [{{id: ..., weight: ...}}], seed: 0, test_split_size: 0.1}}"
        )
    draft.put("data.mixture.datasets", _parts(draft, setting, given["datasets"], OPEN_R1_PART), setting)
    draft.put("data.mixture.seed", given["seed"] if given.get("seed") is not None else 0, setting)
    if given.get("test_split_size") is not None:
        draft.put("data.mixture.test_split_size", given["test_split_size"], setting)


def _parts(draft: Draft, setting: str, parts: Any, names: Mapping[str, str]) -> list[dict[str, Any]]:
    written = draft.written(setting)
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise ConfigError(f"{written}: {parts!r} is not a list of data sets; write [{{{next(iter(names))}: ...}}, ...]")
    return [_part(written, part, names) for part in parts]


def _part(written: str, part: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    given = {key: value for key, value in part.items() if value is not None}
    for key in given:
        if names is TRL_PART and key in TRL_PART_REFUSED:
            raise ConfigError(f"{written}: {key} of a data set is not supported: {TRL_PART_REFUSED[key]}")
        if key not in names:
            near = get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            raise ConfigError(f"{written}: a data set has no {key}; {hint}")
    source = next(iter(names))
    if source not in given:
        raise ConfigError(f"{written}: a data set has no {source}; add its hub id, file or folder")
    return {names[key]: value for key, value in given.items()}
