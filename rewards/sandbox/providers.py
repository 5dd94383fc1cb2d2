"""Find the runner of a provider by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from configs.contracts.errors import ConfigError
from rewards.sandbox.local import LocalRunner
from rewards.sandbox.piston import PistonRunner
from rewards.sandbox.rented import E2BRunner, MorphRunner
from rewards.sandbox.runner import Provider, Runner


def make_runner(provider: str, *, endpoints: Sequence[str] | str | None = None, image: str | None = None) -> Runner:
    """Make the runner of a provider. This is cheap: nothing is imported, checked or started.

    Args:
        provider: `local` is the jail on this node; `piston`, `e2b` and `morph` are services.
        endpoints: for `piston` only: addresses of its servers. Default: PISTON_ENDPOINTS, separated by commas.
        image: for `e2b` a template, for `morph` the id of a snapshot. It has Python 3, and g++ if C++ is run.

    Raises:
        ConfigError: there is no such provider, or it has no such setting.
    """
    if provider not in get_args(Provider):
        raise ConfigError(f"provider {provider!r} is unknown; use one of {', '.join(get_args(Provider))}")
    if endpoints is not None and provider != "piston":
        raise ConfigError(
            f"endpoints are a setting of piston, and the provider is {provider}; set provider: piston, or leave endpoints out"
        )
    if image is not None and provider not in ("e2b", "morph"):
        raise ConfigError(f"image is a setting of e2b and morph, and the provider is {provider}; leave it out")
    if provider == "local":
        return LocalRunner()
    if provider == "piston":
        return PistonRunner([endpoints] if isinstance(endpoints, str) else endpoints)
    return E2BRunner(image) if provider == "e2b" else MorphRunner(image)
