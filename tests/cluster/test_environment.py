"""Test the installer with real interpreters and a real pip that reaches no index. `make` does a whole installation before any test."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster import environment
from cluster.environment import Installation, InstallError, Stamp, ensure, failure, find_python, fingerprint, venv_python

SCRIPT = Path(environment.__file__)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a folder with the files that the installer reads, and no environment."""
    (tmp_path / "cluster").mkdir()
    shutil.copy(SCRIPT, tmp_path / "cluster" / "environment.py")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'nothing'\nversion = '1'\n")
    (tmp_path / "constraints.txt").write_text("")
    return tmp_path


@pytest.fixture
def finished(project: Path) -> Path:
    """Make a project whose environment (empty, without pip) counts as finished for the CPU."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    Stamp(project / ".venv").write("cpu", fingerprint(project, "cpu", True))
    return project


def install(project: Path) -> subprocess.CompletedProcess[str]:
    """Run the script as `make` does; pip has no index and no configuration."""
    offline = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    offline.update(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1")
    command = [sys.executable, "-I", project / "cluster" / "environment.py", "--extra", "cpu", "--dev"]
    return subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120, check=False)


def test_an_unfinished_environment_is_made_anew_and_a_failure_says_what_to_do(finished: Path) -> None:
    Stamp(finished / ".venv").write("cpu")  # as at the start of every installation
    (finished / ".venv" / "half-made").touch()
    run = install(finished)
    assert run.returncode == 1
    assert "is unfinished" in run.stdout
    assert not (finished / ".venv" / "half-made").exists()
    assert "[1/6] Make .venv" in run.stdout
    assert "No matching distribution found for torch==2.13.0+cpu" in run.stderr
    assert "Your package index has no such version" in run.stderr
    assert Stamp(finished / ".venv").read() == {"extra": "cpu"}, "a failed installation must not count as finished"


def test_a_finished_environment_survives_an_update_that_fails(finished: Path) -> None:
    (finished / "constraints.txt").write_text("# changed")
    run = install(finished)
    assert run.returncode == 1
    assert "[1/6] Update .venv" in run.stdout
    assert "No module named pip" in run.stderr
    assert Stamp(finished / ".venv").read()["fingerprint"] != fingerprint(finished, "cpu", True)
    assert "[1/6] Update .venv" in install(finished).stdout


def test_an_environment_that_is_up_to_date_costs_less_than_a_second(finished: Path) -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        run = install(finished)
        seconds.append(time.monotonic() - started)
        assert (run.returncode, run.stdout) == (0, "")
    # 0.06 s on an idle machine, nearly all of it the start of Python; the best of three, because the machine may be busy.
    assert min(seconds) < 1.0


@pytest.mark.parametrize("change", ["pyproject.toml", "constraints.txt", "extra", "dev", "interpreter", "place"])
def test_whatever_decides_the_contents_makes_it_out_of_date(finished: Path, tmp_path: Path, change: str) -> None:
    before = fingerprint(finished, "cpu", True)
    root, extra, dev = finished, "cpu", True
    match change:
        case "extra":
            extra = "gpu"
        case "dev":
            dev = False
        case "interpreter":
            settings = finished / ".venv" / "pyvenv.cfg"
            settings.write_text(settings.read_text().replace("version = 3.", "version = 4."))
        case "place":
            root = finished.rename(tmp_path.parent / f"{tmp_path.name}-moved")
        case file:
            with (finished / file).open("a") as stream:
                stream.write("# changed\n")
    assert fingerprint(root, extra, dev) != before


def test_an_environment_whose_interpreter_is_gone_is_out_of_date(finished: Path) -> None:
    (finished / ".venv" / "bin" / "python").unlink()
    assert venv_python(finished) == ""
    assert fingerprint(finished, "cpu", True) != Stamp(finished / ".venv").read()["fingerprint"]


def test_a_linked_environment_is_used_as_it_is(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "elsewhere").mkdir()
    (project / ".venv").symlink_to(tmp_path / "elsewhere")
    ensure(project, "cpu", dev=True)
    assert "using that environment unchanged" in capsys.readouterr().out
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_folder_that_is_no_environment_is_left_alone(project: Path) -> None:
    (project / ".venv").mkdir()
    (project / ".venv" / "letter.txt").write_text("dear")
    with pytest.raises(InstallError, match="is not a Python environment"):
        ensure(project, "cpu", dev=True)
    assert (project / ".venv" / "letter.txt").read_text() == "dear"


@pytest.fixture
def only_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a PATH that holds only a Python that is too old."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "_base_executable", interpreter(tmp_path / "python3.9", "3 9 18"))
    return tmp_path


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def interpreter(path: Path, version: str, complete: bool = True) -> str:
    """Make a program that answers the installer's two questions as a Python of that version would."""
    program(path, f'case "$2" in *version_info*) echo {version};; *) exit {0 if complete else 1};; esac')
    return str(path)


