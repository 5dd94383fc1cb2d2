"""Find a reward by its name: a built-in name, `path/to/file.py:function` or `package.module:function`."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from configs.contracts.column_paths import ColumnNames
from configs.contracts.errors import ConfigError, DataError, RewardError
from configs.schema.reward_names import other_reward
from rewards.convention.parameters import nearest, require_arguments
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.answer_format import CodeFormat, Format, ReasoningSteps, TagCount, ThinkFormat
from rewards.functions.length import Cosine, Length, SoftOverlongPunishment
from rewards.functions.math_answer import Accuracy, ReasoningAccuracy
from rewards.functions.pickled import SUFFIX, Reward, name_of, read_reward, require_file
from rewards.functions.reasoning_task import ReasoningGym
from rewards.functions.repetition import Fluency, RepetitionPenalty
from rewards.functions.text_answer import Choice, ContainsGold, RougeL, TextF1
from rewards.programs.code import BinaryCode, Code
from rewards.programs.contest import CodeforcesCode, IOICode

if TYPE_CHECKING:
    from configs.schema.rewards import RewardSpec, RewardsSection

NameAndParams: TypeAlias = tuple[str, Mapping[str, object]]
"""A reward's name and its parameters, from which `load` makes the reward."""

BUILTINS: dict[str, Callable[..., Reward]] = {
    "accuracy": Accuracy,
    "reasoning_accuracy": ReasoningAccuracy,
    "text_f1": TextF1,
    "rouge_l": RougeL,
    "contains_gold": ContainsGold,
    "choice": Choice,
    "reasoning_gym": ReasoningGym,
    "format": Format,
    "think_format": ThinkFormat,
    "tag_count": TagCount,
    "reasoning_steps": ReasoningSteps,
    "length": Length,
    "cosine": Cosine,
    "repetition_penalty": RepetitionPenalty,
    "soft_overlong_punishment": SoftOverlongPunishment,
    "code_format": CodeFormat,
    "fluency": Fluency,
    "code": Code,
    "binary_code": BinaryCode,
    "ioi_code": IOICode,
    "cf_code": CodeforcesCode,
}
"""Name -> class of the reward. Importing and making a reward is cheap: libraries are loaded at its first call.

Recipes have a list of their own, `REWARDS` in configs/recipes/grpo_keys.py: a new name goes there as well.
"""

NAME_MAKERS = frozenset(
    {"globals", "locals", "vars", "setattr", "exec", "eval", "__dict__", "__name__", "modules", "_getframe", "currentframe"}
)
"""Names that a module needs to give itself others: `globals()["f"] = g`, `setattr(sys.modules[__name__], "f", g)`, `exec("def f(): ...")`."""


def load(spec: str | Path | Reward, /, **params: object) -> Reward:
    """Load the reward that `spec` names, with its parameters. This has no deadline; `rewards.load` has one.

    Args:
        spec: a built-in name, `path/to/file.py:function`, `package.module:function`, or a callable. A class is instantiated.
        params: the reward's parameters.

    Raises:
        ConfigError: there is no such reward, or it has no such parameter, or a class needs another.
        Exception: the module of a user's function raised it when it was imported.

    Example:
        >>> load("accuracy", answer_style="answer_tag")(completions=["<answer>4</answer>"], solution=["4"])
        [1.0]
    """
    spec = str(spec) if isinstance(spec, Path) else spec
    if isinstance(spec, str) and ":" not in spec:
        return _builtin(spec, params)(**params)
    target = _users_function(spec) if isinstance(spec, str) else spec
    if not callable(target):
        raise ConfigError(f"reward {spec}: {target!r} is not callable; name a function or a class")
    reward: Reward = target
    if params or inspect.isclass(target):
        require_arguments(spec if isinstance(spec, str) else name_of(spec), reward, params)
    if inspect.isclass(target):
        return reward(**params)
    return functools.partial(reward, **params) if params else reward


