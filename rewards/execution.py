"""Where code that a model wrote runs: one interface for the jail on this node and for services elsewhere.

    with make_runner("local").prepare(Program("python", {"main.py": code})) as program:
        result = program.run("1 2\\n", limits=Limits(wall_s=5))

A provider that cannot be reached raises RewardError: the completion then counts as failed, never as wrong.
Standard library only: this runs in grader processes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol, get_args

from cluster.errors import ConfigError, RewardError
from rewards.sandbox import PYTHON, Limits, Result, Sandbox, available_compiler

Language = Literal["python", "cpp"]
Provider = Literal["local", "piston", "e2b", "morph"]

COMPILE_LIMITS = Limits(wall_s=30.0, memory_bytes=2 << 30, file_bytes=16 << 20, output_bytes=1 << 20)
"""bits/stdc++.h alone takes a second, several where the cores are shared."""

JAIL_SECONDS = 0.5
"""What making and leaving a jail may add to a run; it is about 0.01."""

COMPILER_FLAGS = ("-std=gnu++17", "-O2", "-pipe", "-s", "-DEVAL", "-DONLINE_JUDGE")
"""Those of IOI's and Codeforces' judges."""

UNLIMITED_STACK = 'ulimit -s unlimited 2>/dev/null; exec ./program "$@"'
"""Recursion is limited by memory alone, as in contests."""


class CompilationError(Exception):
    """The compiler refused the program; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Program:
    """The text of a program: `Program("cpp", {"main.cpp": "…", "stack.h": "…"})`.

    Args:
        language: of all its files.
        files: plain name -> content. Of Python the first is run; of C++ all that end in .cpp are compiled together.
    """

    language: Language
    files: Mapping[str, str]

    @property
    def sources(self) -> list[str]:
        """Names of the files that are compiled."""
        return [name for name in self.files if name.endswith(".cpp")]


class Prepared(Protocol):
    """A program that can be run, as often as there are tests."""

    def run(
        self,
        stdin: str = "",
        *,
        limits: Limits,
        arguments: Sequence[str] = (),
        files: Mapping[str, str] = {},
        output: str | None = None,
    ) -> Result:
        """Run it once, in an empty folder of its own.

        Args:
            stdin: its standard input.
            limits: of this run.
            arguments: its command line.
            files: more files for its folder.
            output: a file that it writes, whose content is then `stdout` of the result.

        Raises:
            CompilationError: the provider compiles at each run, and the compiler refused the program.
            RewardError: the provider failed.
        """
        ...


class Runner(Protocol):
    """A provider."""

    name: Provider
    parallel_runs: int
    """Runs of one program that may be made at the same time."""

    def check(self, languages: Collection[Language]) -> None:
        """Raise ConfigError or RewardError, with the remedy, where this process could not run programs of these languages."""
        ...

    def prepare(self, program: Program) -> AbstractContextManager[Prepared]:
        """Make a program ready; what that takes is given back at the end of the context.

        Raises:
            CompilationError: the compiler refused it, here or at the first run.
            RewardError: the provider failed.
        """
        ...

    def deadline_s(self, runs: int, wall_s: float) -> float:
        """Wall seconds that preparing a program and so many runs, each limited to `wall_s`, take at the very most."""
        ...


def make_runner(provider: str, *, endpoints: Sequence[str] | str | None = None, image: str | None = None) -> Runner:
    """The runner of a provider. Cheap: nothing is imported, looked for or started.

    Args:
        provider: `local` is the jail on this node; `piston`, `e2b` and `morph` are services.
        endpoints: of `piston` alone: its addresses. Default: PISTON_ENDPOINTS, separated by commas.
        image: of `e2b` a template, of `morph` the id of a snapshot, with Python 3 and for C++ g++.

    Raises:
        ConfigError: there is no such provider, or it has no such setting.
    """
    if provider not in get_args(Provider):
        raise ConfigError(f"provider {provider!r} is unknown; use one of {', '.join(get_args(Provider))}")
    if endpoints is not None and provider != "piston":
        raise ConfigError(f"endpoints are piston's, and the provider is {provider}; set provider: piston, or leave endpoints out")
    if image is not None and provider not in ("e2b", "morph"):
        raise ConfigError(f"image is a setting of e2b and morph, and the provider is {provider}; leave it out")
    if provider == "local":
        return LocalRunner()
    if provider == "piston":
        from rewards.piston import PistonRunner

        return PistonRunner([endpoints] if isinstance(endpoints, str) else endpoints)
    from rewards.remote import E2BRunner, MorphRunner

    return E2BRunner(image) if provider == "e2b" else MorphRunner(image)


class LocalRunner:
    """Runs programs in the jail of this node."""

    name: Provider = "local"
    parallel_runs = 1  # a reward worker has one core, and time limits are of wall time

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
        return COMPILE_LIMITS.wall_s + JAIL_SECONDS + runs * (wall_s + JAIL_SECONDS)


@dataclass(frozen=True, slots=True)
class LocalProgram:
    """A program that is ready to run in jails: its files, the compiled one among them, and its command there."""

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
        """As `Prepared.run`; `bind` shows folders of this host, as `Sandbox.run` does."""
        command = [*self.command, *arguments]
        if output is not None:
            command = with_output_file(command, output)
        return self.sandbox.run(command, files={**files, **self.program_files}, stdin=stdin, limits=limits, bind=bind)


@lru_cache(maxsize=8)
def _compiled(files: tuple[tuple[str, str], ...]) -> bytes:
    """An executable, made of C++ in a jail. The completions of a group have one checker or manager, which is compiled once."""
    program = Program("cpp", dict(files))
    command = [_compiler(), *COMPILER_FLAGS, "-o", "program", *program.sources]
    with tempfile.TemporaryDirectory(prefix="rollcast-") as folder:
        result = Sandbox().compile(command, files=program.files, outputs=["program"], into=Path(folder), limits=COMPILE_LIMITS)
        if not result.ok:
            raise CompilationError(compiler_said(result))
        return (Path(folder) / "program").read_bytes()


def with_output_file(command: Sequence[str], output: str) -> list[str]:
    """A command that prints the file that `command` writes in place of what it prints."""
    return ["/bin/sh", "-c", f'"$@" >/dev/null || exit; cat ./{output}', "sh", *command]


def compiler_said(result: Result) -> str:
    """The reason of a failed compilation."""
    if result.ending == "exited":
        return result.stderr or result.stdout or f"the compiler exited with code {result.exit_code}"
    return f"the compiler was stopped: {result.ending}"


def _compiler() -> str:
    compiler = available_compiler()
    if compiler is None:
        raise RewardError(
            "there is no C++ compiler in /usr on this node, and the reward runs C++; install one on every node "
            "(`apt-get install g++`), or use another provider"
        )
    return compiler


def required_key(variable: str, provider: Provider) -> str:
    """A provider's key, from the environment of this process. Programs never see it: they run elsewhere."""
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(
            f"provider {provider} needs its key in the environment variable {variable}, which is not set; set it for every node's Ray"
        )
    return key
