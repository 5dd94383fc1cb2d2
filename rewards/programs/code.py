"""Rewards for code: how many of the row's tests the completion's program passes. Programs run through rewards/sandbox/runner.py.

The rewards for contest problems are in rewards/programs/contest.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from configs.contracts.errors import ConfigError, RewardError
from rewards.convention.group_input import Columns
from rewards.convention.per_completion import Grade, TextReward
from rewards.sandbox.jail import Limits, Result
from rewards.sandbox.providers import make_runner
from rewards.sandbox.runner import CompilationError, Language, Prepared, Program

UNPARSABLE_GOLD = Grade(None, "unparsable_gold")

TAGS: dict[Language, tuple[str, ...]] = {"python": ("python", "python3", "py"), "cpp": ("cpp", "c++", "cxx", "cc")}
"""Names of a language, in a row and after the backticks of a fence."""

SCRIPT_NAME: dict[Language, str] = {"python": "main.py", "cpp": "main.cpp"}

OUTPUT_BYTES = 4 << 20
"""Limit on what a program prints, or twice the expected output if that is more."""

BINARY_THRESHOLD = 0.99

_FENCES = {
    language: re.compile(rf"```(?:{'|'.join(map(re.escape, tags))})[ \t]*\r?\n(.*?)```", re.DOTALL) for language, tags in TAGS.items()
}


class Case(NamedTuple):
    """One test: the program's standard input, and the output that is expected."""

    input: str
    output: str


class CodeTests(NamedTuple):
    """The tests of a row."""

    language: Language
    cases: Sequence[Case]


class Code(TextReward):
    """The share of the row's tests that the completion's program passes: passed / total, as in Open-R1's code_reward.

    The program is the last fenced block of the row's language (```` ```python ````, ```` ```cpp ````). Without one, the reward is 0.0.
    A program passes a test if it exits with code 0 and prints the expected output. All lines are compared, without white space at their
    ends and without empty lines at the end of the output. (Open-R1 compares only as many lines as the shorter output has.) A test that
    runs into a limit, or exits with another code, fails; the other tests still count.

    The column `verification_info` is `{"language": "python" | "cpp", "test_cases": [{"input": str, "output": str, "type":
    "stdin_stdout"}]}`, or this as JSON text. If it cannot be read, or has no such tests, the reward does not apply.

    Args:
        provider: where programs run: `local`, in jails on this node, or `piston`, `e2b`, `morph` (rewards/sandbox/providers.py).
        endpoints: for `piston`: addresses of its servers.
        image: for `e2b` a template, for `morph` the id of a snapshot.
        timeout_s: limit on the wall seconds of one test.
        memory_bytes: limit on the memory of one test.
        enforce_same_language: if True, a completion that also has a block of the other language counts as one without code. (Open-R1's
            option of this name refuses a batch with rows in several languages. Here rows may be mixed.)

    Raises:
        ConfigError: a parameter has an impossible value.
    """

    __name__ = "code"

    def __init__(
        self,
        provider: str = "local",
        endpoints: Sequence[str] | str | None = None,
        image: str | None = None,
        timeout_s: float = 5.0,
        memory_bytes: int = 512 << 20,
        enforce_same_language: bool = False,
    ) -> None:
        self._runner = make_runner(provider, endpoints=endpoints, image=image)
        for name, value in (("timeout_s", timeout_s), ("memory_bytes", memory_bytes)):
            if not value > 0:
                raise ConfigError(f"{self.__name__}: {name} {value} is not positive; leave it out for the default")
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._one_language = enforce_same_language

    def check_host(self) -> None:
        self._runner.check(["python"])  # whether there is a compiler matters only when a row in C++ comes

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return ("verification_info",)

    def check_columns(self, columns: Collection[str]) -> None:
        require_columns(self.__name__, ["verification_info"], columns)

    def deadline_s(self, columns: Columns) -> float:
        tests = read_tests(columns.get("verification_info"))
        return self._runner.deadline_s(len(tests.cases), self._timeout_s) if tests else 0.0

    def grade_text(self, text: str, columns: Columns) -> Grade:
        self.check_columns(columns)
        tests = read_tests(columns["verification_info"])
        if tests is None:
            return UNPARSABLE_GOLD
        code = extract_code(text, tests.language)
        if not code or (self._one_language and any(extract_code(text, other) for other in TAGS if other != tests.language)):
            return Grade(0.0, "scored")
        try:
            with self._runner.prepare(Program(tests.language, {SCRIPT_NAME[tests.language]: code})) as program:
                return Grade(self._score(self._passes(program, tests.cases), len(tests.cases)), "scored")
        except CompilationError:
            return Grade(0.0, "scored")

    def _passes(self, program: Prepared, cases: Sequence[Case]) -> Iterator[bool]:
        """Run test by test: no more tests than the caller asks for."""
        for case in cases:
            limits = Limits(wall_s=self._timeout_s, memory_bytes=self._memory_bytes, output_bytes=output_bytes(case.output))
            yield passes(program.run(case.input, limits=limits), case.output)

    def _score(self, passes: Iterator[bool], total: int) -> float:
        return sum(passes) / total


