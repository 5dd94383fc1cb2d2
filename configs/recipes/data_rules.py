"""Conversion rules for the data of a recipe: one data set, a folder of files, or a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from configs.contracts.errors import ConfigError
from configs.recipes.draft import Draft
from configs.schema.sources import BUILDERS
from configs.yaml_files import YamlValue

OPEN_R1_PART: Mapping[str, str] = {"id": "path", "config": "name", "split": "split", "columns": "columns", "weight": "weight"}
"""Keys of a data set in Open-R1's `dataset_mixture` -> ours."""

TRL_PART: Mapping[str, str] = {"path": "path", "name": "name", "split": "split", "columns": "columns", "data_files": "data_files"}
"""Keys of a data set in TRL's `datasets` -> ours."""

TRL_PART_REFUSED: Mapping[str, str] = {
    "data_dir": "give the folder as path",
    "fraction": "it is a share of the whole mixture; write the share of each data set that is kept as its weight in data.mixture",
}
"""Keys of a data set in TRL's `datasets` that are not supported -> remedy."""

MEDICAL_HELD_OUT_SHARE = 0.1
"""Share of the rows that MedicalGPT's script holds out."""

_MIXTURE_WINS = "each data set of the mixture has its own"


def set_source(draft: Draft, *, folder_first: bool) -> None:
    """Set the source of the rows.

    Args:
        folder_first: take `train_file_dir` where `dataset_name` is given, too, and not the other way round.

    Raises:
        ConfigError: no data set is given, or a mixture is not written as its trainer takes it.
    """
    mixture = next((setting for setting in ("dataset_mixture", "datasets") if draft.has(setting)), None)
    folder, dataset, files = draft.has("train_file_dir"), draft.has("dataset_name"), draft.has("data_files")
    if mixture is None and not folder and not dataset and not files:
        raise ConfigError("dataset_name is not given; add the hub id of a data set, or the path of a file or folder")
    if mixture is None and files and not folder:
        _set_listed_files(draft)
    elif mixture is None:
        _set_single_source(draft, "train_file_dir" if folder and (folder_first or not dataset) else "dataset_name")
    else:
        _set_mixture(draft, mixture)
    _set_streaming(draft)


def _set_streaming(draft: Draft) -> None:
    streamed = "dataset_streaming" if draft.has("dataset_streaming") else "streaming"
    if draft.has("dataset_streaming") and draft.has("streaming") and draft.flag("dataset_streaming") != draft.flag("streaming"):
        raise ConfigError("dataset_streaming and streaming contradict each other; keep one of them")
    if draft.has(streamed):
        draft.set("data.streaming", draft.flag(streamed), "dataset_streaming", "streaming")


def set_held_out_share(draft: Draft, medical: bool) -> None:
    """Set the held-out share of the rows, for trainers that take a share."""
    if draft.has("datasets") and not draft.has("dataset_mixture"):
        if draft.has("test_split_size"):
            draft.set("data.mixture.test_split_size", draft.given["test_split_size"], "test_split_size")
    else:
        draft.note_ignored("test_split_size", "it splits the mixture of `datasets`, which is not given")
    if medical and not draft.flag("dataset_streaming") and not draft.flag("streaming") and "data.mixture.datasets" not in draft.keys:
        draft.set("data.test_split_size", MEDICAL_HELD_OUT_SHARE, why="MedicalGPT's script holds out a tenth")


def mixed_columns(draft: Draft) -> set[str]:
    """The columns of the mixture as its first data set lists them; none if it lists none, or there is no mixture."""
    parts = draft.keys.get("data.mixture.datasets")
    first = parts[0] if isinstance(parts, list) else None
    columns = first.get("columns") if isinstance(first, dict) else None
    return set(map(str, columns.values() if isinstance(columns, dict) else columns if isinstance(columns, list) else ()))


def _set_listed_files(draft: Draft) -> None:
    """Set the files that `data_files` lists: in the folder or the hub's data set `dataset_name`, or wherever they are if that names a format."""
    draft.set("data.data_files", draft.given["data_files"], "data_files")
    if draft.given.get("dataset_name") in BUILDERS:
        draft.note_ignored("dataset_name", "the format of a file is told by its name")
    elif draft.has("dataset_name"):
        draft.set("data.path", draft.given["dataset_name"], "dataset_name")
    _set_name_and_split(draft)


def _set_single_source(draft: Draft, source: str) -> None:
    """Set one data set, named by the setting `source`."""
    if draft.given[source] in BUILDERS:
        raise ConfigError(f"{draft.written(source)}: {draft.given[source]} is a format and no data set; list its files as data_files")
    draft.set("data.path", draft.given[source], source)
    draft.note_ignored("dataset_name" if source == "train_file_dir" else "train_file_dir", f"{source} is used")
    draft.note_ignored("data_files", f"{source} is used")
    _set_name_and_split(draft)


def _set_name_and_split(draft: Draft) -> None:
    for setting, target in (("dataset_config", "data.name"), ("dataset_train_split", "data.split")):
        if draft.has(setting):
            draft.set(target, draft.given[setting], setting)


def _set_mixture(draft: Draft, setting: str) -> None:
    for other in {"dataset_name", "train_file_dir", "datasets", "data_files"} - {setting}:
        draft.note_ignored(other, f"{setting} is used")
    for other in ("dataset_config", "dataset_train_split"):
        draft.note_ignored(other, _MIXTURE_WINS)
    if setting == "datasets":
        draft.set("data.mixture.datasets", _parts(draft, setting, draft.given[setting], TRL_PART), setting)
        return
    given = draft.mapping(setting)
    unknown = [key for key in given if key not in ("datasets", "seed", "test_split_size")]
    if unknown or "datasets" not in given:
        problem = f"there is no key {' and no key '.join(unknown)}" if unknown else "it lists no datasets"
        raise ConfigError(
            f"{draft.written(setting)}: {problem}; write {{datasets: [{{id: ..., weight: ...}}], seed: 0, test_split_size: 0.1}}"
        )
    draft.set("data.mixture.datasets", _parts(draft, setting, given["datasets"], OPEN_R1_PART), setting)
    draft.set("data.mixture.seed", given["seed"] if given.get("seed") is not None else 0, setting)
    if given.get("test_split_size") is not None:
        draft.set("data.mixture.test_split_size", given["test_split_size"], setting)


def _parts(draft: Draft, setting: str, parts: YamlValue, names: Mapping[str, str]) -> list[YamlValue]:
    written = draft.written(setting)
    found = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
    if not isinstance(parts, list) or not found or len(found) != len(parts):
        raise ConfigError(f"{written}: {parts!r} is not a list of data sets; write [{{{next(iter(names))}: ...}}, ...]")
    return [_part(written, part, names) for part in found]


def _part(written: str, part: Mapping[str, YamlValue], names: Mapping[str, str]) -> dict[str, YamlValue]:
    """Rename the keys of one data set of a mixture."""
    given = {key: value for key, value in part.items() if value is not None}
    faults: list[str] = []
    for key in given:
        if names is TRL_PART and key in TRL_PART_REFUSED:
            faults.append(f"{written}: {key} of a data set is not supported: {TRL_PART_REFUSED[key]}")
        elif key not in names:
            near = get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(names)}"
            faults.append(f"{written}: a data set has no {key}; {hint}")
    if faults:
        raise ConfigError("\n  ".join(faults))
    source = next(iter(names))
    if source not in given:
        raise ConfigError(f"{written}: a data set has no {source}; add its hub id, file or folder")
    return {names[key]: value for key, value in given.items()}
