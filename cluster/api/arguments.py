"""Checks of what Python callers pass, before anything is touched. The command line cannot pass such values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.contracts.errors import ConfigError


def checked_overrides(overrides: object) -> list[str]:
    """Settings as a list of texts.

    Raises:
        ConfigError: it is a text, a mapping, or holds something else than texts.
    """
    if isinstance(overrides, str | Mapping) or not isinstance(overrides, Sequence):
        raise ConfigError(f"overrides is {overrides!r}; give a list of texts such as ['learner.max_steps=3']")
    wrong = next((each for each in overrides if not isinstance(each, str)), None)
    if wrong is not None:
        raise ConfigError(f"overrides holds {wrong!r}; give texts such as 'learner.max_steps=3'")
    return list(overrides)


def checked_callbacks(callbacks: object) -> None:
    """Refuse callbacks that could not be called after the first step.

    Raises:
        ConfigError: it is no list, or holds what is no ordinary function of one argument.
    """
    if isinstance(callbacks, str | Mapping) or not isinstance(callbacks, Sequence):
        raise ConfigError(f"callbacks is {callbacks!r}; give a list of functions, such as [{getattr(callbacks, '__name__', 'watch')}]")
    for callback in callbacks:
        if not callable(callback):
            raise ConfigError(f"callbacks holds {callback!r}; give functions that take a finished step")
        if inspect.iscoroutinefunction(callback):
            raise ConfigError(
                f"callback {callback.__name__} is an async function, which a run does not await; write it as an ordinary function"
            )
        _require_one_argument(callback)


def _require_one_argument(callback: object) -> None:
    try:
        signature = inspect.signature(callback)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # a function of C, which has none
        return
    try:
        signature.bind("a step")
    except TypeError as error:
        raise ConfigError(
            f"callback {callback!r} cannot be called with a finished step ({error}); give a function of one argument"
        ) from None


def checked_path(value: object, name: str) -> str:
    """A path as text.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(value, str | Path):
        return str(value)
    raise ConfigError(f"{name} is {value!r}; give a path as text or pathlib.Path")
