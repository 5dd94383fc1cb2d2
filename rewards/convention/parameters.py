"""Checks of a reward's parameters. They run when the reward is made, before a run starts anything."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from configs.contracts.errors import ConfigError

GATHERING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
"""The kinds of `*args` and `**kwargs`."""


def called_signature(function: Callable[..., object]) -> inspect.Signature:
    """The signature of what a call reaches first: of a decorated function the decorator's, which may supply arguments itself.

    Raises:
        TypeError, ValueError: it has no signature, as some functions written in C.
    """
    try:
        return inspect.signature(function, follow_wrapped=False)
    except ValueError:  # a decorator written in C says nothing about itself
        return inspect.signature(function)


def require_arguments(reward: str, function: Callable[..., object], params: Mapping[str, object]) -> None:
    """Raise ConfigError if a user's function or class has no argument of a parameter's name, or a class needs more parameters."""
    try:
        arguments = called_signature(function).parameters
    except (TypeError, ValueError):
        return
    known = [name for name, argument in arguments.items() if argument.kind not in GATHERING]
    if all(argument.kind is not inspect.Parameter.VAR_KEYWORD for argument in arguments.values()):
        for param in params:
            if param not in known:
                near = nearest(param, known) or "; remove it from params"
                raise ConfigError(f"reward {reward} has no argument {param} (its arguments: {', '.join(known) or 'none'}){near}")
    missing = [name for name in known if arguments[name].default is inspect.Parameter.empty and name not in params]
    if missing and inspect.isclass(function):
        raise ConfigError(
            f"reward {reward} is a class and cannot be made without {', '.join(missing)}; give it in the reward's params, as in "
            f"{{name: {reward}, params: {{{missing[0]}: ...}}}}"
        )


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint at the name that is most like a wrong one; "" if none is."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


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
