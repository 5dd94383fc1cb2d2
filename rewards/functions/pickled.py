"""Rewards as files of cloudpickle: how a function that exists only in this process, such as a lambda or a cell of a notebook, reaches graders."""

from __future__ import annotations

import functools
import pickle
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from configs.contracts.errors import ConfigError

SUFFIX = ".pkl"
OURS = frozenset({"configs", "actors", "rewards", "learner", "cluster", "rollcast"})
"""Packages that every grader can import."""

Reward: TypeAlias = Callable[..., Any]
"""A reward as it is called: by keyword. What a user's function gives back is checked after each call."""


def name_of(reward: Reward) -> str:
    """The name by which metrics and errors call a reward: its `__name__`, or its class's; `lambda` for a lambda."""
    if isinstance(reward, functools.partial):
        return name_of(reward.func)
    return str(getattr(reward, "__name__", type(reward).__name__)).strip("<>")


def write_reward(reward: Reward, folder: Path, name: str | None = None) -> str:
    """Write a reward to `folder/NAME.pkl`, and return the name that a configuration gives it: `folder/NAME.pkl:NAME`.

    Args:
        reward: a function, a class or another callable. It and its module are pickled by value.
        folder: made if it does not exist. The nodes of the reward workers must see it.
        name: the name in metrics and tables; by default the reward's own.

    Raises:
        ConfigError: the reward cannot be pickled.
    """
    name = name or name_of(reward)
    content = pickled(reward)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{SUFFIX}"
    path.write_bytes(content)
    return f"{path}:{name}"


def pickled(reward: Reward) -> bytes:
    """Pickle a reward by value. Raises ConfigError, with its name, if it cannot be pickled."""
    import cloudpickle

    try:
        with _by_value(reward):
            return cloudpickle.dumps(reward)
    except Exception as error:
        raise ConfigError(
            f"reward {name_of(reward)} cannot be sent to the graders, which are other processes: {error}. Write it in a file and "
            f"name it path/to/file.py:function, or open what cannot be pickled (a lock, a file, a connection) when it is first called"
        ) from error


def unpickled(content: bytes) -> object:
    """Read what `pickled` made. Whatever unpickling raises is raised: a module may be missing."""
    return pickle.loads(content)


def read_reward(path: Path) -> object:
    """Read a file of `write_reward`."""
    require_file(path)
    return unpickled(path.read_bytes())


def require_file(path: Path) -> None:
    """Raise ConfigError if a reward's file does not exist."""
    if not path.is_file():
        raise ConfigError(f"reward file {path} is not there; its path is taken from {Path.cwd()}")


@contextmanager
def _by_value(reward: Reward) -> Iterator[None]:
    """Let cloudpickle write the reward's module by value, unless a grader can import it under the same name."""
    import cloudpickle

    module = _users_module(reward)
    if module is None or module.__name__ in cloudpickle.list_registry_pickle_by_value():
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _users_module(reward: Reward) -> ModuleType | None:
    """The module in which a reward was written; None if it is installed, ours, or `__main__`, which always goes by value."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    owner = reward if isinstance(getattr(reward, "__qualname__", None), str) else type(reward)
    name = owner.__module__
    module = sys.modules.get(name or "")
    file = getattr(module, "__file__", None)
    if module is None or file is None or name == "__main__" or name.partition(".")[0] in OURS:
        return None
    installed = (sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
    return None if any(Path(file).is_relative_to(folder) for folder in installed) else module
