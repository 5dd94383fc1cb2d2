"""Print the measures of the project's structure: `python -m tests.measures [FOLDER ...]`, a column for each checkout.

The counts are read from the source of the five packages. `tests/test_floors.py` keeps those that are rules.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests import REPOSITORY
from tests.test_floors import imports_of, source_modules

LONG_FUNCTION_LINES = 60
MANY_METHODS = 15
MANY_PARAMETERS = 6
RIDDLE = re.compile(r"(What|Whether|Where|How|Of|That|Those)\b")
"""A docstring that begins like this has no verb and no noun phrase."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def measures(root: Path) -> dict[str, int]:
    """Compute every measure of the checkout at `root`, by its name."""
    modules = source_modules(root)
    trees = {name: ast.parse(path.read_text(), str(path)) for name, path in modules.items()}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, Function)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    files = Counter(path.parent for path in modules.values() if path.name != "__init__.py")
    edges = room_edges(root, modules)
    return {
        "files": sum(files.values()),
        "lines": sum(path.read_text().count("\n") for path in modules.values()),
        "rooms (folders with code)": len(files),
        "files in the largest folder": max(files.values()),
        "files over 400 lines": sum(path.read_text().count("\n") > 400 for path in modules.values()),
        "pairs of packages that import one another": len(mutual({(a.split("/")[0], b.split("/")[0]) for a, b in edges})),
        "pairs of rooms that import one another": len(mutual(edges)),
        "uses of Any": sum(isinstance(node, ast.Name) and node.id == "Any" for node in nodes),
        "hasattr, and getattr with a default": sum(map(asks_for_attribute, nodes)),
        f"functions over {LONG_FUNCTION_LINES} lines": sum(lines_of(each) > LONG_FUNCTION_LINES for each in functions),
        f"classes with more than {MANY_METHODS} methods": sum(num_methods(each) > MANY_METHODS for each in classes),
        f"functions with more than {MANY_PARAMETERS} parameters": sum(num_parameters(each) > MANY_PARAMETERS for each in functions),
        "docstrings": sum(ast.get_docstring(each) is not None for each in functions),
        "docstrings that begin with What, Whether, Where, ...": sum(map(is_riddle, functions)),
    }


def room_edges(root: Path, modules: dict[str, Path]) -> set[tuple[str, str]]:
    """(importing folder, imported folder), lazy and type-only imports counted."""
    folder = {name: path.parent.relative_to(root).as_posix() for name, path in modules.items()}
    found = imports_of(root, {name: path for name, path in modules.items() if path.name != "__main__.py"})
    return {(folder[each.importer], folder[each.module]) for each in found if each.module in folder}


def mutual(edges: set[tuple[str, str]]) -> set[frozenset[str]]:
    return {frozenset(edge) for edge in edges if edge[0] != edge[1] and edge[::-1] in edges}


def asks_for_attribute(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="hasattr")):
            return True
        case ast.Call(func=ast.Name(id="getattr"), args=arguments):
            return len(arguments) == 3
    return False


def lines_of(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def num_methods(node: ast.ClassDef) -> int:
    return sum(isinstance(each, Function) for each in node.body)


def num_parameters(function: Function) -> int:
    """Count parameters except `self` and `cls`. Commands count as 0, because each of their parameters is an option."""
    arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    options = any(argument.annotation is not None and "typer" in ast.dump(argument.annotation) for argument in arguments)
    return 0 if options else sum(argument.arg not in ("self", "cls") for argument in arguments)


def is_riddle(function: Function) -> bool:
    return bool(RIDDLE.match(ast.get_docstring(function) or ""))


def table(roots: list[Path]) -> Iterator[str]:
    """Yield a line for each measure, with a number for each checkout."""
    columns = [measures(root) for root in roots]
    for name in columns[0]:
        yield f"{name:55}" + "".join(f"{column[name]:>10,}" for column in columns)


if __name__ == "__main__":
    print("\n".join(table([Path(argument).resolve() for argument in sys.argv[1:]] or [REPOSITORY])))
