"""Checks of a run that was struck by faults."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyarrow.parquet as pq


def require_balanced(out_dir: Path) -> dict[str, object]:
    """Check that no prompt was lost and none was trained twice; returns the figures. The run must have logged every group.

    Raises:
        AssertionError: something was.
    """
    ledger = json.loads((out_dir / "summary.json").read_text())["accounting"]
    parts = ("trained", "filtered", "dropped", "ready", "in_flight")
    assert ledger["drawn"] == sum(ledger[part] for part in parts), ledger
    steps = [json.loads(line)["step"] for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1)), "steps are missing, or there twice"
    trained = Counter[str]()
    for file in (out_dir / "completions").glob("step-*.parquet"):
        rows = pq.read_table(file, columns=["prompt_id"]).to_pylist()
        trained.update({row["prompt_id"] for row in rows})
    twice = [prompt for prompt, times in trained.items() if times > 1]
    assert not twice, f"trained twice: {twice[:5]}"
    return {"steps": len(steps), "prompts": len(trained), "accounting": ledger}


SHARED_MEMORY = Path("/dev/shm")


def listening() -> dict[int, int | None]:
    """TCP ports on which this machine accepts connections, each with the process that holds it."""
    found = psutil.net_connections("tcp")
    return {socket.laddr.port: socket.pid for socket in found if socket.status == psutil.CONN_LISTEN and socket.laddr}


def shared_files() -> set[Path]:
    """Everything in the shared memory of this machine."""
    return set(SHARED_MEMORY.rglob("*"))


@dataclass
class Traces:
    """What a run leaves outside its directory: processes, listening TCP ports, files in shared memory. Make it before the run."""

    processes: set[psutil.Process] = field(default_factory=set)
    """Every process that the run had at a look, so that none can outlive it unseen."""
    ports: set[int] = field(default_factory=set)
    """Ports that they opened."""
    _ports_before: Collection[int] = field(default_factory=listening)
    _files_before: Collection[Path] = field(default_factory=shared_files)

    def look(self, driver: psutil.Process) -> None:
        """Note what the run has at this moment."""
        with suppress(psutil.NoSuchProcess):
            self.processes |= {driver, *driver.children(recursive=True)}
        pids = {process.pid for process in self.processes if process.is_running()}
        self.ports |= {port for port, pid in listening().items() if pid in pids and port not in self._ports_before}

    def require_none(self, within_s: float) -> None:
        """Check that all of it has gone, or goes soon. Other work on this machine must not leave files in shared memory meanwhile.

        Raises:
            AssertionError: something is left.
        """
        alive = psutil.wait_procs(self.processes, timeout=within_s)[1]
        assert not alive, f"processes are left: {alive}"
        deadline = time.monotonic() + within_s
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not left, f"left behind: {left}"

    def _left(self) -> list[str]:
        ports = [f"port {port}, held by process {pid}" for port, pid in listening().items() if port in self.ports]
        return ports + [str(file) for file in sorted(shared_files().difference(self._files_before))]
