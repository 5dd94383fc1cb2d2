"""Test what is in the repository: no path of somebody's machine, nothing large, and packages that install with all their files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests import REPOSITORY

MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:home/\w|Users/\w|root\b|work/\w)")
LARGEST_BYTES = 1 << 20


def tracked_files() -> list[Path]:
    """List the files that git has, or would add with `git add`. Without git (an unpacked archive): the files outside hidden, cache and run folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return [REPOSITORY / name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        skipped = re.compile(r"^(\.(?!ci\b|gitignore)|runs$|build$|dist$|__pycache__$)|\.egg-info$")
        inside = (path.relative_to(REPOSITORY) for path in REPOSITORY.rglob("*") if path.is_file())
        return [REPOSITORY / path for path in inside if not any(skipped.search(part) for part in path.parts)]


def machine_paths(text: str) -> list[str]:
    """Find lines that name a home folder, or the folder in which this checkout lies, as `number: line`."""
    here = str(REPOSITORY) if len(REPOSITORY.parts) > 2 else None
    lines = enumerate(text.splitlines(), start=1)
    return [f"{number}: {line.strip()[:120]}" for number, line in lines if MACHINE_PATH.search(line) or (here and here in line)]


def test_no_tracked_file_names_a_path_of_a_machine() -> None:
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found += [f"{path.relative_to(REPOSITORY)}:{line}" for line in machine_paths(content.decode(errors="replace"))]
    assert not found, "use a path relative to the repository, a temporary folder, or a placeholder:\n" + "\n".join(found)


@pytest.mark.parametrize("folders", [("home", "someone", "run"), ("Users", "someone"), ("root", ".cache"), ("root",), ("work", "main")])
def test_a_path_of_a_machine_is_found(folders: tuple[str, ...]) -> None:
    assert machine_paths(f"first\nopen('/{'/'.join(folders)}')")[0].startswith("2: ")


@pytest.mark.parametrize("harmless", ["~/runs", "docs/home/page", "s3://bucket/root", "https://host/home/x", "the work/learner ratio"])
def test_other_paths_are_not(harmless: str) -> None:
    assert machine_paths(harmless) == []


def test_no_tracked_file_is_large() -> None:
    large = [
        f"{path.relative_to(REPOSITORY)}: {path.stat().st_size} bytes" for path in tracked_files() if path.stat().st_size > LARGEST_BYTES
    ]
    assert not large, f"more than {LARGEST_BYTES} bytes; weights and data sets are made or fetched, never committed: {large}"


def test_every_file_of_a_package_is_installed() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages, data = settings["packages"], settings["package-data"]
    left_out = []
    for path in (each.relative_to(REPOSITORY) for each in tracked_files() if each.relative_to(REPOSITORY).parts[0] in packages):
        package = max((name for name in packages if path.is_relative_to(name.replace(".", "/"))), key=len)
        inner = path.relative_to(package.replace(".", "/"))
        covered = len(inner.parts) == 1 and inner.suffix == ".py"
        if not covered and not any(fnmatch(str(inner), pattern) for pattern in data.get(package, [])):
            left_out.append(str(path))
    assert not left_out, f"add the folder to `packages`, or the pattern to `package-data`, in pyproject.toml: {left_out}"


def test_every_dependency_has_a_tested_version() -> None:
    lines = (line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    tested = {normal(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {requirement_name(line) for group in (project["dependencies"], *project["optional-dependencies"].values()) for line in group}
    by_build = {"torch", "vllm"}  # torch has a version for each build (+cpu); vllm has its own pin
    assert wanted - by_build <= tested, f"constraints.txt lacks {sorted(wanted - by_build - tested)}"


def requirement_name(requirement: str) -> str:
    return normal(re.split(r"[\[<>=~! ]", requirement, maxsplit=1)[0])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
