"""Checks that refuse a run before anything is made: of the model's config.json, the room on this machine, and the paths of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from actors.rows.sources import require_source
from cluster.machine import require_room, room, runs_here, this_machine
from cluster.models.trainable import require_trainable
from configs.schema.data import DataSection
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig


def refuse_first(config: RunConfig | SftConfig, say: Callable[[str], None]) -> None:
    """Refuse a run that cannot work here; nothing is written, and neither W&B, Ray nor an engine is asked.

    Args:
        say: is told when very many processes share the cores.

    Raises:
        ConfigError: the model cannot be trained.
        PlacementError: this machine has too few GPUs.
        DataError: a path of data does not exist.
    """
    require_trainable(config)
    here = this_machine()
    require_room(config, here)
    require_data(config)
    told, enough = room(config, here)
    if runs_here(config) and not enough:
        say(told)


def require_data(config: RunConfig | SftConfig) -> None:
    """Look for every local data set of a run, without reading it.

    Raises:
        DataError: there is none at a path, or it has no such split.
    """
    for path, name, split in _sources(config):
        require_source(path, name, split)


def _sources(config: RunConfig | SftConfig) -> Iterator[tuple[str, str | None, str]]:
    data = config.data
    if isinstance(data, DataSection) and data.mixture is not None:
        yield from ((part.path, part.name, part.split) for part in data.mixture.datasets)
    elif data.path is not None:
        yield data.path, data.name, data.split
    if data.eval_path is not None and data.eval_samples:
        yield data.eval_path, data.name if data.eval_path == data.path else None, data.eval_split
