"""Choice of the files that hold a split: by their names in a folder, or as `data.data_files` lists them. No file of a folder is left out in silence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

from actors.rows.files import SUFFIXES, is_data_file
from configs.contracts.errors import DataError
from configs.schema.sources import BUILDERS, DataFiles

_SHOWN_FILES = 8
_NO_DATA = re.compile(
    r"(?i)(readme|license|licence|changelog|makefile|_success)|.*\.(md|rst|py|ipynb|sh|ya?ml|toml|lock|crc|git\w+|cfg|png|jpe?g|svg)"
)
"""Names of files beside data that nobody takes for data."""

_CARDS = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""JSON files that describe data."""


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of one split of a folder, in the order of their names.

    The names of files say their split (`test.jsonl`, `data/train-00000.parquet`), as for `datasets`. If there is only one split, it is taken,
    whatever `split` says. `datasets` leaves out the files that name no split where others do; here that is refused.

    Raises:
        DataError: the folder holds no data, several splits without this one, or files that name no split beside files that do.
    """
    files = _by_split(folder)
    if not files:
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:10]) or "nothing"
        raise DataError(f"folder {folder} holds no data ({there} there); put {', '.join(SUFFIXES)} files into it")
    if split not in files and len(files) > 1:
        raise DataError(f"folder {folder} has no split {split!r}; it has {', '.join(files)}")
    _require_none_left(folder, split, files)
    return files.get(split) or next(iter(files.values()))


def _by_split(folder: Path) -> dict[str, list[Path]]:
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns

    try:
        patterns = get_data_patterns(str(folder))
        found = DataFilesDict.from_patterns(patterns, base_path=str(folder))
    except (EmptyDatasetError, FileNotFoundError):
        return {}
    files = {str(kind): sorted(file for path in paths if is_data_file(file := Path(path))) for kind, paths in found.items()}
    files = {kind: paths for kind, paths in files.items() if paths}
    if files:
        return files
    unnamed = [
        file for file in _visible(folder) if is_data_file(file) and file.name not in _CARDS
    ]  # only other files name a split: train.txt
    return {"train": unnamed} if unnamed else {}


def _require_none_left(folder: Path, split: str, files: dict[str, list[Path]]) -> None:
    """Raise DataError if files that may belong to the split are in none."""
    taken = {file.resolve() for paths in files.values() for file in paths}
    left = [file for file in _visible(folder) if is_data_file(file) and file.name not in _CARDS and file.resolve() not in taken]
    if split in files and split != "train":
        left = [file for file in left if _names_split(folder, file, re.escape(split))]
    if left:
        named = ", ".join(f"{kind}: {_names(folder, paths)}" for kind, paths in files.items())
        raise DataError(
            f"folder {folder}: the names of some files say their split ({named}), and {_names(folder, left)} would be left out; list the files of "
            f"the split in data.data_files, give all of them a split's name, or move them elsewhere"
        )


def folder_notices(folder: Path, split: str, files: Sequence[Path]) -> list[str]:
    """Sentences on the files of a folder that are not read although they may hold data, and on a split that is taken instead of another."""
    by_split = _by_split(folder)
    found = [f"folder {folder} has no split {split!r}: its only split, {other}, is read" for other in by_split if split not in by_split]
    if list(by_split) == ["train"] and not any(_names_split(folder, file, "train(ing)?") for file in files):
        found = []
    known = {file.resolve() for paths in by_split.values() for file in paths} | {file.resolve() for file in files}
    other = [
        file for file in _files(folder) if file.resolve() not in known and file.name not in _CARDS and not _NO_DATA.fullmatch(file.name)
    ]
    left = [file for file in other if is_data_file(file) or file in _visible(folder)]
    if left:
        found.append(
            f"not read, in folder {folder}: {_names(folder, left)} (read are {', '.join(SUFFIXES)} files that do not begin with . or __)"
        )
    return found


def _names_split(folder: Path, file: Path, split: str) -> bool:
    return file.is_relative_to(folder) and re.search(rf"(?i)(?<![a-z])(?:{split})(?![a-z])", str(file.relative_to(folder))) is not None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and ".git" not in file.parts and ".cache" not in file.parts)


def _visible(folder: Path) -> list[Path]:
    """The files that `datasets` looks at: none that is hidden, or in a folder that is."""
    return [file for file in _files(folder) if not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)]


def _names(folder: Path, files: Iterable[Path]) -> str:
    names = [str(file.relative_to(folder)) if file.is_relative_to(folder) else file.name for file in files]
    return ", ".join(names[:_SHOWN_FILES]) + f" and {len(names) - _SHOWN_FILES} more" * (len(names) > _SHOWN_FILES)


def listed_files(path: str | None, data_files: DataFiles, split: str, key: str = "data.data_files") -> list[Path] | None:
    """The files that `data_files` lists for a split, patterns resolved; None if they are on the hub.

    Args:
        path: the folder that relative names start from; None, or `json`, `csv`, `parquet` or `arrow` as for `load_dataset`, is the current folder.

    Raises:
        DataError: one does not exist, is listed twice, or no file is listed for this split.
    """
    folder = Path() if path is None or path in BUILDERS else Path(path).expanduser()
    if not folder.is_dir():
        if folder.is_file():
            raise DataError(f"{key} with data.path {path}, which is a file: give its folder, or remove one of them")
        return None
    names = listed_names(data_files, split, key)
    files = [file for name in names for file in _matches(folder, name, key)]
    doubled = next((file for file in files if files.count(file) > 1), None)
    if doubled is not None:
        raise DataError(f"{key} lists {doubled} twice, so that its rows would be read twice; list it once")
    return files


def listed_names(data_files: DataFiles, split: str, key: str = "data.data_files") -> list[str]:
    """The names that `data_files` lists for a split.

    Raises:
        DataError: none.
    """
    if not isinstance(data_files, dict):
        if split != "train":
            raise DataError(
                f"{key} lists files without a split, which are the split train, and {split!r} is wanted; write {{{split}: [...]}}"
            )
        return [data_files] if isinstance(data_files, str) else list(data_files)
    if split not in data_files:
        raise DataError(f"{key} has no split {split!r}; it has {', '.join(data_files)}: set data.split to one of them")
    names = data_files[split]
    return [names] if isinstance(names, str) else list(names)


def unread_splits(data_files: DataFiles | None, split: str) -> list[str]:
    """A sentence on the splits of `data_files` that are not read."""
    others = [name for name in data_files if name != split] if isinstance(data_files, dict) else []
    return (
        [f"data.data_files also lists {', '.join(others)}, which is not read: to hold rows of it out, name a file in data.eval_path"]
        if others
        else []
    )


def _matches(folder: Path, name: str, key: str) -> list[Path]:
    if "://" in name:
        raise DataError(f"{key} {name} is an address, and only files on this machine are read; download it first")
    given = Path(name).expanduser()
    full = given if given.is_absolute() else folder / given
    if full.is_file():
        return [full]
    if full.is_dir():
        raise DataError(f"{key} {name} is a folder; write {name.rstrip('/')}/* for its files, or give it as data.path")
    root = Path(full.anchor) if full.is_absolute() else Path()
    found = sorted(file for file in root.glob(str(full.relative_to(root))) if file.is_file()) if re.search(r"[*?\[]", name) else []
    if not found:
        near = get_close_matches(full.name, [file.name for file in full.parent.iterdir()] if full.parent.is_dir() else [], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DataError(f"{key} {name}: there is no such file in {folder.absolute()}{hint}; correct it")
    return found
