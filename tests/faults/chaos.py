"""Random faults on one run until the time is up: `make chaos MINUTES=10 SEED=0`. Not part of `make test`.

Two rollout workers, two reward workers and two learner ranks train a tiny model without end. Every few seconds one of `FAULTS` strikes. When
the time is up the run is stopped by SIGTERM, and `require_whole` checks what it leaves: its ledger, and no process, listening port or file in
/dev/shm, so nothing else on the machine may leave files there meanwhile. The seed decides the order of the faults and the
pauses between them; the processes that they meet differ from machine to machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import REPOSITORY
from tests.faults.whole import Traces, require_balanced
from tests.runs.training import SMALL, Training

SETTINGS = (
    *SMALL,
    "learner.max_steps=1000000",
    "learner.process_group_timeout_s=15",
    "data.eval_samples=0",
    "actors.num_workers=2",
    "actors.max_restarts=1000",
    "rewards.num_workers=2",
    "rewards.max_restarts=1000",
    "learner.ranks=2",
    "cluster.max_learner_restarts=1000",
    "cluster.save_steps=5",
    "cluster.save_total_limit=3",
    "cluster.logged_groups_per_step=4",
)
PAUSE_S = (5.0, 25.0)
"""Shortest and longest time between two faults."""
FIRST_STEP_S = 300.0
STOP_S = 240.0
GONE_WITHIN_S = 30.0


@dataclass
class Chaos:
    """A run under attack, started again whenever its driver dies."""

    out_dir: Path
    chance: random.Random
    run: Training | None = None
    faults: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    traces: Traces = field(default_factory=Traces)

    def start(self) -> None:
        self.starts += 1
        output = self.out_dir.parent / f"start-{self.starts}.out"
        command = [sys.executable, "-m", "cluster", "train", "configs/quickstart.yaml", *SETTINGS, f"out_dir={self.out_dir}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with output.open("w") as log:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, text=True, env=environment)
        self.run = Training(process, self.out_dir, output)
        before = self.run.steps_done()
        deadline = time.monotonic() + FIRST_STEP_S
        while self.run.steps_done() <= before:
            assert process.poll() is None, f"start {self.starts} ended: {self.run.output()[-3000:]}"
            assert time.monotonic() < deadline, f"start {self.starts} made no step: {self.run.output()[-3000:]}"
            time.sleep(0.2)
        self.look()

    @property
    def running(self) -> Training:
        assert self.run is not None
        return self.run

    def look(self) -> None:
        with suppress(psutil.NoSuchProcess):
            self.traces.look(psutil.Process(self.running.process.pid))

    def strike(self) -> None:
        name = self.chance.choice(sorted(FAULTS))
        self.look()
        if FAULTS[name](self):
            self.faults[name] += 1
        process = self.running.process
        if process.poll() is not None:
            assert "driver" in name, f"{name} ended the run: {self.running.output()[-3000:]}"
            self.start()

    def victim(self, name: str) -> psutil.Process | None:
        found = self.running.descendants(name)
        return self.chance.choice(found) if found else None

    def stop(self) -> None:
        process = self.running.process
        self.look()
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 143, self.running.output()[-3000:]


def to_one(name: str, act: Callable[[psutil.Process], None]) -> Callable[[Chaos], bool]:
    """Kill one process of the run whose command line holds `name`, or stop it for ever; does nothing where there is none."""

    def strike(chaos: Chaos) -> bool:
        victim = chaos.victim(name)
        if victim is None:
            return False
        with suppress(psutil.NoSuchProcess):
            act(victim)
        return True

    return strike


def kill_driver(chaos: Chaos) -> bool:
    chaos.running.process.kill()
    chaos.running.process.wait()
    return True


def end_driver(chaos: Chaos) -> bool:
    chaos.stop()
    return True


def tear_metrics(chaos: Chaos) -> bool:
    """Kill the driver, and leave half a line at the end of its metrics."""
    kill_driver(chaos)
    with (chaos.out_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "ti')
    return True


FAULTS: dict[str, Callable[[Chaos], bool]] = {
    "SIGKILL of a rollout worker": to_one("ray::RolloutWorker", psutil.Process.kill),
    "SIGKILL of an engine": to_one("EngineCore", psutil.Process.kill),
    "SIGSTOP of an engine": to_one("EngineCore", psutil.Process.suspend),
    "SIGKILL of a reward worker": to_one("ray::RewardWorker", psutil.Process.kill),
    "SIGKILL of a warden": to_one("rewards.grading.warden", psutil.Process.kill),
    "SIGKILL of a learner rank": to_one("ray::LearnerWorker", psutil.Process.kill),
    "SIGSTOP of a learner rank": to_one("ray::LearnerWorker", psutil.Process.suspend),
    "SIGKILL of the driver": kill_driver,
    "SIGTERM of the driver": end_driver,
    "SIGKILL of the driver, torn metrics": tear_metrics,
}


def require_whole(chaos: Chaos) -> dict[str, object]:
    """Check that nothing was lost, trained twice or left behind; returns the figures.

    Raises:
        AssertionError: something was.
    """
    figures = require_balanced(chaos.out_dir)
    chaos.traces.require_none(GONE_WITHIN_S)
    return figures | {"starts": chaos.starts, "faults": sum(chaos.faults.values()), "ports": len(chaos.traces.ports)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Random faults on one run.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollcast-chaos-") as folder:
        chaos = Chaos(Path(folder) / "run", random.Random(asked.seed))
        end = time.monotonic() + 60 * asked.minutes
        try:
            chaos.start()
            while time.monotonic() < end:
                time.sleep(chaos.chance.uniform(*PAUSE_S))
                chaos.strike()
                print(f"{sum(chaos.faults.values())} faults, {chaos.starts} starts, step {chaos.running.steps_done()}", flush=True)
            chaos.stop()
            figures = require_whole(chaos)
        finally:
            for process in chaos.traces.processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            if chaos.run is not None and chaos.run.process.poll() is None:
                chaos.run.process.kill()
    for name, times in sorted(chaos.faults.items()):
        print(f"{times:4d} x {name}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
