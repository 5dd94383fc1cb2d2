"""Random faults on one run until the time is up: `make chaos MINUTES=10 SEED=0`. Not part of `make test`.

Two rollout workers, two reward workers and two learner ranks train a tiny model without end, with a reward that misbehaves. Every few seconds
one of `FAULTS` strikes. When the time is up the run is stopped by SIGTERM, its ledger must balance, and no process, listening port or file in
/dev/shm may be left. The seed decides the order of the faults and the pauses between them; the processes that they meet differ from machine
to machine.

As root, the run has file systems of its own for its directory and for /dev/shm, so that they can be filled. For other users these two faults
are left out, and nothing else on the machine may leave files in /dev/shm meanwhile.
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
from pathlib import Path

from tests.faults.attacked_run import AttackedRun
from tests.faults.strikes import FAULTS
from tests.faults.whole import SHARED_MEMORY, require_balanced

PAUSE_S = (5.0, 25.0)
"""Shortest and longest time between two faults."""

GONE_WITHIN_S = 30.0
"""Longest time after the end in which everything must be gone."""

MOUNTED = "--mounts-are-private"
DISK_BYTES = 512 << 20
SHARED_MEMORY_BYTES = 1 << 30


def attack(attacked: AttackedRun, minutes: float, names: list[str]) -> Counter[str]:
    """Strike the run until the time is up, then stop it; returns how often each fault struck."""
    struck = Counter[str]()
    end = time.monotonic() + 60 * minutes
    attacked.start()
    name, may_end = "nothing", frozenset[int]()
    while time.monotonic() < end:
        time.sleep(attacked.chance.uniform(*PAUSE_S))
        attacked.start_again_if_ended(may_end, name)  # the end may take a while
        name = attacked.chance.choice(names)
        may_end = FAULTS[name].ends
        attacked.look()
        struck[name] += FAULTS[name].strike(attacked)
        attacked.start_again_if_ended(may_end, name)
        print(f"{struck.total()} faults, {attacked.starts} starts, step {attacked.running.steps_done()}: {name}", flush=True)
    attacked.start_again_if_ended(may_end, name)
    attacked.stop()
    return struck


def in_private_mounts() -> int:
    """Run this command again where /dev/shm is its own; the mounts end with it."""
    command = [sys.executable, "-m", "tests.faults.chaos", *sys.argv[1:], MOUNTED]
    return subprocess.run(["unshare", "--mount", "--propagation", "private", *command], check=False).returncode


def mount(folder: Path, size_bytes: int) -> None:
    """Give this process and its children a small file system at `folder`."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=1777", "tmpfs", str(folder)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random faults on one run.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(MOUNTED, action="store_true", dest="mounted", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, a shell would have it ignored here and in the run
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if os.geteuid() == 0 and not asked.mounted:
        return in_private_mounts()
    names = sorted(name for name, fault in FAULTS.items() if asked.mounted or not fault.private_mounts)
    with tempfile.TemporaryDirectory(prefix="rollcast-chaos-") as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        if asked.mounted:
            mount(disk, DISK_BYTES)
            mount(SHARED_MEMORY, SHARED_MEMORY_BYTES)
        attacked = AttackedRun(disk / "run", Path(folder), random.Random(asked.seed))
        try:
            struck = attack(attacked, asked.minutes, names)
            figures = require_balanced(attacked.out_dir)
            attacked.traces.require_none(GONE_WITHIN_S)
        finally:
            attacked.kill_all()
            if asked.mounted:
                subprocess.run(["umount", "--lazy", str(disk)], check=False)
    for name, times in sorted(struck.items()):
        print(f"{times:4d} x {name}")
    print(json.dumps(figures | {"starts": attacked.starts, "faults": struck.total(), "ports": len(attacked.traces.ports)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
