"""Runs code that a model wrote: one interface for the jail on this node and for services elsewhere.

    with make_runner("local").prepare(Program("python", {"main.py": code})) as program:
        result = program.run("1 2\\n", limits=Limits(wall_s=5))

A provider that cannot be reached raises RewardError: the completion then counts as failed, never as wrong.
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
"""bits/stdc++.h alone takes a second, several where the cores are shared."""

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


def with_output_file(command: Sequence[str], output: str) -> list[str]:
    """A command that prints the file that `command` writes in place of what it prints."""
    return ["/bin/sh", "-c", f'"$@" >/dev/null || exit; cat ./{output}', "sh", *command]


def compiler_said(result: Result) -> str:
    """The reason of a failed compilation."""
    if result.ending == "exited":
        return result.stderr or result.stdout or f"the compiler exited with code {result.exit_code}"
    return f"the compiler was stopped: {result.ending}"


def required_key(variable: str, provider: Provider) -> str:
    """A provider's key, from the environment of this process. Programs never see it: they run elsewhere."""
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(
            f"provider {provider} needs its key in the environment variable {variable}, which is not set; set it for every node's Ray"
        )
    return key
