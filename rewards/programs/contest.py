"""Rewards for programming contests: ioi_code and cf_code, for the data sets open-r1/ioi and open-r1/codeforces.

Scoring is that of Open-R1. Judging is that of Open-R1's Piston packages (cms_ioi; python and C++ for Codeforces), with one difference: the
checker and the correct output are never where the submission runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Literal, NamedTuple, get_args

from configs.contracts.errors import ConfigError
from rewards.convention.group_input import Columns
from rewards.convention.per_completion import Grade, TextReward
from rewards.programs.checker import CHECKER_LIMITS, Checker
from rewards.programs.code import (
    SCRIPT_NAME,
    UNPARSABLE_GOLD,
    Case,
    extract_code,
    language_named,
    numeric,
    output_bytes,
    read_cases,
    require_columns,
)
from rewards.programs.ioi_task import TASK_COLUMNS, Task, read_task
from rewards.sandbox.jail import Limits
from rewards.sandbox.providers import make_runner
from rewards.sandbox.runner import CompilationError, Language, Prepared, Program

ScoringMode = Literal["pass_fail", "partial", "weighted_sum"]

NO_CODE, NOT_COMPILED = -1.0, -0.1
"""Values of cf_code for a completion without code, and for code that does not compile."""

PARTIAL_WEIGHT = 0.1
"""Weight of the share of passed tests in `weighted_sum`."""

DEFAULT_TIME_S, DEFAULT_MEMORY_MB = 2.0, 256.0
"""Limits of a test where the row has none: those of Codeforces."""

FILE_MODE_OUTPUT = "output.txt"

CODEFORCES_COLUMNS = (
    "id", "language", "official_tests", "generated_tests", "time_limit", "memory_limit", "generated_checker", "input_mode",
)  # fmt: skip
"""The columns of open-r1/codeforces that `cf_code` reads."""

_SYNTAX_ERROR = re.compile(r"^(?:SyntaxError|IndentationError|TabError): ", re.MULTILINE)
_YES_NO = re.compile(r"\b(?:yes|no)\b", re.IGNORECASE)


class _ContestReward(TextReward):
    """The common part of the two contest rewards.

    Args:
        provider: where programs run: `local`, in jails on this node, or `piston`, `e2b`, `morph` (rewards/sandbox/providers.py).
        endpoints: for `piston`: addresses of its servers.
        image: for `e2b` a template, for `morph` the id of a snapshot.
        test_batch_size: number of tests that run before it is checked whether the result is already certain; -1 for all. Services run the
            tests of a batch at the same time, `local` one after another. It changes how many tests run, not the reward.
    """

    def __init__(self, provider: str, endpoints: Sequence[str] | str | None, image: str | None, test_batch_size: int) -> None:
        self._runner = make_runner(provider, endpoints=endpoints, image=image)
        if test_batch_size < 1 and test_batch_size != -1:
            raise ConfigError(f"{self.__name__}: test_batch_size {test_batch_size} is neither positive nor -1; use -1 for all tests")
        self._batch_size = test_batch_size

    def _in_batches(self, cases: Sequence[Case], judge: Callable[[Case], float]) -> Iterator[list[float]]:
        size = len(cases) if self._batch_size == -1 else self._batch_size
        batches = (cases[start : start + size] for start in range(0, len(cases), size))
        if self._runner.parallel_runs == 1:
            yield from ([judge(case) for case in batch] for batch in batches)
            return
        with ThreadPoolExecutor(min(size, self._runner.parallel_runs)) as pool:
            yield from (list(pool.map(judge, batch)) for batch in batches)


class IOICode(_ContestReward):
    """Score of a C++ submission on one subtask of an IOI problem, from 0.0 to 1.0, as Open-R1's ioi_code_reward.

    score = the lowest score of the subtask's tests, rounded to the subtask's precision. After a batch with a 0 no more tests run. A
    completion without code (the last ```` ```cpp ```` block), or whose code does not compile, scores 0.0. If they are missing, `#include
    <bits/stdc++.h>`, the problem's header and `using namespace std;` are added to the code.

    Columns of open-r1/ioi: `id` (of the problem), `grader_files` ([[name, content], …]: the sources that a submission is compiled with, the
    manager, the checker), `test_names`, `time_limit` (seconds), `memory_limit` (bytes), `score_precision` (digits), `task_type` (`Batch`
    or `Communication`; the reward does not apply to other types). A column of open-r1/ioi-test-cases, joined to it: `test_cases`
    ([[input, output], …] in the order of `test_names`, or name -> [input, output]).

    Args:
        provider, endpoints, image, test_batch_size: see _ContestReward. Tasks of type `Communication` need provider `local`.

    Raises:
        ConfigError: a parameter has an impossible value.
    """

    __name__ = "ioi_code"

    def __init__(
        self,
        provider: str = "local",
        endpoints: Sequence[str] | str | None = None,
        image: str | None = None,
        test_batch_size: int = 1,
    ) -> None:
        super().__init__(provider, endpoints, image, test_batch_size)

    def check_host(self) -> None:
        self._runner.check(["cpp"])

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return ("grader_files", "test_cases")

    def columns_read(self, columns: Columns) -> Collection[str]:
        return TASK_COLUMNS

    def check_columns(self, columns: Collection[str]) -> None:
        require_columns(self.__name__, ["id", "grader_files", "time_limit", "memory_limit", "score_precision", "test_cases"], columns)

    def deadline_s(self, columns: Columns) -> float:
        task = read_task(columns)
        return task.deadline_s(self._runner) if task else 0.0

    def grade_text(self, text: str, columns: Columns) -> Grade:
        self.check_columns(columns)
        task = read_task(columns)
        if task is None:
            return UNPARSABLE_GOLD
        code = extract_code(text, "cpp")
        return Grade(self._score(task, code) if code else 0.0, "scored")

    def _score(self, task: Task, code: str) -> float:
        worst = 1.0
        try:
            with task.judge(self._runner, code) as judge:
                for scores in self._in_batches(task.cases, judge):
                    worst = min(worst, *scores)
                    if worst == 0.0:
                        break
        except CompilationError:
            return 0.0
        return round(worst, task.precision)


class _Problem(NamedTuple):
    """A row of the data of cf_code."""

    name: str
    language: Language
    cases: list[Case]
    checker: str
    limits: Limits
    reads_file: bool


class CodeforcesCode(_ContestReward):
    """Reward of a submission to a Codeforces problem, as Open-R1's cf_code_reward.

    The row has no tests                                           the reward does not apply
    The completion has no code (last block of the row's language)  -1.0
    The code does not compile, or is not valid Python              -0.1
    `pass_fail`                                                    1.0 if p = 1, else 0.0
    `partial`                                                      p
    `weighted_sum`                                                 pass_fail + 0.1 p

    The last three are values of `scoring_mode`; p is the share of tests that the submission passes. `pass_fail` runs no more tests after a
    batch with a failure. A test is passed if the program exits with code 0 and the checker accepts its output. Without a checker, the
    output must equal the correct one, except for white space and the case of "yes" and "no".

    Columns of open-r1/codeforces (verifiable-prompts): `official_tests` ([{input, output}]), `language` (`python` or `cpp`). These may be
    absent: `generated_tests` (as `official_tests`), `generated_checker` (a Python program that gets the names of three files, input,
    correct output and output, and prints 1 or 100 if the output is right), `time_limit` (seconds), `memory_limit` (megabytes),
    `input_mode` (`file`: the program reads input.txt and writes output.txt).

    Args:
        provider, endpoints, image, test_batch_size: see _ContestReward. Problems with `input_mode: file` cannot run on `piston`.
        scoring_mode: as above.
        language: language of all submissions, if the data has no column `language`.

    Raises:
        ConfigError: a parameter has an impossible value.
    """

    __name__ = "cf_code"

    def __init__(
        self,
        provider: str = "local",
        endpoints: Sequence[str] | str | None = None,
        image: str | None = None,
        test_batch_size: int = 1,
        scoring_mode: ScoringMode = "weighted_sum",
        language: Language | None = None,
    ) -> None:
        super().__init__(provider, endpoints, image, test_batch_size)
        if scoring_mode not in get_args(ScoringMode):
            raise ConfigError(f"cf_code: scoring_mode {scoring_mode!r} is unknown; use one of {', '.join(get_args(ScoringMode))}")
        if language is not None and language not in get_args(Language):
            raise ConfigError(f"cf_code: language {language!r} is unknown; use one of {', '.join(get_args(Language))}")
        self._mode = scoring_mode
        self._language = language

    def check_host(self) -> None:
        self._runner.check(["python"] if self._language == "python" else ["python", "cpp"])

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return ("official_tests",)

    def columns_read(self, columns: Columns) -> Collection[str]:
        return CODEFORCES_COLUMNS

    def check_columns(self, columns: Collection[str]) -> None:
        require_columns(self.__name__, ["official_tests", *([] if self._language else ["language"])], columns)

    def deadline_s(self, columns: Columns) -> float:
        problem = self._read(columns)
        if problem is None:
            return 0.0
        checking_s = self._runner.deadline_s(len(problem.cases) + 1, CHECKER_LIMITS.wall_s) if problem.checker else 0.0
        return self._runner.deadline_s(len(problem.cases), problem.limits.wall_s) + checking_s

    def grade_text(self, text: str, columns: Columns) -> Grade:
        self.check_columns(columns)
        problem = self._read(columns)
        if problem is None:
            return UNPARSABLE_GOLD
        code = extract_code(text, problem.language)
        return Grade(self._score(problem, code) if code else NO_CODE, "scored")

    def _score(self, problem: _Problem, code: str) -> float:
        passed = 0
        try:
            with ExitStack() as closing:
                submission = Program(problem.language, {SCRIPT_NAME[problem.language]: code})
                program = closing.enter_context(self._runner.prepare(submission))
                checker = self._checker(problem, closing)
                for scores in self._in_batches(problem.cases, lambda case: _passes(program, problem, checker, case)):
                    passed += int(sum(scores))
                    if self._mode == "pass_fail" and 0.0 in scores:
                        break
        except CompilationError:
            return NOT_COMPILED
        share = passed / len(problem.cases)
        whole = float(passed == len(problem.cases))
        return {"pass_fail": whole, "partial": share, "weighted_sum": whole + PARTIAL_WEIGHT * share}[self._mode]

    def _checker(self, problem: _Problem, closing: ExitStack) -> Checker | None:
        if not problem.checker:
            return None
        return closing.enter_context(Checker(self._runner, Program("python", {"checker.py": problem.checker}), problem.name))

    def _read(self, columns: Columns) -> _Problem | None:
        """Read a row. None if it has no tests, or has another form."""
        language = language_named(columns.get("language", self._language))
        official, generated = read_cases(columns.get("official_tests")), read_cases(columns.get("generated_tests"))
        if language is None or not official:
            return None
        cases = [*official, *(generated or ())]  # in other subsets generated_tests is a number
        try:
            time_s = float(numeric(columns.get("time_limit") or DEFAULT_TIME_S))
            memory_mb = float(numeric(columns.get("memory_limit") or DEFAULT_MEMORY_MB))
        except (TypeError, ValueError):
            return None
        most_bytes = max(output_bytes(case.output) for case in cases)
        limits = Limits(wall_s=time_s, memory_bytes=int(memory_mb * (1 << 20)), output_bytes=most_bytes)
        checker = str(columns.get("generated_checker") or "")
        return _Problem(str(columns.get("id", "")), language, cases, checker, limits, columns.get("input_mode") == "file")


def _passes(program: Prepared, problem: _Problem, checker: Checker | None, case: Case) -> float:
    read = case.input.replace("\r\n", "\n")
    if problem.reads_file:
        result = program.run(limits=problem.limits, files={"input.txt": read}, output=FILE_MODE_OUTPUT)
    else:
        result = program.run(read, limits=problem.limits)
    if not result.ok:
        if problem.language == "python" and "Traceback" not in result.stderr and _SYNTAX_ERROR.search(result.stderr):
            raise CompilationError(result.stderr)
        return 0.0
    correct, printed = _without_empty_lines(case.output), _without_empty_lines(result.stdout)
    if checker is not None:
        return float(checker.judge(Case(read, correct), printed) in (1.0, 100.0))
    return float(_folded(correct) == _folded(printed))


def _without_empty_lines(text: str) -> str:
    return "".join(f"{line}\n" for line in text.replace("\r\n", "\n").split("\n") if line)


def _folded(text: str) -> str:
    return " ".join(_YES_NO.sub(lambda word: word.group().upper(), text).split())
