"""One interface to run code that a model wrote: in jails on this node, or on services elsewhere.

    with make_runner("local").prepare(Program("python", {"main.py": code})) as program:
        result = program.run("1 2\\n", limits=Limits(wall_s=5))

If a provider cannot be reached, RewardError is raised: the completion counts as failed, never as wrong.
Standard library only: this runs in grader processes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from configs.contracts.errors import ConfigError
from rewards.sandbox.jail import Limits, Result

Language = Literal["python", "cpp"]
Provider = Literal["local", "piston", "e2b", "morph"]

COMPILE_LIMITS = Limits(wall_s=30.0, memory_bytes=2 << 30, file_bytes=16 << 20, output_bytes=1 << 20)
"""Compiling bits/stdc++.h alone takes a second, and several on a busy machine."""

COMPILER_FLAGS = ("-std=gnu++17", "-O2", "-pipe", "-s", "-DEVAL", "-DONLINE_JUDGE")
"""The flags that the judges of IOI and Codeforces use."""

UNLIMITED_STACK = 'ulimit -s unlimited 2>/dev/null; exec ./program "$@"'
"""Runs an executable whose stack is limited by its memory alone, as in contests: deep recursion works."""


class CompilationError(Exception):
    """The compiler refused the program. The text is the compiler's."""


@dataclass(frozen=True, slots=True)
class Program:
    """The source of a program: `Program("cpp", {"main.cpp": "…", "stack.h": "…"})`.

    Args:
        language: the language of all its files.
        files: plain file name -> content. Python: the first file is run. C++: all files that end in .cpp are compiled together.
    """

    language: Language
    files: Mapping[str, str]

    @property
    def sources(self) -> list[str]:
        """Names of the files to compile."""
        return [name for name in self.files if name.endswith(".cpp")]


class Prepared(Protocol):
    """A program that is ready to run, any number of times."""

    def run(
        self,
        stdin: str = "",
        *,
        limits: Limits,
        arguments: Sequence[str] = (),
        files: Mapping[str, str] = {},
        output: str | None = None,
    ) -> Result:
        """Run it once, in a fresh folder.

        Args:
            stdin: its standard input.
            limits: the limits of this run.
            arguments: its command line.
            files: more files for its folder: name -> content.
            output: name of a file that the program writes. Its content replaces `stdout` in the result.

        Raises:
            CompilationError: the compiler refused the program (a provider that compiles at each run).
            RewardError: the provider failed.
        """
        ...


class Runner(Protocol):
    """A provider of machines or jails to run programs in."""

    name: Provider
    parallel_runs: int
    """Number of runs of one program that may be under way at the same time."""

    def check(self, languages: Collection[Language]) -> None:
        """Raise ConfigError or RewardError, with the remedy, if this process cannot run programs in these languages."""
        ...

    def prepare(self, program: Program) -> AbstractContextManager[Prepared]:
        """Make a program ready, and give everything back at the end of the context.

        Raises:
            CompilationError: the compiler refused the program, here or at the first run.
            RewardError: the provider failed.
        """
        ...

    def deadline_s(self, runs: int, wall_s: float) -> float:
        """The most wall seconds that it takes to prepare a program and to run it `runs` times for at most `wall_s` each."""
        ...


def with_output_file(command: Sequence[str], output: str) -> list[str]:
    """A command that runs `command`, drops what it prints, and prints the file `output` that it wrote."""
    return ["/bin/sh", "-c", f'"$@" >/dev/null || exit; cat ./{output}', "sh", *command]


def compiler_said(result: Result) -> str:
    """The reason why a compilation failed."""
    if result.ending == "exited":
        return result.stderr or result.stdout or f"the compiler exited with code {result.exit_code}"
    return f"the compiler was stopped: {result.ending}"


def required_key(variable: str, provider: Provider) -> str:
    """Read a provider's key from the environment of this process. The model's programs never see it: they run elsewhere."""
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(
            f"provider {provider} needs a key, and the environment variable {variable} is not set; set it on every node before "
            f"Ray starts there"
        )
    return key
