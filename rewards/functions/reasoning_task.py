"""The reward reasoning_gym: the verifier of the task that made a problem. SECURITY: some verifiers run an answer as Python; see `_is_harmless`."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, get_args

from configs.contracts.errors import ConfigError, RewardError
from configs.contracts.reasoning_entry import ENTRY_COLUMN, ReasoningEntry, read_entry
from rewards.convention.group_input import Columns
from rewards.convention.parameters import one_of
from rewards.convention.per_completion import Grade, TextReward
from rewards.functions.text_answer import NO_ANSWER, UNREADABLE_GOLD, TextStyle, answers_of

if TYPE_CHECKING:
    from reasoning_gym.factory import ProceduralDataset

EVALUATED = frozenset({"binary_matrix", "n_queens", "number_sorting", "spiral_matrix", "string_insertion"})
"""Tasks whose verifier calls `eval` with the answer, or (number_sorting) with that of the row."""

PARSED_BY_SYMPY = frozenset({"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"})
"""Tasks whose verifier calls SymPy's `parse_expr` with the answer, which rewrites it and calls `eval`."""

_FUNCTIONS = frozenset(
    {"Abs", "abs", "acos", "asin", "atan", "cos", "cosh", "cot", "csc", "exp", "ln", "log", "sec", "sin", "sinh", "sqrt", "tan", "tanh"}
)
"""Functions that an answer may call."""

_HARMLESS = (
    *(ast.Expression, ast.Constant, ast.List, ast.Tuple, ast.Name, ast.Load, ast.Call, ast.BinOp, ast.UnaryOp),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd, ast.BitXor),
)


class ReasoningGym(TextReward):
    """The value that reasoning-gym's own verifier gives to the answer, from 0 to 1: `score_answer` of the task that made the row.

    The row must have the column `reasoning_gym`, which `data.path: reasoning_gym:TASK` writes. A completion without an answer, and one that
    the verifier cannot read, gets 0.0 and the outcome `unparsable_answer`. Many verifiers give a part of 1 to an answer that is partly right, or
    that is right and has more text; a hundredth for any answer is usual, too.

    Args:
        answer_style: `answer_tag`: the answer is the first `<answer>` block after the reasoning, or all that follows the reasoning, if there
            is none. `text`: all that follows the reasoning. Reasoning ends with the last `</think>`.

    Raises:
        ConfigError: a parameter has an unknown value, or reasoning-gym is not installed.
        RewardError: when called, a row lacks the column, or it was not written by rollcast.
    """

    __name__ = "reasoning_gym"
    can_hang = True

    def __init__(self, answer_style: TextStyle = "answer_tag") -> None:
        one_of(self.__name__, "answer_style", answer_style, get_args(TextStyle))
        self._style: TextStyle = answer_style

    def check_host(self) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ConfigError(
                f"{self.__name__} needs the package reasoning-gym, which is not installed; pip install 'rollcast[reasoning-gym]', on every node"
            )

    def preload(self) -> None:
        import reasoning_gym  # noqa: F401

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return (ENTRY_COLUMN,)

    def check_columns(self, columns: Collection[str]) -> None:
        if ENTRY_COLUMN not in columns:
            raise RewardError(
                f"{self.__name__} needs the column {ENTRY_COLUMN}, but the data has {', '.join(sorted(columns)) or 'no columns'}; it judges the "
                "problems of data.path: reasoning_gym:TASK"
            )

    def check_row(self, columns: Columns) -> None:
        self._entry(columns)

    def grade_text(self, text: str, columns: Columns) -> Grade:
        problem = self._entry(columns)
        if problem is None:
            return UNREADABLE_GOLD
        answers = answers_of(text, self._style)
        if not answers or not _is_harmless(problem.task, answers[0]):
            return NO_ANSWER
        if not all(_is_harmless(problem.task, text) for text in _run_of_row(problem)):
            raise RewardError(
                f"{self.__name__}: the column {ENTRY_COLUMN} holds a program, which reasoning-gym would run; do not use these data"
            )
        verifier = _verifier(problem.task, json.dumps(problem.settings))
        value = _score(verifier, answers[0], problem.entry)
        return NO_ANSWER if value is None else Grade(value, "scored")

    def _entry(self, columns: Columns) -> ReasoningEntry | None:
        self.check_columns(columns)
        value = columns[ENTRY_COLUMN]
        if value is None or value == "":
            return None
        try:
            return read_entry(str(value))
        except ValueError:
            raise RewardError(
                f"{self.__name__}: the column {ENTRY_COLUMN} holds {str(value)[:80]!r}, which data.path: reasoning_gym:TASK did not write; give the "
                "column another name, or use another reward"
            ) from None


@lru_cache(maxsize=64)
def _verifier(task: str, settings: str) -> ProceduralDataset:
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise RewardError(f"reasoning_gym: reasoning-gym has no task {task!r} here; install the version that made the data")
    kind, config = DATASETS[task]
    return kind(config=config(**json.loads(settings), size=1, seed=0))


def _score(verifier: ProceduralDataset, answer: str, entry: Mapping[str, Any]) -> float | None:
    """The verifier's value; None if it fails on this answer.

    Raises:
        Exception: the verifier fails on the right answer, too.
    """
    try:
        return float(verifier.score_answer(answer, dict(entry)))
    except Exception:
        if entry.get("answer") is not None:
            verifier.score_answer(entry["answer"], dict(entry))
        return None


def _run_of_row(problem: ReasoningEntry) -> list[str]:
    """The texts of the row that the verifier runs."""
    metadata = problem.entry.get("metadata")
    return [
        str(problem.entry.get("answer")),
        *([str(metadata["integrand"])] if isinstance(metadata, dict) and "integrand" in metadata else []),
    ]


def _is_harmless(task: str, answer: str) -> bool:
    """Tell whether the verifier may have this answer: it does not run it, or running it is arithmetic or makes lists, and calls mathematics only.

    SECURITY: what Python cannot parse `eval` does not run, but `parse_expr` may, after it has rewritten it: `5!`. SymPy's functions run texts that
    they are given, so that an expression must have no text in it.
    """
    if task not in EVALUATED | PARSED_BY_SYMPY:
        return True
    try:
        nodes = list(ast.walk(ast.parse(answer.strip(), mode="eval")))
    except (SyntaxError, ValueError):
        return task in EVALUATED
    except (RecursionError, MemoryError):
        return False
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    if not all(isinstance(called, ast.Name) and called.id in _FUNCTIONS for called in calls):
        return False
    names, values = (
        [node.id for node in nodes if isinstance(node, ast.Name)],
        [node.value for node in nodes if isinstance(node, ast.Constant)],
    )
    if any(name.startswith("_") for name in names) or (
        task in PARSED_BY_SYMPY and any(isinstance(value, (str, bytes)) for value in values)
    ):
        return False
    return all(isinstance(node, _HARMLESS) for node in nodes)