def validate(section: RewardsSection, columns: Collection[str] | None = None) -> None:
    """Refuse rewards that cannot work, before anything starts. Import no user's module and no heavy library.

    Args:
        section: the rewards of a run.
        columns: columns of the training data besides the prompt; None if they are not yet known.

    Raises:
        ConfigError: a name, file, function or parameter is wrong.
        DataError: the data lacks the column that a reward needs.
        RewardError: this machine lacks what a reward needs.
    """
    for spec in section.functions:
        if ":" in spec.name:
            _check_users_function(spec)
            continue
        reward = load(spec.name, **spec.params)
        if not isinstance(reward, PerCompletionReward):
            continue
        reward.check_host()
        if columns is not None:
            try:
                reward.check_columns(ColumnNames(columns))
            except RewardError as error:
                raise DataError(error.message) from error


def _builtin(name: str, params: Mapping[str, object]) -> Callable[..., Reward]:
    if name.endswith(".py"):
        raise ConfigError(f"reward {name!r} names a file and no function; write {name}:FUNCTION")
    if name not in BUILTINS:
        raise ConfigError(
            f"reward {name!r} is unknown{other_reward(name, BUILTINS)}; built in are {', '.join(BUILTINS)}, "
            f"and functions of your own are written path/to/file.py:function or package.module:function"
        )
    known = inspect.signature(BUILTINS[name]).parameters
    for param in params:
        if param not in known:
            raise ConfigError(f"reward {name} has no parameter {param!r}{nearest(param, known)}; it has {', '.join(known) or 'none'}")
    return BUILTINS[name]


def _users_function(spec: str) -> object:
    where, _, name = spec.rpartition(":")
    if where.endswith(SUFFIX):
        return read_reward(Path(where))
    module = _module_of_file(Path(where)) if where.endswith(".py") else _module_of_name(where, spec)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        raise ConfigError(f"reward {spec}: {where} has no {name!r}{nearest(name, vars(module))}") from None


def _module_of_file(path: Path) -> ModuleType:
    """Import a file by its path. Its folder is added to `sys.path`, as for a script."""
    require_file(path)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(f"rollcast_reward_{path.stem}", path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look up a module by its name
    spec.loader.exec_module(module)
    return module


def _module_of_name(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise ConfigError(f"reward {spec}: there is no module {error.name!r}; install it, or set PYTHONPATH on every node") from error


def _check_users_function(spec: RewardSpec) -> None:
    where, _, name = spec.name.rpartition(":")
    if not where or not name:
        missing = "function" if where else "module"
        raise ConfigError(f"reward {spec.name!r} has no {missing}; write path/to/file.py:function or package.module:function")
    if where.endswith(SUFFIX):
        require_file(Path(where))
    elif where.endswith(".py"):
        _check_file_defines(Path(where), name)
    elif "/" in where:
        raise ConfigError(f"reward {spec.name!r}: {where} is neither a module nor a .py file; write path/to/file.py:function")
    else:
        package = where.partition(".")[0]
        if importlib.util.find_spec(package) is None and not any(Path(name).exists() for name in (package, f"{package}.py")):
            raise ConfigError(f"reward {spec.name}: there is no module {package!r}; install it, or set PYTHONPATH on every node")


def _check_file_defines(path: Path, name: str) -> None:
    """Raise ConfigError if the file cannot define `name`. The file is read, not run: where code may make names, the import tells."""
    require_file(path)
    try:
        body = ast.parse(path.read_bytes(), str(path)).body
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"reward file {path} is not Python: {error}") from error
    names = set(_names_bound(body))
    if name.partition(".")[0] not in names and "*" not in names and not _makes_names(body):
        raise ConfigError(f"reward {path}:{name}: the file defines no {name!r}{nearest(name, names)}")


def _names_bound(body: Iterable[ast.stmt]) -> Iterable[str]:
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield node.name
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id
            elif isinstance(node, ast.alias):
                yield node.asname or node.name.partition(".")[0]


def _makes_names(body: Iterable[ast.stmt]) -> bool:
    """Tell whether a module mentions anything by which code gives it names that are not written in it."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and node.id in NAME_MAKERS:
                return True
            if isinstance(node, ast.Attribute) and node.attr in NAME_MAKERS:
                return True
            if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
                return True
            if isinstance(node, ast.alias) and node.name in NAME_MAKERS:
                return True
    return False
