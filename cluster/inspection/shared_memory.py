"""Compare what a run puts into shared memory with the room there, before anything starts: Ray's object store, and the adapters on their way."""

from __future__ import annotations

import shutil
from pathlib import Path

from actors.engine.adapter_folders import KEPT_VERSIONS, OTHER_FILES_BYTES, disk, shared_memory
from cluster.inspection.estimate import estimate
from cluster.machine import runs_here
from cluster.models.shape import model_shape
from configs.contracts.errors import PlacementError
from configs.schema.run import RunConfig


def require_shared_memory(config: RunConfig) -> str:
    """Return a sentence where the adapters have room on the disk alone; "" where shared memory has room for all, or a cluster's nodes are asked.

    Raises:
        PlacementError: there is no room for the object store, or none for the adapters, which stay beside one another while the next is written.
    """
    shape = model_shape(config.model.path)
    if not runs_here(config):
        return ""
    store = config.cluster.object_store_memory_bytes
    adapters = (KEPT_VERSIONS + 1) * (estimate(config, shape).sync_bytes + OTHER_FILES_BYTES) if shape else 0
    memory, fallback = shared_memory(), disk()
    free, free_on_disk = (shutil.disk_usage(folder).free for folder in (memory, fallback))
    asked = f"cluster.object_store_memory_bytes {store:,} and {KEPT_VERSIONS + 1} adapters of {adapters // (KEPT_VERSIONS + 1):,} bytes"
    if memory == Path("/dev/shm") and free < store:
        raise PlacementError(f"{memory} has {free:,} bytes free for {asked}; lower the first, or give the container more (--shm-size)")
    if free >= store + adapters:
        return ""
    if free_on_disk < adapters:
        raise PlacementError(
            f"{memory} has {free:,} bytes free and {fallback} {free_on_disk:,}, for {asked}; free some space in one of them, or give the "
            "container more shared memory (--shm-size)"
        )
    return f"{memory} has {free:,} bytes free for {asked}: adapters are going to be loaded from {fallback}, which is slower (--shm-size)"