def test_an_old_python_finds_a_newer_one_that_is_complete(only_path: Path) -> None:
    interpreter(only_path / "python3.11", "3 11 9", complete=False)
    newer = interpreter(only_path / "python3.12", "3 12 1")
    assert find_python() == newer


def test_without_a_python_that_will_do_the_error_names_what_there_is(only_path: Path) -> None:
    with pytest.raises(InstallError, match=r"python3.9 \(3.9.18\); Python 3.11 to 3.14 with the venv module is needed") as raised:
        find_python()
    assert "python3.11-venv" in raised.value.remedy


@pytest.fixture
def bare(finished: Path, only_path: Path) -> Installation:
    """Install on a system whose PATH has `sh` and tools to copy files, but neither bubblewrap nor Debian's tools."""
    for tool in ("sh", "cp", "cat", "tar"):
        (only_path / tool).symlink_to(str(shutil.which(tool, path=os.defpath)))
    return Installation(finished, "cpu", dev=True)


def test_bubblewrap_that_cannot_be_had_is_a_line_and_no_failure(bare: Installation, capsys: pytest.CaptureFixture[str]) -> None:
    bare.provide_bubblewrap()
    printed = capsys.readouterr().out
    assert "[1/6] Unpack bubblewrap" in printed
    assert "will be refused until you install bubblewrap: `apt-get install bubblewrap` or `dnf install bubblewrap`" in printed
    assert not (bare.venv / "bin" / "bwrap").exists()


def test_bubblewrap_is_unpacked_into_the_environment(bare: Installation, only_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not shutil.which("dpkg-deb", path=os.defpath):
        pytest.skip("this system has no dpkg-deb")
    (only_path / "dpkg-deb").symlink_to(str(shutil.which("dpkg-deb", path=os.defpath)))
    package = only_path / "package"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN" / "control").write_text("Package: bubblewrap\nVersion: 1\nArchitecture: all\nMaintainer: me\nDescription: jail\n")
    (package / "usr" / "bin").mkdir(parents=True)
    program(package / "usr" / "bin" / "bwrap", "echo bubblewrap 1")
    deb = only_path / "made.deb"
    subprocess.run(["dpkg-deb", "-b", package, deb], check=True, env=os.environ | {"PATH": os.defpath}, stdout=subprocess.DEVNULL)
    program(only_path / "apt-get", f"cat {deb} > bubblewrap_1_all.deb")  # stands for the network

    bare.provide_bubblewrap()
    own = bare.venv / "bin" / "bwrap"
    assert subprocess.run([own, "--version"], capture_output=True, check=True).stdout == b"bubblewrap 1\n"
    assert "refused" not in capsys.readouterr().out
    bare.provide_bubblewrap()
    assert f"Find bubblewrap ({own})" in capsys.readouterr().out


def test_the_long_silent_stage_of_pip_is_counted() -> None:
    collecting = "Collecting ray\nWARNING: slow index\n"
    assert environment.progress("", 0) == ""
    assert environment.progress(collecting, 0) == "Collecting ray"
    silent = f"{collecting}Installing collected packages: ray, torch, vllm\n  Attempting uninstall: setuptools"
    assert environment.progress(silent, 2) == "2 of 3 packages installed"


@pytest.mark.parametrize(
    ("status", "text", "remedy"),
    [
        (1, "OSError: [Errno 28] No space left on device", "disk"),
        (1, "NameResolutionError: ...\nERROR: No matching distribution found for torch", "network"),
        (1, "ERROR: No matching distribution found for torch", "no such version"),
        (-9, "Installing", "memory"),
        (1, "something else", "install.log"),
    ],
)
def test_a_failure_has_a_remedy_and_the_end_of_the_log(status: int, text: str, remedy: str) -> None:
    error = failure("Install", status, text)
    assert remedy in error.remedy
    assert text.splitlines()[-1] in str(error)


def test_the_script_is_readable_for_the_old_python_that_must_refuse_it() -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
