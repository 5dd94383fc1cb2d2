"""A Ray cluster of several nodes on this machine, each in a network namespace of its own, so that a node can die or be cut off.

    switch (a namespace with a bridge)
      ├─ node 1 (head, 10.213.0.1): gcs, raylet, and the driver of the run
      ├─ node 2 (10.213.0.2): raylet, workers
      └─ node 3 ...                                  cut off: its port of the bridge is down, and its processes run on

Namespaces need root and the commands `ip` and `nsenter`.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import REPOSITORY

SUBNET = "10.213.0"
GCS_PORT = 6379
STARTED_WITHIN_S = 90.0


def may_make_namespaces() -> bool:
    """Try to make a network namespace with what a node and its switch need."""
    name = f"rc{secrets.token_hex(3)}"
    if shutil.which("ip") is None or not _works("netns", "add", name):
        return False
    try:
        return _works("-n", name, "link", "add", "name", "bridge0", "type", "bridge") and _works(
            "-n", name, "link", "add", "name", "eth0", "type", "veth", "peer", "name", "port1"
        )
    finally:
        _ip("netns", "del", name)


@dataclass
class Node:
    """One node: the processes of one namespace."""

    number: int
    namespace: str
    switch: str

    @property
    def address(self) -> str:
        return f"{SUBNET}.{self.number}"

    def open(self) -> None:
        """Make the namespace, and plug it into the switch."""
        port = f"port{self.number}"
        _ip("netns", "add", self.namespace)
        _ip("link", "add", "name", "eth0", "netns", self.namespace, "type", "veth", "peer", "name", port, "netns", self.switch)
        _ip("-n", self.switch, "link", "set", port, "master", "bridge0", "up")
        _ip("-n", self.namespace, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", self.namespace, "link", "set", device, "up")
        _ip("-n", self.namespace, "route", "add", "default", "via", f"{SUBNET}.254")  # vLLM and Ray ask for the way to the world

    def cut_off(self) -> None:
        """Let nothing through between this node and the others. Its processes run on."""
        _ip("-n", self.switch, "link", "set", f"port{self.number}", "down")

    def connect(self) -> None:
        """Undo `cut_off`."""
        _ip("-n", self.switch, "link", "set", f"port{self.number}", "up")

    def processes(self, name: str = "") -> list[psutil.Process]:
        """Find the processes of this node whose command line holds `name`, such as ray::RolloutWorker."""
        found = []
        for pid in _ip("netns", "pids", self.namespace).split():
            with suppress(psutil.Error):
                process = psutil.Process(int(pid))
                if name in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def die(self) -> None:
        """End every process with SIGKILL, as a power cut does."""
        while alive := self.processes():
            for process in alive:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, timeout=0.2)

    def remove(self) -> None:
        """End the node, and remove its namespace."""
        self.die()
        _ip("netns", "del", self.namespace)


@dataclass
class Cluster:
    """A head without cores, and nodes that come and go."""

    folder: Path
    environment: dict[str, str]
    switch: str
    nodes: list[Node] = field(default_factory=list)
    """The head first. Dead ones stay."""
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def head(self) -> Node:
        return self.nodes[0]

    @property
    def address(self) -> str:
        return f"{self.head.address}:{GCS_PORT}"

    def add(self, cpus: int, *arguments: str) -> Node:
        """Start a node; returns at once."""
        node = Node(len(self.nodes) + 1, f"{self.switch}-{len(self.nodes) + 1}", self.switch)
        self.nodes.append(node)
        node.open()
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={cpus}", f"--node-ip-address={node.address}",
            f"--temp-dir={self.folder / str(node.number)}", "--object-store-memory=80000000", "--disable-usage-stats", *arguments,
        ]  # fmt: skip
        with (self.folder / f"{node.number}.out").open("wb") as output:
            self._started.append(subprocess.Popen(self.within(node, command), env=self.environment, stdout=output, stderr=output))
        return node

    def join(self, cpus: int) -> Node:
        """Start a node that joins the head; returns at once."""
        return self.add(cpus, f"--address={self.address}")

    def within(self, node: Node, command: Sequence[str]) -> list[str]:
        """The command, as a process of this node."""
        return ["ip", "netns", "exec", node.namespace, *command]

    def alive(self) -> set[str]:
        """Addresses of the nodes that are alive for the head."""
        code = "import ray; ray.init(address='auto', log_to_driver=False, logging_level='ERROR')\n"
        code += "print(*[node['NodeManagerAddress'] for node in ray.nodes() if node['Alive']])"
        environment = self.environment | {"RAY_ADDRESS": self.address}
        command = self.within(self.head, [sys.executable, "-c", code])
        return set(subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout.split())

    def wait_for(self, nodes: Sequence[Node]) -> None:
        """Return when these nodes are alive."""
        deadline = time.monotonic() + STARTED_WITHIN_S
        while not {node.address for node in nodes} <= self.alive():
            assert time.monotonic() < deadline, "\n".join(file.read_text()[-1500:] for file in sorted(self.folder.glob("*.out")))
            time.sleep(0.5)

    def close(self) -> None:
        """End all nodes, and remove what they leave."""
        for node in reversed(self.nodes):
            node.remove()
        for process in self._started:
            process.wait()
        _ip("netns", "del", self.switch)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def cluster(num_nodes: int, cpus: int, **variables: str) -> Iterator[Cluster]:
    """Start a head and `num_nodes` nodes with `cpus` logical cores each. `variables` are Ray's settings for all of them."""
    folder = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # a short path, because sockets lie in it
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "PYTHONPATH": str(REPOSITORY),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "GLOO_SOCKET_IFNAME": "eth0",
        **variables,
    }
    made = Cluster(folder, environment, f"rc{secrets.token_hex(3)}")
    _ip("netns", "add", made.switch)
    try:
        _ip("-n", made.switch, "link", "add", "name", "bridge0", "type", "bridge")
        _ip("-n", made.switch, "link", "set", "bridge0", "up")
        head = made.add(0, "--head", f"--port={GCS_PORT}", "--include-dashboard=false")
        made.wait_for([head])
        made.wait_for([made.join(cpus) for _ in range(num_nodes)])
        yield made
    finally:
        made.close()


def _works(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
