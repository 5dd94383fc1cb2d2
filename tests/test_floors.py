"""Keep the floors: which room may import which, read from the source. Imports inside functions and for type checking count.

A room is a folder of the code; `FLOORS` lists all rooms, ground first. Protected here:
1. A room imports rooms of earlier lines only, so that no cycle of rooms exists; within a room no cycle of files.
2. `actors`, `rewards` and `learner` are peers: of the rest of the project they see `configs/contracts` and `configs/schema` only.
3. `cluster/loop` sees `configs/contracts` only, and no Ray; rows and prompts never meet the engine.
4. vLLM and DeepSpeed each have one home.
5. Modules that the driver imports load no heavy library: they are imported in a process in which importing one is an error.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import REPOSITORY

FLOORS = (
    ("configs/contracts", "configs/schema"),
    (
        "actors/generated",
        "actors/chat",
        "actors/engine",
        "rewards/answers",
        "rewards/sandbox",
        "learner",
        "configs",
        "configs/launch",
        "cluster",
        "cluster/loop",
        "cluster/files",
    ),
    ("actors/rows", "rewards/convention"),
    ("actors/prompts", "rewards/programs", "learner/model", "configs/foreign", "cluster/output", "cluster/fitting"),
    ("rewards/functions",),
    ("actors", "actors/demonstrations", "configs/recipes", "rewards/grading", "learner/engine", "cluster/models"),
    ("rewards", "learner/sft"),
    ("learner/grpo", "cluster/evaluation"),
    ("cluster/report", "cluster/inspection"),
    ("cluster/publish", "cluster/comparison"),
    ("cluster/train",),
    ("cluster/commands", "cluster/api"),
)
"""Every room, ground first. A folder that holds files beside its subfolders is a room of its own."""

PACKAGES = ("actors", "cluster", "configs", "learner", "rewards")
PEERS = ("actors", "learner", "rewards")
GROUND = ("configs/contracts", "configs/schema")
"""The only rooms that peers share."""

ONLY = {"cluster/loop": ("configs/contracts",)}
"""Rooms that see less than their floor allows."""

APART = (
    ("actors/rows", "actors/engine"),
    ("actors/chat", "actors/engine"),
    ("actors/prompts", "actors/engine"),
    ("actors/demonstrations", "actors/engine"),
)
"""Pairs of rooms that run in different processes."""

HOMES = {"vllm": "actors/engine", "deepspeed": "learner/engine"}
"""A library, and the only room that may import it."""

WITHOUT_RAY = ("configs/contracts", "configs/schema", "configs", "configs/recipes", "cluster/loop")
HEAVY = ("deepspeed", "math_verify", "peft", "torch", "transformers", "vllm")
"""Libraries that cost seconds in every process that imports one."""


@dataclass(frozen=True)
class Import:
    """One import statement: `importer` imports `module` in `line`."""

    importer: str
    module: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.importer} imports {self.module}"

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]


def module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def source_modules(root: Path) -> dict[str, Path]:
    """Find every module of the packages, by its dotted name."""
    return {module_name(root, path): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}


def imports_of(root: Path, modules: Mapping[str, Path]) -> list[Import]:
    """Find every import of the modules, calls of `import_module("name")` included."""
    found = []
    for importer, path in modules.items():
        package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text(), str(path))):
            for module in named_by(node, package, modules):
                found.append(Import(importer, module, str(path.relative_to(root)), node.lineno))  # type: ignore[attr-defined]
    return found


def named_by(node: ast.AST, package: str, modules: Mapping[str, Path]) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (name.name for name in names)
        case ast.ImportFrom(module=stem, names=names, level=level):
            parents = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            source = ".".join([*parents, *([stem] if stem else [])])
            for name in names:  # `from cluster import records` names a module, `from cluster.records import Scores` does not
                yield f"{source}.{name.name}" if f"{source}.{name.name}" in modules else source
        case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
            if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                yield node.args[0].value


def room_of(module: str, modules: Mapping[str, Path], root: Path) -> str:
    """Return the folder of a module. A `__main__` file is a program that starts its folder's commands, and belongs to no room."""
    path = modules[module]
    return "" if path.name == "__main__.py" else path.parent.relative_to(root).as_posix()


