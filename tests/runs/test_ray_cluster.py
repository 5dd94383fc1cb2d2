"""Test a Ray cluster that is already running: `ray job submit` as in the README, and joining by address."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.output import checkpoint
from tests.runs.training import REPOSITORY, SMALL
from tests.user_project import FRONT_DOOR, make_project

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass
class Head:
    """A head node that this test started."""

    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    gcs_port: int
    dashboard_port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # a short path, because sockets lie in it
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = inherited | {
        "PYTHONPATH": str(REPOSITORY),
        "PATH": path,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Ray's agent accepts the jobs. If another Ray on this machine held its usual port, it would open none.
    ports, agent_port = (free_port(), free_port()), free_port()
    command = [
        RAY, "start", "--head", "--block", "--num-cpus=4", f"--port={ports[0]}", "--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}",
        f"--dashboard-agent-listen-port={agent_port}", f"--temp-dir={folder}", "--object-store-memory=104857600", "--disable-usage-stats",
    ]  # fmt: skip
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    started = psutil.Process(process.pid)
    try:
        deadline = time.monotonic() + 120
        while not (listening(ports[1]) and listening(agent_port)):
            assert process.poll() is None and time.monotonic() < deadline, "the head node did not start"
            time.sleep(0.2)
        yield Head(process, environment, *ports)
    finally:
        family = [*started.children(recursive=True), started]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=20)
        for left in alive:
            left.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_a_job_trains_and_its_end_is_the_jobs_end(head: Head, tmp_path: Path) -> None:
    """Its working directory is a project with folders called as rollcast's packages are."""
    project = make_project(tmp_path / "project")
    shutil.copy(REPOSITORY / "configs" / "quickstart.yaml", project)
    rewards = "rewards.functions=[judge.py:judge, tag_count]"
    settings = [*SMALL, rewards, "learner.max_steps=2", "data.eval_samples=0", f"out_dir={tmp_path / 'job'}"]
    address = f"http://127.0.0.1:{head.dashboard_port}"
    command = [
        RAY, "job", "submit", "--address", address, "--working-dir", ".", "--",
        "python", FRONT_DOOR, "train", "quickstart.yaml", *settings,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=project, env=head.environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert json.loads((tmp_path / "job" / "summary.json").read_text())["exit_reason"] == "finished"
    assert not (tmp_path / "job" / "logs" / "ray").exists(), "the cluster's own logs are the cluster's"


@pytest.mark.slow
def test_a_job_that_is_stopped_ends_with_a_whole_checkpoint(head: Head, tmp_path: Path) -> None:
    run, name = tmp_path / "stopped", "to-be-stopped"
    rewards = f"rewards.functions=[{REPOSITORY}/examples/digit_share.py:digit_share, tag_count]"
    settings = [*SMALL, rewards, "learner.max_steps=1000", "data.eval_samples=0", f"out_dir={run}"]

    def job(command: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [RAY, "job", command, "--address", f"http://127.0.0.1:{head.dashboard_port}", *words]
        return subprocess.run(line, cwd=tmp_path, env=head.environment, capture_output=True, text=True, timeout=200, check=False)

    waits = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}})  # as in README.md
    options = ("--no-wait", "--submission-id", name, "--runtime-env-json", waits)
    submitted = job("submit", *options, "--", "python", FRONT_DOOR, "train", f"{REPOSITORY}/configs/quickstart.yaml", *settings)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    deadline = time.monotonic() + 300
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline, job("logs", name).stdout[-4000:]
        time.sleep(0.2)
    stop = job("stop", name)
    assert stop.returncode == 0, stop.stdout + stop.stderr
    summary = json.loads((run / "summary.json").read_text())
    found = checkpoint.newest(run / "checkpoints", print)
    assert summary["exit_reason"] == "stopped by SIGTERM"
    assert found is not None and found.step == summary["steps"] >= 1


@pytest.mark.slow
def test_joining_by_address_leaves_the_cluster_as_it_was(head: Head, tmp_path: Path) -> None:
    settings = [*SMALL, "learner.max_steps=2", "data.eval_samples=0", f"out_dir={tmp_path / 'joined'}"]
    command = [sys.executable, "-m", "cluster", "train", "configs/quickstart.yaml", "--address", f"127.0.0.1:{head.gcs_port}", *settings]
    done = subprocess.run(command, cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert json.loads((tmp_path / "joined" / "summary.json").read_text())["steps"] == 2
    assert head.process.poll() is None
    too_much = subprocess.run(
        [*command, "actors.num_workers=9"], cwd=REPOSITORY, env=head.environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert too_much.returncode == 2
    assert "the run asks for 10 CPU cores" in too_much.stderr
