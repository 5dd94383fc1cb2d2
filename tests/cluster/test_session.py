"""A private Ray: authenticated, its token private, nothing left behind, its logs kept."""

import os
import stat
from pathlib import Path

import psutil
import pytest

from cluster.errors import PlacementError
from cluster.session import RaySession
from configs.schema import RunConfig


def config(**sections: dict) -> RunConfig:
    on_cpu = {
        "actors": {"gpus_per_worker": 0},
        "learner": {"gpus_per_rank": 0},
        "cluster": {"address": "local", "object_store_memory_bytes": 80 << 20},
    }
    return RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, **on_cpu, **sections})


def descendants() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_a_private_session_is_authenticated_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    before = {process.pid for process in descendants()}
    with RaySession(config(), tmp_path / "logs", "rollcast-test") as session:
        assert session.placement().nodes
        assert os.environ["RAY_AUTH_MODE"] == "token"
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        folder = token.parent
        with pytest.raises(PlacementError, match="the run asks for 3 GPUs"):
            RaySession(config(actors={"gpus_per_worker": 3}), tmp_path, "other").placement()
    assert not folder.exists()
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert list((tmp_path / "logs" / "ray").glob("gcs_server*"))
    _, alive = psutil.wait_procs([process for process in descendants() if process.pid not in before], timeout=10)
    assert not alive


def test_a_cluster_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(PlacementError, match=r"no Ray cluster answered at 127\.0\.0\.1:1.*ray start --head"),
        RaySession(config(cluster={"address": "127.0.0.1:1"}), tmp_path, "t"),
    ):
        pass