class BinaryCode(Code):
    """1.0 if `code` would give more than 0.99, else 0.0. It stops as soon as the result is certain.

    Column and parameters are those of `code`.
    """

    __name__ = "binary_code"

    def _score(self, passes: Iterator[bool], total: int) -> float:
        failed = 0
        for passed in passes:
            failed += not passed
            if (total - failed) / total <= BINARY_THRESHOLD:
                return 0.0
        return 1.0


def extract_code(text: str, language: Language) -> str:
    """The content of the last fenced block of a language; "" if there is none, or it is blank."""
    blocks = _FENCES[language].findall(text)
    return blocks[-1] if blocks and blocks[-1].strip() else ""


def language_named(name: object) -> Language | None:
    """Find a language by one of its names: `language_named("C++")` is "cpp". None if there is no such language."""
    folded = name.strip().lower() if isinstance(name, str) else None
    return next((language for language, tags in TAGS.items() if folded in tags), None)


def read_tests(info: object) -> CodeTests | None:
    """Read a `verification_info`. None if it has no tests that can be run."""
    info = from_json(info)
    language = language_named(info.get("language")) if isinstance(info, Mapping) else None
    cases = read_cases(info.get("test_cases")) if isinstance(info, Mapping) else None
    return CodeTests(language, cases) if language and cases else None


def read_cases(cases: object) -> list[Case] | None:
    """Read tests given as `[{"input": …, "output": …}]`. None if any of them has another form."""
    cases = from_json(cases)
    if not isinstance(cases, Sequence) or isinstance(cases, str):
        return None
    read = []
    for case in cases:
        if not isinstance(case, Mapping) or case.get("type", "stdin_stdout") not in ("stdin_stdout", None):
            return None
        if not isinstance(case.get("input"), str) or not isinstance(case.get("output"), str):
            return None
        read.append(Case(case["input"], case["output"]))
    return read


def from_json(value: object) -> object:
    """Read a value that some data sets keep as JSON text. None if the text is no JSON; what is not text is returned as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def numeric(value: object) -> int | float | str:
    """Return a value that `int` and `float` accept. Raise TypeError for any other."""
    if not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is neither a number nor text")
    return value


def require_columns(reward: str, needed: Collection[str], columns: Collection[str]) -> None:
    """Raise RewardError if one of the needed columns is missing."""
    missing = [name for name in needed if name not in columns]
    if missing:
        raise RewardError(
            f"{reward} needs the column {', '.join(missing)}, but the data has {', '.join(sorted(columns)) or 'no columns'}; "
            f"rename the column of the data, or list another reward"
        )


def output_bytes(expected: str) -> int:
    """The number of bytes that a program may print if `expected` is right."""
    return max(OUTPUT_BYTES, 2 * len(expected.encode(errors="replace")))


def passes(result: Result, expected: str) -> bool:
    """Tell whether a run ended well and printed the expected output."""
    return result.ok and _lines(result.stdout) == _lines(expected)


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
