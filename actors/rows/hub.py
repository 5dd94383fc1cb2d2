"""Data sets of the hub, and folders with named configurations, read by `datasets`; its errors are reworded with a remedy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.rows.files import SUFFIXES
from configs.contracts.errors import DataError
from configs.schema.sources import DataFiles, MixturePart

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

REACHED_WITHIN_S = 5.0
"""Longest wait for the hub. Its library would retry for half a minute, and for longer behind a firewall."""

_FILES_SHOWN = 8


def load_with_datasets(part: MixturePart) -> Dataset:
    """Download a data set, or take it from the cache.

    Raises:
        DataError: there is no such data set, configuration or split, it is a script, or the hub cannot be reached.
    """
    return _load(part, streaming=False)


def stream_with_datasets(part: MixturePart) -> IterableDataset:
    """Open a data set for streaming. Errors are those of `load_with_datasets`."""
    return _load(part, streaming=True)


def _load(part: MixturePart, streaming: bool) -> Any:
    """Open a data set with `datasets`, whose return type depends on `split` and `streaming`."""
    import datasets
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    path, name, split = part.path, part.name, part.split
    called = f"data set {path}" + (f", configuration {name}" if name else "")
    local = Path(path).expanduser().is_dir()
    with _quickly_offline(None if local else called):
        try:
            return datasets.load_dataset(path, name, split=split, streaming=streaming, data_files=_listed(part.data_files))
        except DatasetNotFoundError:
            raise DataError(
                f"{called}: neither a local file nor a data set on the hub that you may read; check its name, or log in"
            ) from None
        except FileNotFoundError as error:
            raise DataError(f"{called}: {error}; correct data.data_files") from None
        except DatasetGenerationError as error:
            raise DataError(
                f"{called}: its files cannot be read: {error.__cause__ or error}; download them and give their folder"
            ) from None
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            raise _script(called, path, local) from None
        except ValueError as error:
            if part.data_files is not None:
                raise DataError(f"{called}: {str(error).splitlines()[0]}; correct data.data_files, data.split or data.path") from None
            raise _unknown(called, path, name, split, error) from None
        except (ConnectionError, OSError) as error:
            raise DataError(f"{called}: {error}; {_NO_HUB}") from None


def _listed(data_files: DataFiles | None) -> str | list[str] | dict[str, str | list[str]] | None:
    """The files as `datasets` takes them, which knows no tuples."""
    if isinstance(data_files, dict):
        return {split: files if isinstance(files, str) else list(files) for split, files in data_files.items()}
    return list(data_files) if isinstance(data_files, tuple) else data_files


_NO_HUB = (
    "connect to the hub once to fill the cache (in HF_HOME; from then on, HF_HUB_OFFLINE=1 works without a network), "
    "or give local files as data.path"
)


def _script(called: str, path: str, local: bool) -> DataError:
    """Make an error that says how to use the data files beside a loader script."""
    if local:
        return DataError(f"{called} is a loader script, which is not executed; give the folder of its data files as data.path")
    there = [file for file in _files(path) if file.endswith(SUFFIXES)]
    folder = Path(there[0]).parent if there else Path("FOLDER")
    shown = f" ({', '.join(there[:_FILES_SHOWN])}{', ...' if len(there) > _FILES_SHOWN else ''})" if there else ""
    include = f"{folder}/*" if str(folder) != "." else "*"
    return DataError(
        f"{called} is a loader script, which is not executed, so that its configurations do not exist here; download its files{shown} and give "
        f"their folder: hf download {path} --repo-type dataset --include '{include}' --local-dir data/{Path(path).name}, then "
        f"data.path=data/{Path(path).name}/{folder} and, where its columns have other names, data.columns={{theirs: ours}}, such as "
        "{instruction: question, output: answer}"
    )


def _files(path: str) -> list[str]:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return sorted(HfApi().list_repo_files(path, repo_type="dataset"))
    except (HfHubHTTPError, OSError, ValueError):
        return []


def _unknown(called: str, path: str, name: str | None, split: str, error: ValueError) -> DataError:
    """Make an error that lists the existing configurations or splits."""
    import datasets

    try:
        names = datasets.get_dataset_config_names(path)
        splits = datasets.get_dataset_split_names(path, name) if name in names or (name is None and len(names) == 1) else []
    except Exception:  # the library raises anything for a broken data set; the first error is enough then
        names, splits = [], []
    if len(names) > 1 and name not in names:
        return (
            DataError(f"{called}: there is no such configuration; choose one of {', '.join(names)} as data.name")
            if name
            else DataError(f"{called} has several configurations; choose one of {', '.join(names)} as data.name")
        )
    if name is not None and names and name not in names:
        return DataError(f"{called}: there is no such configuration; it has only {names[0]}: set data.name to that, or remove it")
    if splits and split not in splits:
        return DataError(f"{called} has no split {split!r}; it has {', '.join(splits)}: set data.split (or data.eval_split) to one of them")
    return DataError(f"{called}, split {split}: {error}; correct data.path, data.name or data.split")


@contextmanager
def _quickly_offline(called: str | None) -> Iterator[None]:
    """If the hub does not answer, make `datasets` look into its cache at once instead of retrying."""
    from datasets import config
    from huggingface_hub import constants

    if called is None or constants.HF_HUB_OFFLINE or _reachable(constants.ENDPOINT):
        yield
        return
    logger.warning("the hub at %s cannot be reached; the cache is searched for %s", constants.ENDPOINT, called)
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def _reachable(endpoint: str) -> bool:
    """Ask the endpoint, through the proxy if one is set; True if anything answers."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=REACHED_WITHIN_S)
    except Exception:  # the type depends on the HTTP library that the hub's library chose
        return False
    return True
