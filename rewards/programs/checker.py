"""Checkers: programs of contest problems that judge a submission's output. They come with the data, and run apart from the submission."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import TracebackType

from configs.contracts.errors import RewardError
from rewards.programs.code import Case
from rewards.sandbox.jail import Limits
from rewards.sandbox.runner import CompilationError, Prepared, Program, Runner

CHECKER_LIMITS = Limits(wall_s=10.0, memory_bytes=1 << 30)


class Checker:
    """A checker. It is made ready at its first use, and given back at the end of the context.

    The program gets three file names: the test's input, the correct output, and the output to judge. It prints a number.

    Args:
        runner: runs the checker.
        program: its source.
        problem: name of the problem, for messages.
    """

    def __init__(self, runner: Runner, program: Program, problem: str) -> None:
        self._runner = runner
        self._program = program
        self._problem = problem
        self._prepared: Prepared | None = None
        self._sound = False
        self._preparing = threading.Lock()
        self._closing = ExitStack()

    def __enter__(self) -> Checker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing.__exit__(kind, error, trace)

    def judge(self, case: Case, output: str) -> float:
        """The number that the checker prints for an output; 0.0 if it fails on this output.

        Raises:
            RewardError: the checker fails on the correct output too.
        """
        number = self._ask(case, output)
        if number is None and not self._sound:
            self._sound = self._ask(case, case.output) is not None
            if not self._sound:
                raise RewardError(
                    f"the checker of problem {self._problem} gives no number, not even for the correct output; leave the problem out"
                )
        return number or 0.0

    def _ask(self, case: Case, output: str) -> float | None:
        files = {"input.txt": case.input, "correct_output.txt": case.output, "solution_output.txt": output}
        try:
            result = self._ready().run(limits=CHECKER_LIMITS, arguments=list(files), files=files)
        except CompilationError as error:
            raise RewardError(
                f"the checker of problem {self._problem} does not compile; leave the problem out. {str(error)[-1000:]}"
            ) from None
        return first_number(result.stdout) if result.ok else None

    def _ready(self) -> Prepared:
        with self._preparing:
            if self._prepared is None:
                self._prepared = self._closing.enter_context(self._runner.prepare(self._program))
            return self._prepared


def first_number(text: str) -> float | None:
    """Read the number at the start of a text, if any: checkers and managers print a score, and sometimes words after it."""
    words = text.split(maxsplit=1)
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None
