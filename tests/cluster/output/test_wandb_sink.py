"""W&B for real, offline: what is in its own file is what was logged; a resumed run goes on under its id; its process ends with the run."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.output.sinks import MetricSinks
from cluster.output.wandb_sink import STEP, require_wandb
from configs.contracts.errors import ConfigError
from configs.loading import load_config, load_sft_config
from configs.schema.run import RunConfig
from tests import REPOSITORY

pytest.importorskip("wandb")

QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"
ROWS = [{"step": 1, "prompt": "1+1", "completion": "[red]2", "rewards/accuracy": 1.0, "reward": 1.0, "advantage": -0.5}]


def config_of(*settings: str) -> RunConfig:
    return load_config(QUICKSTART, ["cluster.report_to=[tensorboard, wandb]", *settings])


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")


def records(folder: Path) -> list[list[Any]]:
    """The records of every offline run in a folder, run by run."""
    import wandb.proto.wandb_internal_pb2 as messages

    kind: Any = getattr(messages, "Record")  # noqa: B009 (made at run time)
    return [[kind.FromString(data) for data in entries(file)] for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def entries(file: Path) -> Iterator[bytes]:
    """What a `.wandb` file holds: a header of 7 bytes, then LevelDB's log format, blocks of 32 KiB with parts of entries.

    A part has a checksum (4 bytes), its length (2), and its kind (1): whole, first, middle, last. The package no longer has a reader.
    """
    content, at, entry = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        entry += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield entry
            entry = b""


def history(found: list[Any]) -> list[dict[str, Any]]:
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]


def log(folder: Path, config: RunConfig, steps: dict[int, dict[str, float]]) -> None:
    sinks = MetricSinks.open(config, folder)
    sinks.ray_metrics = False
    for step, metrics in steps.items():
        sinks.emit(step, metrics)
    sinks.completions(1, ROWS)
    sinks.summarise({"accuracy_after": 0.75})
    sinks.close()


def test_what_is_logged_is_in_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    before = set(psutil.Process().children(recursive=True))
    secret = "rewards.functions=[{name: 'examples/digit_share.py:digit_share', params: {api_key: abcdefgh}}]"
    config = config_of("cluster.wandb_project=p", "cluster.wandb_run_group=g", "cluster.run_name=n", secret)
    logged = {1: {"train/reward": 0.25, "kl": 1e-9}, 2: {"train/reward": 0.5, "rewards/accuracy/mean": 1.0}}
    log(folder, config, logged)
    assert set(psutil.Process().children(recursive=True)) <= before, "W&B's process outlives its run"
    (found,) = records(folder)
    rows = history(found)
    assert [{name: row[name] for name in metrics} for row, metrics in zip(rows, logged.values(), strict=False)] == list(logged.values())
    assert [row[STEP] for row in rows] == [1, 2, 1]
    started = next(record.run for record in found if record.HasField("run"))
    assert (started.project, started.run_group, started.display_name) == ("p", "g", "n")
    settings = {item.key: json.loads(item.value_json) for record in found for item in record.run.config.update}
    assert settings["learner"]["learning_rate"] == 0.001 and "abcdefgh" not in json.dumps(settings)
    assert any(
        item.key == "accuracy_after" and item.value_json == "0.75" for r in found if r.HasField("summary") for item in r.summary.update
    )
    table = json.loads(next(folder.glob("wandb/offline-run-*/files/media/table/*.json")).read_text())
    assert [dict(zip(table["columns"], row, strict=True)) for row in table["data"]] == ROWS
    assert list(folder.glob("tensorboard/events*")) and len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_supervised_fine_tuning_is_logged_as_well(tmp_path: Path) -> None:
    config = load_sft_config(REPOSITORY / "configs" / "quickstart_sft.yaml", ["cluster.report_to=wandb"])
    require_wandb(config)
    sinks = MetricSinks.open(config, tmp_path)
    sinks.ray_metrics = False
    sinks.emit(0, {"eval/loss": 5.0})
    sinks.close()
    (found,) = records(tmp_path)
    assert [(row["eval/loss"], row[STEP]) for row in history(found)] == [(5.0, 0)]
    assert not (tmp_path / "tensorboard").exists()


def test_a_resumed_run_goes_on_under_its_id(tmp_path: Path) -> None:
    """The steps after the checkpoint are logged again: W&B's own counter goes on, and the axis of the charts is the step of the run."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = config_of("cluster.report_to=wandb")
    log(folder, config, {1: {"kl": 1.0}, 2: {"kl": 2.0}})
    log(folder, config, {2: {"kl": 2.5}, 3: {"kl": 3.0}})
    first, second = records(folder)
    ids = {record.run.run_id for record in (*first, *second) if record.HasField("run")}
    assert ids == {(folder / "wandb_run_id").read_text()}
    assert [(row[STEP], row["kl"]) for row in history(second) if "kl" in row] == [(2, 2.5), (3, 3.0)]
    assert not list(folder.glob("tensorboard/*")), "only W&B was asked for"


def test_a_run_goes_on_when_the_process_of_wandb_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    before, said = set(psutil.Process().children(recursive=True)), []
    sinks = MetricSinks.open(config_of(), folder, said.append)
    sinks.ray_metrics = False
    sinks.emit(1, {"kl": 1.0})
    theirs = set(psutil.Process().children(recursive=True)) - before
    assert theirs
    for process in theirs:
        process.kill()
    psutil.wait_procs(list(theirs), timeout=30)
    for step in (2, 3):
        sinks.emit(step, {"kl": 1.0})
    sinks.completions(3, ROWS)
    sinks.close()
    assert len(said) == 1 and said[0].startswith("WARNING: W&B failed")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_run_without_a_key_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="there is no key: export WANDB_API_KEY"):
        require_wandb(config_of())
    require_wandb(load_config(QUICKSTART))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    require_wandb(config_of())


def test_a_missing_package_is_refused_with_the_command(tmp_path: Path) -> None:
    """In a process in which the package cannot be found."""
    without = (
        "import sys, importlib.util as u; find = u.find_spec; u.find_spec = lambda name, *a: None if name == 'wandb' else find(name, *a); "
    )
    program = without + "from cluster.__main__ import main; main()"
    command = [sys.executable, "-c", program, "train", str(QUICKSTART), "cluster.report_to=[wandb]", f"out_dir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "pip install 'rollcast[wandb]'" in done.stderr
    assert not (tmp_path / "run").exists()
