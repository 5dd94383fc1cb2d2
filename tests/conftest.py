"""Fixtures that the tests of several packages share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # started by nohup, this process would ignore it, and so would every process that it starts


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the model of `builtin:tiny_qwen2` with seed 0 once, so that a run with this `model.path` need not make its own."""
    from learner.model.tiny_model import create_tiny_model

    return create_tiny_model(tmp_path_factory.mktemp("tiny_model") / "model", seed=0)


@pytest.fixture(scope="session")
def ray_folders() -> Iterator[list[str]]:
    """Collect the folders of the Rays that tests share, and end the last Ray when all tests have run."""
    folders: list[str] = []
    yield folders
    end_shared_ray()
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def ray_local(ray_folders: list[str]) -> None:
    """Start a private Ray with four logical cores, or go on with the one that an earlier test has started."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    if ray.is_initialized():
        return
    ray_folders.append(folder := tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # short: socket paths may not exceed 107 characters
    ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False, _temp_dir=folder)


@pytest.fixture
def no_ray() -> None:
    """Leave this process without Ray, as the process of a user who has not started it."""
    end_shared_ray()


def end_shared_ray() -> None:
    """End the Ray that tests share, if one is up."""
    if (ray := sys.modules.get("ray")) is not None:
        ray.shutdown()
