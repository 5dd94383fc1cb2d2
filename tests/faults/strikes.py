"""The faults that `make chaos` can cause, each with the exit codes with which it may end the run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults.attacked_run import END_S, AttackedRun
from tests.faults.whole import SHARED_MEMORY

FULL_S = (2.0, 12.0)
"""Shortest and longest time for which a full disk stays full."""


@dataclass(frozen=True)
class Fault:
    """A blow to the run."""

    strike: Callable[[AttackedRun], bool]
    """Strikes; false where there was nothing to strike."""
    ends: frozenset[int] = frozenset()
    """Exit codes with which the run may end after it; without any it must go on."""
    private_mounts: bool = False
    """Whether it fills file systems, which must then be the run's own."""


def _to_one(name: str, act: Callable[[psutil.Process], None]) -> Callable[[AttackedRun], bool]:
    """Strike one process of the run whose command line holds `name`."""

    def strike(attacked: AttackedRun) -> bool:
        victim = attacked.victim(name)
        if victim is None:
            return False
        with suppress(psutil.NoSuchProcess):
            act(victim)
        return True

    return strike


def _end_ray(name: str) -> Callable[[AttackedRun], bool]:
    """Kill a process without which Ray cannot go on, and wait for the end of the run."""

    def strike(attacked: AttackedRun) -> bool:
        if not _to_one(name, psutil.Process.kill)(attacked):
            return False
        attacked.running.process.wait(END_S)
        return True

    return strike


def _stop_by(with_signal: signal.Signals) -> Callable[[AttackedRun], bool]:
    def strike(attacked: AttackedRun) -> bool:
        attacked.stop(with_signal)
        return True

    return strike


def _kill_driver(attacked: AttackedRun) -> bool:
    attacked.running.process.kill()
    attacked.running.process.wait()
    return True


def _tear_metrics(attacked: AttackedRun) -> bool:
    _kill_driver(attacked)
    with (attacked.out_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "ti')
    return True


def _damage_newest_checkpoint(attacked: AttackedRun) -> bool:
    """Kill the driver, and spoil its newest checkpoint where an older one is there to go on from."""
    _kill_driver(attacked)
    manifests = sorted((attacked.out_dir / "checkpoints").glob("*/manifest.json"), key=lambda path: path.stat().st_mtime)
    if len(manifests) > 1:
        manifests[-1].write_text(attacked.chance.choice(["", "[]", "{}", '{"files": ', "\x00" * 64]))
    return True


def _fill(folder: Callable[[AttackedRun], Path]) -> Callable[[AttackedRun], bool]:
    """Leave no byte free in a file system for a while, or until the run has ended."""

    def strike(attacked: AttackedRun) -> bool:
        end = time.monotonic() + attacked.chance.uniform(*FULL_S)
        with _full(folder(attacked)):
            while time.monotonic() < end and attacked.exit_code is None:
                time.sleep(0.1)
        return True

    return strike


@contextmanager
def _full(folder: Path) -> Iterator[None]:
    filler = folder / "chaos-filler"
    descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY)
    try:
        for step_bytes in (1 << 20, 1 << 12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, step_bytes)
        yield
    finally:
        os.close(descriptor)
        filler.unlink()


FAULTS = {
    "SIGKILL of a rollout worker": Fault(_to_one("ray::RolloutWorker", psutil.Process.kill)),
    "SIGKILL of an engine": Fault(_to_one("EngineCore", psutil.Process.kill)),
    "SIGSTOP of an engine": Fault(_to_one("EngineCore", psutil.Process.suspend)),
    "SIGKILL of a reward worker": Fault(_to_one("ray::RewardWorker", psutil.Process.kill)),
    "SIGSTOP of a reward worker": Fault(_to_one("ray::RewardWorker", psutil.Process.suspend)),
    "SIGKILL of a warden": Fault(_to_one("rewards.grading.warden", psutil.Process.kill)),
    "SIGKILL of a learner rank": Fault(_to_one("ray::LearnerWorker", psutil.Process.kill)),
    "SIGSTOP of a learner rank": Fault(_to_one("ray::LearnerWorker", psutil.Process.suspend)),
    "SIGKILL of Ray's raylet": Fault(_end_ray("raylet/raylet"), frozenset({1})),
    "SIGKILL of Ray's GCS": Fault(_end_ray("gcs/gcs_server"), frozenset({1})),
    "SIGKILL of the driver": Fault(_kill_driver, frozenset({-9})),
    "SIGKILL of the driver, torn metrics": Fault(_tear_metrics, frozenset({-9})),
    "SIGKILL of the driver, damaged checkpoint": Fault(_damage_newest_checkpoint, frozenset({-9})),
    "SIGTERM of the driver": Fault(_stop_by(signal.SIGTERM), frozenset({143})),
    "SIGINT of the driver": Fault(_stop_by(signal.SIGINT), frozenset({130})),
    "SIGHUP of the driver": Fault(_stop_by(signal.SIGHUP), frozenset({129})),
    "full disk of the run": Fault(_fill(lambda attacked: attacked.out_dir), frozenset({1}), private_mounts=True),
    "full shared memory": Fault(_fill(lambda _: SHARED_MEMORY), frozenset({1}), private_mounts=True),
}
"""A full disk may end a run, when a checkpoint cannot be written or Ray cannot store an object; the error names the disk."""
