"""Tasks of the International Olympiad in Informatics: read a row of open-r1/ioi, and judge submissions to it.

Batch: the submission is compiled with the problem's grader, reads the input and prints the output. A checker, or a comparison with the
correct output, gives the score.

Communication: the submission is compiled with the problem's stub, and talks with the problem's manager. The manager knows the input, and
gives the score.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from configs.contracts.errors import RewardError
from rewards.convention.group_input import Columns
from rewards.programs.checker import CHECKER_LIMITS, Checker, first_number
from rewards.programs.code import Case, from_json, numeric, output_bytes
from rewards.sandbox.interactive import converse
from rewards.sandbox.jail import Limits
from rewards.sandbox.local import LocalRunner
from rewards.sandbox.runner import CompilationError, Program, Runner

PARTS = ("grader.cpp", "stub.cpp")
"""Names of the sources that a submission is compiled with."""

TASK_COLUMNS = (
    "id", "test_cases", "test_names", "grader_files", "task_type", "score_precision", "time_limit", "memory_limit",
)  # fmt: skip
"""The columns of open-r1/ioi that a task is read from."""

_SPACE = re.compile(r"[ \t\r\f\v]+")


@dataclass(frozen=True, slots=True)
class Task:
    """One subtask.

    Args:
        problem: id of the problem.
        cases: the tests.
        precision: number of digits of a score.
        limits: limits of the submission in one test.
        files: sources and headers that a submission is compiled with: base name -> content.
        manager: files of the manager; empty if there is none.
        checker: files of the checker; empty if there is none.
        communicates: True for the type Communication.
        processes: number of copies of the submission that the manager talks with.
        fifo_arguments: True if a stub gets the names of its pipes as arguments; otherwise they are its standard input and output.
    """

    problem: str
    cases: list[Case]
    precision: int
    limits: Limits
    files: dict[str, str]
    manager: dict[str, str]
    checker: dict[str, str]
    communicates: bool
    processes: int = 1
    fifo_arguments: bool = False

    def deadline_s(self, runner: Runner) -> float:
        """The most wall seconds that judging a submission takes."""
        helper = self.manager or self.checker
        helping_s = runner.deadline_s(len(self.cases) + 1, max(CHECKER_LIMITS.wall_s, self.limits.wall_s)) if helper else 0.0
        return runner.deadline_s(len(self.cases), self.limits.wall_s) + helping_s

    @contextmanager
    def judge(self, runner: Runner, code: str) -> Iterator[Callable[[Case], float]]:
        """Yield a function that scores the submission on one test, from 0.0 to 1.0. Raises CompilationError if it does not compile."""
        name = f"{self.problem.lower()}.cpp"
        submission = Program("cpp", {name: with_includes(code, self.problem, self.files), **self.files})
        with ExitStack() as closing:
            if self.communicates:
                yield self._communicating(runner, submission, closing)
            else:
                yield self._batch(runner, submission, closing)

    def _batch(self, runner: Runner, submission: Program, closing: ExitStack) -> Callable[[Case], float]:
        program = closing.enter_context(runner.prepare(submission))
        checker = closing.enter_context(Checker(runner, Program("cpp", self.checker), self.problem)) if self.checker else None

        def judge(case: Case) -> float:
            result = program.run(case.input, limits=self.limits)
            if not result.ok:
                return 0.0
            if checker is None:
                return float(_squeezed(result.stdout) == _squeezed(case.output))
            return _clipped(checker.judge(case, result.stdout))

        return judge

    def _communicating(self, runner: Runner, submission: Program, closing: ExitStack) -> Callable[[Case], float]:
        if not isinstance(runner, LocalRunner):  # other providers run one program at a time
            raise RewardError(
                f"problem {self.problem} is of type Communication: two programs must run side by side, and provider {runner.name} "
                f"cannot do that; use provider local, or leave these problems out"
            )
        program = closing.enter_context(runner.prepare(submission))
        try:
            manager = closing.enter_context(runner.prepare(Program("cpp", self.manager)))
        except CompilationError as error:
            raise RewardError(
                f"the manager of problem {self.problem} does not compile; leave the problem out. {str(error)[-1000:]}"
            ) from None

        def judge(case: Case) -> float:
            result = converse(
                manager, program, case.input, processes=self.processes, fifo_arguments=self.fifo_arguments, limits=self.limits
            )
            return _clipped(first_number(result.stdout) or 0.0) if result.ok else 0.0

        return judge


def read_task(columns: Columns) -> Task | None:
    """Read the subtask of a row. None if it has no tests, is of another type, or cannot be read."""
    try:
        return _read_task(columns)
    except (KeyError, TypeError, ValueError):
        return None


def _read_task(columns: Columns) -> Task | None:
    cases = _read_cases(from_json(columns.get("test_cases")), columns.get("test_names"))
    files = _read_files(from_json(columns.get("grader_files")))
    kind = columns.get("task_type") or "Batch"
    graders = {posixpath.basename(name): content for name, content in files.items() if not name.startswith("checker/")}
    checker = {posixpath.basename(name): content for name, content in files.items() if name.startswith("checker/")}
    helpers = {name: content for name, content in (graders | checker).items() if name.endswith((".h", ".hpp"))}
    if not cases or kind not in ("Batch", "Communication") or (kind == "Communication" and "manager.cpp" not in graders):
        return None
    headers = {name: content for name, content in graders.items() if name.endswith((".h", ".hpp"))}
    settings = from_json(graders.get("grader_config.json")) or {}
    if not isinstance(settings, Mapping):
        return None
    return Task(
        problem=str(columns["id"]),
        cases=cases,
        precision=int(numeric(columns["score_precision"])),
        limits=Limits(
            wall_s=float(numeric(columns["time_limit"])),
            memory_bytes=int(numeric(columns["memory_limit"])),
            output_bytes=max(output_bytes(case.output) for case in cases),
        ),
        files=headers | {name: graders[name] for name in PARTS if name in graders},
        manager=helpers | {"manager.cpp": graders["manager.cpp"]} if kind == "Communication" else {},
        checker=helpers | {"checker.cpp": checker["checker.cpp"]} if "checker.cpp" in checker else {},
        communicates=kind == "Communication",
        processes=int(settings.get("task_type_parameters_Communication_num_processes") or 1),
        fifo_arguments=settings.get("task_type_parameters_Communication_user_io") == "fifo_io",
    )


def _read_files(files: object) -> dict[str, str]:
    """Read files given as `[[name, content], ...]`. Files without content are left out."""
    if not files:
        return {}
    if not isinstance(files, Sequence):
        raise TypeError(f"the files of a problem are a list, not a {type(files).__name__}")
    return {str(name): str(content) for name, content in files if content}


def _read_cases(cases: object, names: object) -> list[Case] | None:
    if isinstance(cases, Mapping):
        names = list(cases) if names is None else names
        if not isinstance(names, Sequence):
            return None
        return _read_cases([cases.get(name) for name in names], None)
    if not isinstance(cases, Sequence) or not all(isinstance(case, Sequence) and len(case) == 2 for case in cases):
        return None
    return [Case(str(given), str(correct or "")) for given, correct in cases]


def with_includes(code: str, problem: str, files: Mapping[str, str]) -> str:
    """The submission, with the first lines that models often forget."""
    wanted = ["#include <bits/stdc++.h>", *([f'#include "{problem}.h"'] if f"{problem}.h" in files else []), "using namespace std;"]
    return "".join(f"{line}\n" for line in wanted if line not in code) + code


def _squeezed(text: str) -> list[str]:
    """The lines of a text, with white space as `diff -b` compares it."""
    return [_SPACE.sub(" ", line).rstrip() for line in text.rstrip().split("\n")]


def _clipped(score: float) -> float:
    return min(1.0, max(0.0, score))
