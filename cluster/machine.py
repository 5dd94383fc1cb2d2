"""The cores and GPUs of this machine, and whether a run has room on it: asked before any model or data is read, and without torch or Ray."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

from cluster.placement import Node, place, roles
from configs.contracts.errors import PlacementError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

NVIDIA_SMI_TIMEOUT_S = 20.0
CROWD = 4
"""So many processes for each core are told at the start of a run; fewer share the cores of a laptop without harm."""


def runs_here(config: RunConfig | SftConfig) -> bool:
    """Tell whether the run starts a private Ray on this machine, and joins no cluster."""
    address = config.cluster.address
    return address == "local" or (address == "auto" and not os.environ.get("RAY_ADDRESS"))


def this_machine() -> Node:
    """The cores and the visible GPUs of this machine."""
    return Node(socket.gethostname(), float(os.cpu_count() or 1), float(_gpus()))


def require_room(config: RunConfig | SftConfig, here: Node, learner: bool = True) -> None:
    """Refuse a run that needs more GPUs than this machine has. Processes on the CPU share its cores, whatever their number.

    Args:
        learner: False leaves out the learner, to serve a model.

    Raises:
        PlacementError: names the role, what it asks for, and what there is. A run that joins a cluster is placed when it has joined.
    """
    if runs_here(config):
        node = Node(here.name, max(here.cpus, roles(config, learner).cpus), here.gpus)
        place(config, [node], learner, where=f"this machine ({_sizes(here)})")


def room(config: RunConfig | SftConfig, here: Node) -> tuple[str, bool]:
    """One sentence that compares what a run asks for with this machine, and whether there is enough; for a cluster, who compares."""
    need = roles(config)
    asked = " + ".join(
        f"{role.count:g} {role.name}" + "s" * (role.count != 1) + f" of {role.devices()}" for role in need.roles if role.count
    )
    if not runs_here(config):
        return f"the cluster at {config.cluster.address} is asked for {asked} when the run starts", True
    try:
        require_room(config, here)
    except PlacementError:
        return f"this machine: {_sizes(here)}: not enough for {asked}", False
    processes = sum(role.count for role in need.roles if not role.gpus)
    if processes > here.cpus:
        return f"this machine: {_sizes(here)}: {processes} processes on the CPU share {here.cpus:g} cores", processes < CROWD * here.cpus
    return f"this machine: {_sizes(here)}: enough for {asked}", True


def _sizes(node: Node) -> str:
    return f"{node.cpus:g} CPU{'s' * (node.cpus != 1)}, {node.gpus:g} GPU{'s' * (node.gpus != 1)}"


def _gpus() -> int:
    """The GPUs that nvidia-smi lists, or else those with a device file, and that CUDA_VISIBLE_DEVICES leaves visible."""
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=NVIDIA_SMI_TIMEOUT_S, check=True).stdout
        there = sum(line.startswith("GPU ") for line in listed.splitlines())
    except (OSError, subprocess.SubprocessError):  # a slim container has the devices without the program
        there = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    return min(there, len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"]))
