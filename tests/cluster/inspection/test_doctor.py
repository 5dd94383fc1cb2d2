"""`rollcast doctor`: each fault has its remedy, and a broken environment its exit code."""

from __future__ import annotations

import io
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from cluster.inspection import doctor
from cluster.inspection.doctor import Finding, show_findings


def shown(*findings: Finding) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=200)
    well = show_findings(list(findings), console)
    assert isinstance(console.file, io.StringIO)
    return well, console.file.getvalue()


def test_what_is_broken_is_listed_with_its_remedy() -> None:
    well, text = shown(Finding("disk", "works", "fine"), Finding("jail", "broken", "no bwrap [here]", "apt-get install bubblewrap"))
    assert not well
    assert "no bwrap [here]" in text and "apt-get install bubblewrap" in text and text.strip().endswith("broken: jail")
    assert shown(Finding("disk", "works", "fine"), Finding("GPU", "note", "none"))[0]


def test_too_little_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=64 << 20))
    found = doctor.shared_memory()
    assert (
        found.state == "broken"
        and "64 MiB free in /dev/shm; Ray's object store takes 256 MiB" in found.found
        and "--shm-size" in found.remedy
    )


def test_a_gpu_beside_a_cpu_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 580.65'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(doctor, "has_cpu_torch", lambda: True)
    assert doctor.gpu().state == "broken" and "NVIDIA H100" in doctor.gpu().found
    monkeypatch.setattr(doctor, "has_cpu_torch", lambda: False)
    assert doctor.gpu() == Finding("GPU", "works", "NVIDIA H100, 81559 MiB, 580.65")


def test_a_port_that_another_ray_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        monkeypatch.setattr(doctor, "RAY_PORTS", {held.getsockname()[1]: "Ray's head"})
        assert doctor.ports().state == "note"
    assert doctor.ports().state == "works"


def test_the_token_of_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert doctor.ray_token().state == "broken"
    token.write_text("secret")
    token.chmod(0o644)
    assert doctor.ray_token().remedy == f"`chmod 600 {token}`"
    token.chmod(0o600)
    assert doctor.ray_token().state == "works"
