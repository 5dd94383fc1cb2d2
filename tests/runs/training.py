"""Start `rollcast train` or `rollcast sft` as a user does, watch it, and look at what it leaves."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from tests import REPOSITORY

SMALL = (
    "learner.warm_start=null", "learner.train_batch_size=16", "actors.num_generations=4", "actors.max_completion_length=24",
    "actors.max_num_seqs=32", "data.eval_samples=4", "learner.max_steps=6", "cluster.object_store_memory_bytes=83886080",
    "rewards.functions=[examples/digit_share.py:digit_share, tag_count]",
)  # fmt: skip
"""The quickstart on an untrained model with 4 prompts x 4 completions a step: everything except that it learns."""


TRAIN = ("train", "configs/quickstart.yaml")
SFT = ("sft", "configs/quickstart_sft.yaml")


@dataclass
class Training:
    """A running `rollcast train` or `rollcast sft`."""

    process: subprocess.Popen[str]
    out_dir: Path
    output_file: Path

    def stage(self, name: str) -> Training:
        """View the run in the folder of one of its stages."""
        return replace(self, out_dir=self.out_dir / name)

    def steps_done(self) -> int:
        """Count the steps logged so far. Lines of evaluations beside training have no step time, and do not count."""
        try:
            return (self.out_dir / "metrics.jsonl").read_text().count('"time": ')
        except OSError:
            return 0

    def wait_for_step(self, step: int, timeout_s: float = 240.0) -> None:
        """Return as soon as `step` steps are logged. Fail when the process ends before that, or when it takes too long."""
        deadline = time.monotonic() + timeout_s
        while self.steps_done() < step:
            assert self.process.poll() is None, f"ended before step {step}: {self.output()}"
            assert time.monotonic() < deadline, f"no step {step} after {timeout_s} s: {self.output()}"
            time.sleep(0.02)

    def descendants(self, name: str) -> list[psutil.Process]:
        """Find the processes of this run whose command line holds `name`, such as ray::RolloutWorker."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ray_folders(self) -> set[Path]:
        """Find the folder of the Ray that this run started, from the arguments of its processes."""
        told = " ".join(word for process in self.descendants("raylet") for word in process.cmdline())
        return {Path(folder) for folder in re.findall(r"/tmp/rollcast-\w+", told)}

    def wait_for(self, name: str, timeout_s: float = 60.0) -> psutil.Process:
        """Find the first such process."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.descendants(name)):
            assert time.monotonic() < deadline, f"no process {name}"
            time.sleep(0.05)
        return found[0]

    def finish(self, timeout_s: float = 300.0) -> int:
        """Wait for the end, and return the exit status."""
        return self.process.wait(timeout_s)

    def output(self) -> str:
        return self.output_file.read_text()

    def summary(self) -> dict[str, Any]:
        return json.loads((self.out_dir / "summary.json").read_text())

    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.out_dir / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def training(out_dir: Path, *overrides: str, options: tuple[str, ...] = (), command: tuple[str, str] = TRAIN) -> Iterator[Training]:
    """Run the quickstart's configuration with `overrides`. Processes that are left at the end are killed, and are an error."""
    arguments = [sys.executable, "-m", "cluster", *command, *overrides, f"out_dir={out_dir}", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    output_file = out_dir.parent / f"{out_dir.name}.out"
    with output_file.open("w") as output:
        process = subprocess.Popen(arguments, cwd=REPOSITORY, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment)
        run = Training(process, out_dir, output_file)
        try:
            yield run
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()


def run_to_end(out_dir: Path, *overrides: str, options: tuple[str, ...] = (), command: tuple[str, str] = TRAIN) -> Training:
    """Run to the end; the run must succeed."""
    with training(out_dir, *overrides, options=options, command=command) as run:
        assert run.finish() == 0, run.output()
    return run


def learnt(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the metrics that do not depend on time. They must be equal in equal runs.

    A broadcast is logged with the step in which it was confirmed, and that depends on time too.
    """
    timed = ("time", "step_time", "timing/", "rollout/", "learner/", "sync/", "window/")
    return [{name: value for name, value in step.items() if not name.startswith(timed)} for step in metrics]
