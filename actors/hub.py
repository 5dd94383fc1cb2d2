"""Data sets of the hub, and folders with named configurations, by `datasets`; what goes wrong there becomes a remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def load_with_datasets(path: str, name: str | None, split: str) -> Dataset:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    called = f"data set {path}" + (f", configuration {name}" if name else "")
    try:
        dataset = datasets.load_dataset(path, name, split=split)
    except DatasetNotFoundError:
        raise DataError(f"{called}: neither a local file nor a data set that you can read on the hub; check its name, or log in") from None
    except RuntimeError as error:
        if "script" not in str(error):
            raise
        raise DataError(f"{called} is a loader script, which is not executed; download its files and give their folder") from None
    except ValueError as error:
        raise DataError(f"{called}, split {split}: {error}") from None
    except (ConnectionError, OSError) as error:
        raise DataError(f"{called}: {error}; connect to the hub once to fill the cache, or give local files") from None
    return dataset


def stream_with_datasets(path: str, name: str | None, split: str) -> IterableDataset:
    import datasets

    return datasets.load_dataset(path, name, split=split, streaming=True)
