"""One run under attack, started again whenever its driver has ended."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import REPOSITORY
from tests.faults.whole import Traces
from tests.runs.training import SMALL, Training

HOSTILE_REWARD = REPOSITORY / "tests" / "faults" / "hostile_reward.py"

SETTINGS = (
    *SMALL,
    "learner.max_steps=1000000",
    "learner.process_group_timeout_s=15",
    "data.eval_samples=0",
    "actors.num_workers=2",
    "actors.max_restarts=1000",
    "actors.progress_timeout_s=20",
    f"rewards.functions=[examples/digit_share.py:digit_share, tag_count, {{name: '{HOSTILE_REWARD}:hostile', weight: 0.01}}]",
    "rewards.num_workers=2",
    "rewards.max_restarts=1000",
    "rewards.timeout_s=3",
    "learner.ranks=2",
    "cluster.max_learner_restarts=1000",
    "cluster.save_steps=5",
    "cluster.save_total_limit=3",
    "cluster.logged_groups_per_step=4",
)
FIRST_STEP_S = 300.0
END_S = 240.0
"""Longest wait for a run that was asked to end."""


@dataclass
class AttackedRun:
    """The run, what it started, and how it may end."""

    out_dir: Path
    logs: Path
    """Folder for what each start prints."""
    chance: random.Random
    run: Training | None = None
    starts: int = 0
    traces: Traces = field(default_factory=Traces)
    """What the run had outside its directory."""

    @property
    def running(self) -> Training:
        assert self.run is not None
        return self.run

    @property
    def exit_code(self) -> int | None:
        return self.running.process.poll()

    def start(self) -> None:
        """Start the run, or go on with it, and return at its first new step."""
        self.starts += 1
        output = self.logs / f"start-{self.starts}.out"
        command = [sys.executable, "-m", "cluster", "train", "configs/quickstart.yaml", *SETTINGS, f"out_dir={self.out_dir}"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with output.open("w") as log:
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, text=True, env=environment)
        self.run = Training(process, self.out_dir, output)
        before = self.run.steps_done()
        deadline = time.monotonic() + FIRST_STEP_S
        while self.run.steps_done() <= before:
            assert process.poll() is None, f"start {self.starts} ended: {self.printed()}"
            assert time.monotonic() < deadline, f"start {self.starts} made no step: {self.printed()}"
            time.sleep(0.2)
        self.look()

    def start_again_if_ended(self, allowed: Set[int], fault: str) -> None:
        """Start an ended run again; `allowed` are the exit codes with which `fault` may end it."""
        if self.exit_code is not None:
            assert self.exit_code in allowed, f"{fault} ended the run with {self.exit_code}: {self.printed()}"
            self.start()

    def look(self) -> None:
        """Note what the run has now."""
        with suppress(psutil.NoSuchProcess):
            self.traces.look(psutil.Process(self.running.process.pid))

    def victim(self, name: str) -> psutil.Process | None:
        """Choose a process of the run whose command line holds `name`."""
        found = self.running.descendants(name)
        return self.chance.choice(found) if found else None

    def stop(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        """Ask the run to end, and wait for its end."""
        self.look()
        self.running.process.send_signal(with_signal)
        assert self.running.process.wait(END_S) == 128 + with_signal, self.printed()

    def kill_all(self) -> None:
        """End everything that is left of it."""
        for process in self.traces.processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.run is not None and self.exit_code is None:
            self.running.process.kill()

    def printed(self) -> str:
        """Read the end of what the last start printed."""
        return self.running.output()[-3000:]
