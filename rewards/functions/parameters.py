"""Checks of a built-in reward's parameters. They run when the reward is made, before a run starts anything."""

from __future__ import annotations

import math
from collections.abc import Sequence

from configs.contracts.errors import ConfigError


def one_of(reward: str, parameter: str, value: object, options: Sequence[str]) -> None:
    """Raise ConfigError unless `value` is one of `options`."""
    if value not in options:
        raise ConfigError(f"{reward}: {parameter} {value!r} is unknown; use one of {', '.join(options)}")


def whole_number(reward: str, parameter: str, value: object, least: int) -> None:
    """Raise ConfigError unless `value` is an integer of at least `least`. True and 3.0 are refused."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{reward}: {parameter} {value!r} is not a whole number of at least {least}; correct it in the reward's params")


def finite_number(reward: str, parameter: str, value: object) -> None:
    """Raise ConfigError unless `value` is a number, and neither infinite nor NaN."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ConfigError(f"{reward}: {parameter} {value!r} is not a finite number; correct it in the reward's params")
