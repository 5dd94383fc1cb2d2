"""Run programs in jails on this node."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from configs.contracts.errors import RewardError
from rewards.sandbox.jail import PYTHON, Limits, Result, Sandbox, available_compiler
from rewards.sandbox.runner import (
    COMPILE_LIMITS,
    COMPILER_FLAGS,
    UNLIMITED_STACK,
    CompilationError,
    Language,
    Program,
    Provider,
    compiler_said,
    with_output_file,
)

JAIL_S = 0.5
"""Time that a jail may add to a run. It takes about 0.01 s; the rest is for a busy machine."""


class LocalRunner:
    """Runs programs in jails on this node."""

    name: Provider = "local"
    parallel_runs = 1  # a reward worker has one core, and the limits are on wall time

    def __init__(self) -> None:
        self._sandbox = Sandbox()

    def check(self, languages: Collection[Language]) -> None:
        Sandbox.check()
        if "cpp" in languages:
            _compiler()

    @contextmanager
    def prepare(self, program: Program) -> Iterator[LocalProgram]:
        if program.language == "python":
            yield LocalProgram(self._sandbox, (*PYTHON, next(iter(program.files))), program.files)
        else:
            yield LocalProgram(
                self._sandbox, ("/bin/sh", "-c", UNLIMITED_STACK, "sh"), {"program": _compiled(tuple(program.files.items()))}
            )

    def deadline_s(self, runs: int, wall_s: float) -> float:
        return COMPILE_LIMITS.wall_s + JAIL_S + runs * (wall_s + JAIL_S)


@dataclass(frozen=True, slots=True)
class LocalProgram:
    """A program that is ready to run in jails: its files, with the executable if it is compiled, and its command inside."""

    sandbox: Sandbox
    command: tuple[str, ...]
    program_files: Mapping[str, str | bytes]

    def run(
        self,
        stdin: str = "",
        *,
        limits: Limits,
        arguments: Sequence[str] = (),
        files: Mapping[str, str] = {},
        output: str | None = None,
        bind: Mapping[str, Path] = {},
    ) -> Result:
        """Run it once: `Prepared.run`, and `bind` as in `Sandbox.run`."""
        command = [*self.command, *arguments]
        if output is not None:
            command = with_output_file(command, output)
        return self.sandbox.run(command, files={**files, **self.program_files}, stdin=stdin, limits=limits, bind=bind)


@lru_cache(maxsize=8)
def _compiled(files: tuple[tuple[str, str], ...]) -> bytes:
    """Compile C++ in a jail. The results are kept: the completions of a group share one checker or manager."""
    program = Program("cpp", dict(files))
    command = [_compiler(), *COMPILER_FLAGS, "-o", "program", *program.sources]
    with tempfile.TemporaryDirectory(prefix="rollcast-") as folder:
        result = Sandbox().compile(command, files=program.files, outputs=["program"], into=Path(folder), limits=COMPILE_LIMITS)
        if not result.ok:
            raise CompilationError(compiler_said(result))
        return (Path(folder) / "program").read_bytes()


def _compiler() -> str:
    compiler = available_compiler()
    if compiler is None:
        raise RewardError(
            "the reward runs C++, and this node has no C++ compiler in /usr; install one on every node (`apt-get install g++`), or use "
            "another provider"
        )
    return compiler
