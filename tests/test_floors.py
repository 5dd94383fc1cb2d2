"""Keeps the floors: who may import whom, read from the source. Imports inside functions count, as do those for type checking only.

Protected here:
1. `actors`, `rewards`, `learner` are peers: none imports another, and of the rest they see only the basement (`BASEMENT`).
2. Only the roof (`ROOF`) names roles; the loop knows neither a role nor Ray.
3. vLLM and DeepSpeed each have one home; the ground (`GROUND`) imports no engine at all.
4. No cycle of modules.
5. What the driver imports loads none of the heavy libraries: shown by a process in which importing one is an error.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("actors", "cluster", "configs", "learner", "rewards")
PEERS = ("actors", "learner", "rewards")
BASEMENT = {f"cluster.{name}" for name in ("errors", "logs", "metrics", "placement", "records")} | {
    f"configs.{name}" for name in ("data", "model", "schema", "sft", "training")
}
ROOF = {
    f"cluster.{name}"
    for name in (
        "__main__",
        "compare",
        "data",
        "doctor",
        "evaluate",
        "merge",
        "pass_rate",
        "prepare",
        "run_evaluation",
        "score",
        "serving",
        "sft",
        "submit",
        "train",
        "train_evaluation",
    )
}
GROUND = BASEMENT | {"cluster.loop", "cluster.window", "configs.loading", "configs.recipes"}
WITHOUT_RAY = {
    "cluster.errors",
    "cluster.loop",
    "cluster.records",
    "cluster.window",
    "configs.loading",
    "configs.recipes",
    "configs.schema",
}
HOMES = {"vllm": {"actors.engine", "actors.cpu_lora"}, "deepspeed": {"learner.engine"}}
"""A library, and the only modules that may import it."""

HEAVY = ("deepspeed", "math_verify", "peft", "torch", "transformers", "vllm")
"""Seconds each, in every process that imports one."""


@dataclass(frozen=True)
class Import:
    """One import as it is written: `module` at `line` of `importer`."""

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
    """Every module of the packages, by its dotted name."""
    return {module_name(root, path): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))}


def imports_of(root: Path, modules: Mapping[str, Path]) -> list[Import]:
    """Every import statement of the modules, resolved to modules where it names one, with calls of `import_module("name")`."""
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


def peer_violations(imports: list[Import]) -> list[str]:
    """Peers that see more of the project than themselves and the basement."""
    return [
        f"{each}: {each.importer.partition('.')[0]} may import only itself and {', '.join(sorted(BASEMENT))}"
        for each in imports
        if each.importer.partition(".")[0] in PEERS and each.library in PACKAGES
        if each.library != each.importer.partition(".")[0] and each.module not in BASEMENT
    ]


def roof_violations(imports: list[Import]) -> list[str]:
    """Modules of `cluster` and `configs` below the roof that name a role; `configs` above its own floor."""
    below = [each for each in imports if each.importer.partition(".")[0] in ("cluster", "configs") and each.importer not in ROOF]
    return [f"{each}: only the roof ({', '.join(sorted(ROOF))}) names a role" for each in below if each.library in PEERS] + [
        f"{each}: of cluster, configs may import only cluster.errors"
        for each in below
        if each.importer.startswith("configs") and each.library == "cluster" and each.module != "cluster.errors"
    ]


def library_violations(imports: list[Import]) -> list[str]:
    """Libraries outside their home, and engines or Ray on the ground."""
    return (
        [
            f"{each}: only {' and '.join(sorted(HOMES[each.library]))} may import {each.library}"
            for each in imports
            if each.library in HOMES and each.importer not in HOMES[each.library]
        ]
        + [
            f"{each}: the ground imports no engine; the driver and every role stand on it"
            for each in imports
            if each.importer in GROUND and each.library in HEAVY
        ]
        + [
            f"{each}: {each.importer} runs without a cluster, so that its rules can be tested in milliseconds"
            for each in imports
            if each.importer in WITHOUT_RAY and each.library == "ray"
        ]
    )


def cycles(imports: list[Import], modules: Mapping[str, Path]) -> list[str]:
    """Modules that import themselves by way of others, one shortest ring each, lazy imports counted."""
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
    """Every breach of the floors in the tree at `root`, as `file:line: what: the rule`."""
    modules = source_modules(root)
    imports = imports_of(root, modules)
    rings = [f"import cycle: {ring}" for ring in cycles(imports, modules)]
    return peer_violations(imports) + roof_violations(imports) + library_violations(imports) + rings


def test_floors_are_kept() -> None:
    breaches = violations(ROOT)
    assert not breaches, "\n" + "\n".join(breaches)


def test_every_package_of_the_tree_is_read() -> None:
    assert {name.partition(".")[0] for name in source_modules(ROOT)} == set(PACKAGES)
    assert {"cluster.records", "configs.schema"} <= set(source_modules(ROOT))


@pytest.mark.parametrize(
    ("file", "source", "told"),
    [
        ("learner/batch.py", "from actors import prompts", "learner may import only itself"),
        ("learner/batch.py", "def f():\n    import actors.prompts", "learner/batch.py:2: learner.batch imports actors.prompts"),
        ("rewards/worker.py", "from cluster.loop import run", "rewards may import only itself"),
        ("rewards/worker.py", "from cluster import loop", "rewards.worker imports cluster.loop"),
        ("rewards/deep/worker.py", "from ...learner import batch", "rewards may import only itself"),
        ("actors/pool.py", "if TYPE_CHECKING:\n    from learner.group import LearnerGroup", "actors may import only itself"),
        ("cluster/loop.py", "import ray", "cluster.loop runs without a cluster"),
        ("cluster/loop.py", "from rewards.pool import RewardPool", "only the roof"),
        ("configs/loading.py", "from cluster.records import Scores", "of cluster, configs may import only cluster.errors"),
        ("actors/worker.py", "def f():\n    from vllm.lora import request", "only actors.cpu_lora and actors.engine may import vllm"),
        ("learner/worker.py", "import importlib\nimportlib.import_module('deepspeed')", "only learner.engine may import deepspeed"),
        ("cluster/records.py", "def f():\n    import torch", "the ground imports no engine"),
        ("actors/prompts.py", "def f():\n    from actors import pool", "import cycle: actors.pool -> actors.prompts -> actors.pool"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, file: str, source: str, told: str) -> None:
    sound = {
        "actors/engine.py": "import vllm",
        "actors/pool.py": "from .prompts import Prompts",
        "actors/prompts.py": "from cluster import records",
        "cluster/loop.py": "from cluster.window import Window",
        "cluster/records.py": "import numpy",
        "cluster/train.py": "from actors import pool",
        "cluster/window.py": "",
        "learner/batch.py": "from configs.schema import RunConfig",
        "configs/schema.py": "",
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
    """What a driver may import: all of `cluster` and `configs`, and the handles and workers of the roles."""
    handles = {f"{peer}.{name}" for peer in PEERS for name in ("group", "pool", "prompts", "registry", "worker")}
    return [name for name in source_modules(ROOT) if name.partition(".")[0] in ("cluster", "configs") or name in handles]


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
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_driver_loads_no_heavy_library() -> None:
    imported = import_without_heavy(driver_modules())
    assert imported.returncode == 0, imported.stderr


def test_a_heavy_import_is_noticed() -> None:
    imported = import_without_heavy(["cluster.records", "peft"])
    assert "the driver would load peft by importing peft" in imported.stderr
