"""Write rewards to files by cloudpickle. So functions that are in no file, such as a lambda or a notebook's, reach the graders."""

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
"""A reward function. Users' functions may return anything; their results are checked after every call."""


def name_of(reward: Reward) -> str:
    """The name of a reward in metrics and errors: its `__name__` or that of its class; `lambda` for a lambda."""
    if isinstance(reward, functools.partial):
        return name_of(reward.func)
    return str(getattr(reward, "__name__", type(reward).__name__)).strip("<>")


def write_reward(reward: Reward, folder: Path, name: str | None = None) -> str:
    """Write a reward to `folder/NAME.pkl`, and return its name in a configuration: `folder/NAME.pkl:NAME`.

    Args:
        reward: a function, a class or another callable. It and its module are pickled by value.
        folder: made if it does not exist. It must be visible on the nodes of the reward workers.
        name: the name in metrics and tables. Default: the reward's own.

    Raises:
        ConfigError: the reward cannot be pickled.
    """
    name = name or name_of(reward)
    if Path(name).name != name:
        raise ConfigError(f"reward {name!r} names no file; give it a __name__ without a slash")
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
            f"name it path/to/file.py:function, or let it make what cannot be pickled (a lock, a file, a connection) at its first call"
        ) from error


def unpickled(content: bytes) -> object:
    """Read what `pickled` made. Errors of unpickling, such as a missing module, are passed on."""
    return pickle.loads(content)


def read_reward(path: Path) -> object:
    """Read a file that `write_reward` wrote."""
    require_file(path)
    return unpickled(path.read_bytes())


def require_file(path: Path) -> None:
    """Raise ConfigError if a reward's file does not exist."""
    if not path.is_file():
        raise ConfigError(f"reward file {path} is not there; give a path that is right from {Path.cwd()}")


@contextmanager
def _by_value(reward: Reward) -> Iterator[None]:
    """Let cloudpickle write the reward's module by value, unless graders can import that module."""
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
    """The user's module that a reward is in. None if it is installed, or rollcast's, or `__main__`, which is always pickled by value."""
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