def floor_of(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_violations(imports: list[Import], modules: Mapping[str, Path], root: Path) -> list[str]:
    """Find imports that run upwards or across, and peers that see more than the ground."""
    found = []
    for each in imports:
        if each.module not in modules or not (room := room_of(each.importer, modules, root)):
            continue
        seen = room_of(each.module, modules, root)
        package, seen_package = room.partition("/")[0], seen.partition("/")[0]
        if seen == room:
            continue
        if package in PEERS and seen_package != package and seen not in GROUND:
            found.append(f"{each}: {package} may import only itself and {', '.join(GROUND)}")
        elif not seen or floor_of(seen) >= floor_of(room):
            found.append(f"{each}: {room} may import only rooms below it (FLOORS), and {seen or 'a program'} is not")
        elif room in ONLY and seen not in ONLY[room]:
            found.append(f"{each}: {room} may import only {', '.join(ONLY[room])}")
        elif (room, seen) in APART or (seen, room) in APART:
            found.append(f"{each}: {room} and {seen} run in different processes")
    return found


def library_violations(imports: list[Import], modules: Mapping[str, Path], root: Path) -> list[str]:
    """Find libraries that are imported outside their home, and Ray in rooms that run without a cluster."""
    found = []
    for each in imports:
        room = room_of(each.importer, modules, root)
        if each.library in HOMES and room != HOMES[each.library]:
            found.append(f"{each}: only {HOMES[each.library]} may import {each.library}")
        if each.library == "ray" and room in WITHOUT_RAY:
            found.append(f"{each}: {room} runs without a cluster, so that its rules can be tested in milliseconds")
        if each.library in HEAVY and room in GROUND:
            found.append(f"{each}: the ground imports no engine; the driver and every role stand on it")
    return found


def cycles(imports: list[Import], modules: Mapping[str, Path]) -> list[str]:
    """Find modules that import themselves by way of others: one shortest ring each, lazy imports counted."""
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for each in imports:
        if each.module in modules and each.module != each.importer:
            edges[each.importer].add(each.module)
    rings = {canonical(ring) for start in edges if (ring := shortest_ring(edges, start))}
    return [" -> ".join([*ring, ring[0]]) for ring in sorted(rings)]


def shortest_ring(edges: Mapping[str, set[str]], start: str) -> tuple[str, ...] | None:
    paths = [(start,)]
    seen = set()
    while paths:
        following = []
        for path in paths:
            for module in sorted(edges[path[-1]]):
                if module == start:
                    return path
                if module not in seen:
                    seen.add(module)
                    following.append((*path, module))
        paths = following
    return None


def canonical(ring: tuple[str, ...]) -> tuple[str, ...]:
    first = ring.index(min(ring))
    return ring[first:] + ring[:first]


def violations(root: Path) -> list[str]:
    """Find every breach of the floors in the tree at `root`, as `file:line: what: the rule`."""
    modules = source_modules(root)
    imports = imports_of(root, modules)
    rings = [f"import cycle: {ring}" for ring in cycles(imports, modules)]
    return room_violations(imports, modules, root) + library_violations(imports, modules, root) + rings


def test_floors_are_kept() -> None:
    breaches = violations(REPOSITORY)
    assert not breaches, "\n" + "\n".join(breaches)


def test_every_room_has_a_floor_and_says_its_duty() -> None:
    rooms = {path.parent.relative_to(REPOSITORY).as_posix() for path in source_modules(REPOSITORY).values()}
    assert rooms == {room for floor in FLOORS for room in floor}
    for room in rooms:
        duty = ast.get_docstring(ast.parse((REPOSITORY / room / "__init__.py").read_text()))
        assert duty, f"{room}/__init__.py says its duty in one or two sentences"


@pytest.mark.parametrize(
    ("file", "source", "told"),
    [
        ("learner/packing.py", "from actors.prompts import indexed", "learner may import only itself"),
        ("learner/packing.py", "def f():\n    import actors.pool", "learner/packing.py:2: learner.packing imports actors.pool"),
        ("rewards/worker.py", "from cluster.loop.loop import run", "rewards may import only itself"),
        ("rewards/worker.py", "from cluster.loop import loop", "rewards.worker imports cluster.loop.loop"),
        ("rewards/grading/calling.py", "from ...learner import packing", "rewards may import only itself"),
        ("actors/pool.py", "if TYPE_CHECKING:\n    from learner.packing import pack", "actors may import only itself"),
        ("learner/packing.py", "from configs import loading", "learner may import only itself"),
        ("cluster/loop/loop.py", "import ray", "cluster/loop runs without a cluster"),
        ("cluster/loop/loop.py", "from rewards.worker import RewardWorker", "cluster/loop may import only rooms below it"),
        ("cluster/loop/loop.py", "from configs.schema.run import RunConfig", "cluster/loop may import only configs/contracts"),
        ("configs/loading.py", "from cluster.train.grpo import run", "configs may import only rooms below it"),
        ("cluster/train/grpo.py", "from cluster import __main__", "and a program is not"),
        ("actors/prompts/indexed.py", "from actors.engine import vllm_engine", "run in different processes"),
        ("actors/pool.py", "def f():\n    from vllm.lora import request", "only actors/engine may import vllm"),
        ("learner/packing.py", "import importlib\nimportlib.import_module('deepspeed')", "only learner/engine may import deepspeed"),
        ("configs/contracts/records.py", "def f():\n    import torch", "the ground imports no engine"),
        ("cluster/loop/window.py", "def f():\n    from cluster.loop import loop", "import cycle: cluster.loop.loop -> cluster.loop.window"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, source: str, told: str) -> None:
    sound = {
        "actors/engine/vllm_engine.py": "import vllm",
        "actors/pool.py": "from .prompts.indexed import Prompts",
        "actors/prompts/indexed.py": "from configs.contracts import records",
        "cluster/__main__.py": "from cluster.train.grpo import run",
        "cluster/loop/loop.py": "from cluster.loop.window import Window",
        "cluster/loop/window.py": "",
        "cluster/train/grpo.py": "from actors import pool",
        "configs/contracts/records.py": "import numpy",
        "configs/loading.py": "",
        "configs/schema/run.py": "",
        "learner/packing.py": "from configs.schema.run import RunConfig",
        "rewards/worker.py": "",
    }
    for path, text in sound.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert violations(tmp_path) == []
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(source)
    breaches = violations(tmp_path)
    assert any(told in breach for breach in breaches), breaches


def driver_modules() -> list[str]:
    """List the modules that a driver may import: all of `cluster` and `configs`, the rooms that run in the driver, and the roles' handles and workers."""
    in_driver = ("actors", "actors/rows", "actors/prompts", "actors/demonstrations", "rewards")
    modules = source_modules(REPOSITORY)
    return [
        name
        for name, path in modules.items()
        if path.parent.relative_to(REPOSITORY).parts[0] in ("cluster", "configs")
        or path.parent.relative_to(REPOSITORY).as_posix() in in_driver
        or path.stem in ("learner", "worker", "registry")
    ]


REFUSE_HEAVY = """
import importlib, importlib.machinery, sys

class Refuse:  # to look whether a library is there is no import, so finding it must go on to work
    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.partition(".")[0] in HEAVY else None

    def create_module(self, spec):
        raise AssertionError(f"the driver would load {spec.name} by importing {MODULE}: import it inside a function")

    def exec_module(self, module): ...

HEAVY, modules = set(sys.argv[1].split(",")), sys.argv[2].split(",")
sys.meta_path.insert(0, Refuse())
for MODULE in modules:
    importlib.import_module(MODULE)
"""


def import_without_heavy(modules: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", REFUSE_HEAVY, ",".join(HEAVY), ",".join(modules)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)


def test_the_driver_loads_no_heavy_library() -> None:
    imported = import_without_heavy(driver_modules())
    assert imported.returncode == 0, imported.stderr


def test_a_heavy_import_is_noticed() -> None:
    imported = import_without_heavy(["configs.contracts.records", "peft"])
    assert "the driver would load peft by importing peft" in imported.stderr
