"""Kill any one process of a run with SIGKILL: the run goes on (or resumes), nothing is lost or trained twice, nothing is left behind."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.output import checkpoint
from tests.runs.training import SMALL, Training, training

STEPS = 30
FAULTY = (*SMALL, f"learner.max_steps={STEPS}", "cluster.save_steps=5", "data.eval_samples=0")


@dataclass
class Struck:
    """A run in which one process of each kind was killed, one after another."""

    run: Training
    alive: list[psutil.Process]
    """Processes that outlived the run."""


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Struck:
    with training(tmp_path_factory.mktemp("faults") / "run", *FAULTY, f"model.path={tiny_model}") as run:
        for step, name in ((2, "ray::RewardWorker"), (4, "EngineCore"), (8, "ray::RolloutWorker"), (12, "ray::LearnerWorker")):
            run.wait_for_step(step)
            run.wait_for(name).kill()
        replaced = "making the learner group again"
        deadline = time.monotonic() + 60
        while replaced not in run.output() and time.monotonic() < deadline:
            time.sleep(0.05)
        everything = psutil.Process(run.process.pid).children(recursive=True)
        assert run.finish() == 0, run.output()
    return Struck(run, psutil.wait_procs(everything, timeout=10)[1])


@pytest.mark.slow
def test_every_step_is_trained_once_and_nothing_is_left_behind(struck: Struck) -> None:
    summary = struck.run.summary()
    accounting = summary["accounting"]
    assert (summary["exit_reason"], summary["steps"]) == ("finished", STEPS)
    assert (accounting["drawn"], accounting["trained"], accounting["dropped"]) == (4 * STEPS, 4 * STEPS, 0)
    assert not struck.alive, struck.alive


@pytest.mark.slow
def test_rollout_actor_engine_and_reward_worker_are_replaced(struck: Struck) -> None:
    summary = struck.run.summary()
    assert summary["rollout_workers_replaced"] == 2
    assert summary["rewards"]["workers_restarted"] == 1


@pytest.mark.slow
def test_a_lost_learner_is_made_again_from_the_last_checkpoint(struck: Struck) -> None:
    output = struck.run.output()
    assert "learner rank 0" in output
    assert "making the learner group again (1 of 2)" in output
    assert [step["step"] for step in struck.run.metrics()] == list(range(1, STEPS + 1))


def listeners(process: psutil.Process) -> set[str]:
    """Find the addresses on which a process and all below it accept connections, with the name of the process."""
    found = set()
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            found |= {
                f"{each.name()} at {socket.laddr.ip}" for socket in each.net_connections("inet") if socket.status == psutil.CONN_LISTEN
            }
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_writes_a_checkpoint_and_leaves_nothing_behind(
    tmp_path: Path, tiny_model: Path, number: signal.Signals, code: int
) -> None:
    """A terminal sends SIGINT and SIGHUP to the whole process group. Until then, nothing of the run listened beyond this machine."""
    with training(tmp_path / "run", *FAULTY, "cluster.save_steps=0", f"model.path={tiny_model}") as run:
        run.wait_for_step(3)
        heard, (folder,) = listeners(psutil.Process(run.process.pid)), run.ray_folders()
        everything = psutil.Process(run.process.pid).children(recursive=True)
        group = os.getpgid(run.process.pid)
        for process in (psutil.Process(run.process.pid), *([] if number == signal.SIGTERM else everything)):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getpgid(process.pid) == group:
                    process.send_signal(number)
        assert run.finish(60) == code, run.output()
    assert heard and not {each for each in heard if not each.endswith((" at ::1", "127.0.0.1"))}, heard
    summary = run.summary()
    assert summary["exit_reason"] == f"stopped by {number.name}"
    assert (run.out_dir / "checkpoints" / f"step-{summary['steps']:06d}" / "manifest.json").exists()
    accounting = summary["accounting"]
    assert accounting["drawn"] == accounting["trained"] + accounting["ready"] + accounting["in_flight"]
    _, alive = psutil.wait_procs(everything, timeout=10)
    assert not alive, alive
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_the_death_of_ray_itself_ends_the_run_with_a_whole_checkpoint(tmp_path: Path, tiny_model: Path, name: str) -> None:
    with training(tmp_path / "run", *FAULTY, f"model.path={tiny_model}") as run:
        run.wait_for_step(7)
        everything, (folder,) = psutil.Process(run.process.pid).children(recursive=True), run.ray_folders()
        next(each for each in everything if each.name() == name).kill()
        assert run.finish(60) == 1, run.output()
    assert f"RayLostError: Ray's {name} died" in run.output()
    summary = run.summary()
    assert summary["exit_reason"].startswith(f"failed: RayLostError: Ray's {name} died")
    last = checkpoint.read(run.out_dir / "checkpoints" / summary["last_checkpoint"])
    assert last.step == 5 <= summary["steps"]
    accounting = summary["accounting"]
    assert accounting["drawn"] >= accounting["trained"]
    assert summary["steps"] - accounting["trained"] / 4 in (0, 1), "the step that was under way counts as taken, its groups not as trained"
    _, alive = psutil.wait_procs(everything, timeout=20)
    assert not alive, alive
    assert not folder.exists()
