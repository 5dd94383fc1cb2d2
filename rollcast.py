"""The front door: `rollcast ...` on the command line, `import rollcast` in Python.

The project's packages have common names (`configs`, `rewards`, ...). Importing this module binds those names to the folders beside it, in this
process, so that folders of the same names on PYTHONPATH, in the current folder or in a Ray working directory are never taken for them.
Every process of a run imports it before anything else of the project: Ray's workers by `WORKER_HOOK`, vLLM's by its extension class,
and programs as `python rollcast.py -m MODULE`.

Importing it loads the standard library alone.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.api.inputs import load_config as load_config
    from cluster.api.running import STOP as STOP
    from cluster.api.running import RunResult as RunResult
    from cluster.api.running import compare as compare
    from cluster.api.running import evaluate as evaluate
    from cluster.api.running import merge as merge
    from cluster.api.running import sft as sft
    from cluster.api.running import train as train
    from cluster.train.driver import FinishedStep as FinishedStep
    from rewards.grading.direct import load as load_reward  # noqa: F401

NAMES = ("actors", "cluster", "configs", "learner", "rewards")
"""The packages of the project."""

__version__ = "0.1.0"

ROOT = os.path.dirname(os.path.realpath(__file__))
"""The folder that holds them: a clone, or site-packages."""

WORKER_HOOK = "rollcast.pin"
"""Ray calls it in each worker before the worker unpickles anything (`worker_process_setup_hook`)."""


class _OwnPackages:
    """Finds the project's packages in `ROOT`; sits before every other finder."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if package not in (*NAMES, "rollcast"):
            return None
        spec = PathFinder.find_spec(name, path if rest else [ROOT], target)
        if spec is None:  # without the attribute `name`, which would make `from configs import mine` lose this text
            raise ModuleNotFoundError(
                f"no module {name!r}: in a process of rollcast, {package!r} is rollcast's own package in {ROOT}; rename your folder {package!r}"
            )
        return spec


def pin() -> None:
    """Bind the five names to the project's own packages in this process; a second call does nothing.

    Raises:
        ImportError: another package of one of these names is imported already.
    """
    for name in NAMES:
        loaded = sys.modules.get(name)
        folders = list(getattr(loaded, "__path__", [])) if loaded else [os.path.join(ROOT, name)]
        if [os.path.realpath(folder) for folder in folders] != [os.path.realpath(os.path.join(ROOT, name))]:
            raise ImportError(
                f"a package {name!r} from {', '.join(folders) or loaded} is imported already, and rollcast has one of the same name: "
                "import rollcast first, or rename that package"
            )
    if not any(getattr(finder, "__name__", "") == _OwnPackages.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _OwnPackages)  # pyright: ignore[reportArgumentType]


_ENGINE_EXTENSIONS = {"EngineExtension": "actors.engine.follow_actor", "CpuLoraExtension": "actors.engine.cpu_lora"}
"""Classes that vLLM's processes look up here by name. vLLM spawns these processes, so this must be the first module that they import."""


_PUBLIC = {
    "load_config": ("cluster.api.inputs", "load_config"),
    "load_reward": ("rewards.grading.direct", "load"),
    "FinishedStep": ("cluster.train.driver", "FinishedStep"),
    **{name: ("cluster.api.running", name) for name in ("STOP", "RunResult", "compare", "evaluate", "merge", "sft", "train")},
    **{name: (module, name) for name, module in _ENGINE_EXTENSIONS.items()},
}
"""What this module offers, and where it is: imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        return getattr(importlib.import_module(module), attribute)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


def main() -> None:
    """Run the command line."""
    from cluster.__main__ import main as run_command

    run_command()


pin()

if __name__ == "__main__":
    if sys.argv[1:2] == ["-m"]:
        del sys.argv[:2]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        main()
