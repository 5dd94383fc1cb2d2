"""Packages that clash or have another version, told from metadata of packages that are not really installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster import installation
from cluster.installation import clashing_wheels, has_cpu_torch, wrong_versions
from tests import REPOSITORY


def install(folder: Path, name: str, version: str) -> None:
    """Leave the metadata of a package, and nothing else."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_cuda_builds_beside_a_cpu_torch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "torch", "2.13.0+cpu")
    assert clashing_wheels() == []
    install(tmp_path, "torchvision", "0.28.0")
    install(tmp_path, "torchaudio", "2.13.0+cpu")
    install(tmp_path, "triton", "3.8.0")
    assert clashing_wheels() == ["torchvision 0.28.0", "triton 3.8.0"]


def test_beside_a_cuda_torch_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, "torch", "2.13.0")
    install(tmp_path, "triton", "3.8.0")
    assert not has_cpu_torch() and clashing_wheels() == []


def test_the_first_command_says_in_two_lines_what_to_remove(tmp_path: Path) -> None:
    install(tmp_path, "torch", "2.13.0+cpu")
    install(tmp_path, "torchvision", "0.28.0")

    def rollcast(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(REPOSITORY / "rollcast.py"), *arguments]
        return subprocess.run(command, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=False)

    refused = rollcast("train", "configs/quickstart.yaml")
    assert refused.returncode == 1 and len(refused.stderr.strip().splitlines()) == 2, refused.stderr
    assert "torchvision 0.28.0 beside torch 2.13.0+cpu" in refused.stderr
    assert refused.stderr.endswith("Remove them: pip uninstall -y torchvision\n")
    assert rollcast("--version").stdout == "rollcast 0.1.0\n"


def test_versions_are_compared_with_the_pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = ["peft==0.21.2", "ray[default]==2.60.0", "nowhere>=1", 'vllm==0.32.0; extra == "gpu"', 'wandb>=9; extra == "wandb"']
    monkeypatch.setattr(installation, "requires", lambda _package: pins)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, version in (("peft", "0.1"), ("ray", "2.60.0"), ("vllm", "0.33.0")):
        install(tmp_path, name, version)
    assert list(wrong_versions()) == ["peft 0.1 (needed: ==0.21.2)", "nowhere is missing", "vllm 0.33.0 (needed: ==0.32.0)"]
