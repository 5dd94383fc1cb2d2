"""TRL's calling convention, and what becomes of every kind of answer."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from configs.contracts.errors import RewardError
from rewards.convention.group_input import GroupInput
from rewards.convention.per_completion import ARGUMENTS
from rewards.functions.registry import load
from rewards.grading.calling import GradeReport, grade_group, needed_columns

GROUP = GroupInput("2+2?", ["4", "five"], [[52], [53, 54]], {"solution": "4", "level": 3}, step=7)
CHAT = GroupInput([{"role": "user", "content": "2+2?"}], ["4", "five"], [[52], [53, 54]], {}, step=0)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def judge(function: Any, runner: asyncio.Runner, group: GroupInput = GROUP) -> GradeReport:
    return grade_group(function, group, runner)


def test_everything_is_passed_to_a_function_that_takes_it(runner: asyncio.Runner) -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        seen.update(kwargs, prompts=prompts, completions=completions)
        return [0.0, 1.0]

    assert judge(reward, runner).values == [0.0, 1.0]
    assert seen["prompts"] == ["2+2?", "2+2?"]
    assert seen["completions"] == ["4", "five"]
    assert seen["completion_ids"] == [[52], [53, 54]]
    assert seen["solution"] == ["4", "4"]
    assert seen["level"] == [3, 3]
    assert seen["trainer_state"].global_step == 7
    assert {"log_extra", "log_metric"} < set(seen)


def test_no_column_takes_the_place_of_an_argument(runner: asyncio.Runner) -> None:
    seen: dict[str, Any] = {}

    def reward(**kwargs: Any) -> list[float]:
        seen.update(kwargs)
        return [0.0, 1.0]

    judge(reward, runner, replace(GROUP, columns=dict.fromkeys(ARGUMENTS, "own")))
    assert seen.keys() == ARGUMENTS and ["own", "own"] not in seen.values()


def test_a_function_without_kwargs_gets_only_what_it_names(runner: asyncio.Runner) -> None:
    def reward(completions: list[str], solution: list[str]) -> list[float]:
        return [float(a == b) for a, b in zip(completions, solution, strict=True)]

    assert judge(reward, runner).values == [1.0, 0.0]
    assert judge(functools.partial(lambda completions, scale: [scale, scale], scale=2.0), runner).values == [2.0, 2.0]


def test_conversational_completions_are_messages(runner: asyncio.Runner) -> None:
    def reward(prompts: list[Any], completions: list[Any]) -> list[float]:
        assert prompts[0] == [{"role": "user", "content": "2+2?"}]
        return [float(len(completion[0]["content"])) for completion in completions]

    assert judge(reward, runner, CHAT).values == [1.0, 4.0]


def test_asynchronous_functions_keep_one_event_loop(runner: asyncio.Runner) -> None:
    loops = []

    async def reward(completions: list[str]) -> list[float]:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return [1.0, 2.0]

    assert judge(reward, runner).values == [1.0, 2.0]
    assert judge(reward, runner).values == [1.0, 2.0]
    assert loops[0] is loops[1]


def test_objects_with_call(runner: asyncio.Runner) -> None:
    class Constant:
        def __call__(self, completions: list[str], **kwargs: Any) -> list[float]:
            return [3.0] * len(completions)

    assert judge(load(Constant), runner).values == [3.0, 3.0]
    assert judge(load(Constant()), runner).values == [3.0, 3.0]


def test_logged_values_come_back(runner: asyncio.Runner) -> None:
    def reward(completions: list[str], log_extra: Any, log_metric: Any) -> list[float]:
        log_extra("length", [len(completion) for completion in completions])
        log_extra("object", [object, "x" * 20_000])
        log_metric("share", 0.25)
        log_metric("share", 0.75)
        return [1.0, 1.0]

    report = judge(reward, runner)
    assert report.metrics == {"share": [0.25, 0.75]}
    assert report.extras["length"] == [1, 4]
    assert report.extras["object"] == [str(object), "x" * 10_000]


def test_a_log_of_wrong_length_is_an_error(runner: asyncio.Runner) -> None:
    report = judge(lambda completions, log_extra: log_extra("a", [1]), runner)
    assert report.outcomes == ["crashed", "crashed"]
    assert "log_extra('a') got 1 values for 2 completions" in report.error


@pytest.mark.parametrize(
    ("values", "numbers", "outcomes"),
    [
        ([1, None], [1.0, None], ["scored", "skipped"]),
        ([True, 0.5], [1.0, 0.5], ["scored", "scored"]),
        ((1.0, 2.0), [1.0, 2.0], ["scored", "scored"]),
        ([math.nan, 1.0], [None, 1.0], ["invalid", "scored"]),
        ([1.0, math.inf], [1.0, None], ["scored", "invalid"]),
        (["1.0", 1.0], [None, 1.0], ["invalid", "scored"]),
        ([[1.0], 1.0], [None, 1.0], ["invalid", "scored"]),
        ([10**400, 1.0], [None, 1.0], ["invalid", "scored"]),
        ([1.0], [None, None], ["invalid", "invalid"]),
        ([1.0] * 3, [None, None], ["invalid", "invalid"]),
        (None, [None, None], ["invalid", "invalid"]),
        (1.0, [None, None], ["invalid", "invalid"]),
        ("ab", [None, None], ["invalid", "invalid"]),
        ({0: 1.0, 1: 1.0}, [None, None], ["invalid", "invalid"]),
    ],
)
def test_what_is_not_a_number_is_never_a_silent_zero(values: Any, numbers: Any, outcomes: Any, runner: asyncio.Runner) -> None:
    report = judge(lambda completions: values, runner)
    assert (report.values, report.outcomes) == (numbers, outcomes)
    assert bool(report.error) == ("invalid" in outcomes)


def test_numpy_values_count(runner: asyncio.Runner) -> None:
    numpy = pytest.importorskip("numpy")
    assert judge(lambda completions: numpy.array([1.0, 2.5], dtype=numpy.float32), runner).values == [1.0, 2.5]


@pytest.mark.parametrize("error", [KeyError("no such thing"), SystemExit(1), KeyboardInterrupt()])
def test_an_exception_is_a_crash_with_its_traceback(error: BaseException, runner: asyncio.Runner) -> None:
    def reward(completions: list[str]) -> list[float]:
        raise error

    report = judge(reward, runner)
    assert report.outcomes == ["crashed", "crashed"]
    assert "in reward" in report.error and type(error).__name__ in report.error


def test_a_missing_column_is_named(runner: asyncio.Runner) -> None:
    report = judge(lambda completions, topic: [1.0, 1.0], runner)
    assert "missing 1 required positional argument: 'topic'" in report.error


def over_threshold(completions: list[str], threshold: int) -> list[float]:
    return [float(len(completion) > threshold) for completion in completions]


def of_solution(completions: list[str], solution: list[str]) -> list[float]:
    return [float(a == b) for a, b in zip(completions, solution, strict=True)]


@functools.wraps(over_threshold)
def supplied(completions: list[str], **columns: Any) -> list[float]:
    return over_threshold(completions, 1)


@functools.wraps(of_solution)
def passed_on(*args: Any, **kwargs: Any) -> list[float]:
    return of_solution(*args, **kwargs)


@functools.wraps(passed_on)
def passed_on_twice(*args: Any, **kwargs: Any) -> list[float]:
    return passed_on(*args, **kwargs)


class Wrapping:
    """A decorator that is a class."""

    def __init__(self, function: Any) -> None:
        self.function = function
        functools.update_wrapper(self, function)

    def __call__(self, completions: list[str], **columns: Any) -> Any:
        return self.function(completions, 1)


class Method:
    @functools.wraps(of_solution)
    def __call__(self, *args: Any, **kwargs: Any) -> list[float]:
        return of_solution(*args, **kwargs)


@pytest.mark.parametrize(
    ("reward", "values"),
    [
        (supplied, [0.0, 1.0]),
        (Wrapping(over_threshold), [0.0, 1.0]),
        (functools.partial(supplied), [0.0, 1.0]),
        (passed_on, [1.0, 0.0]),
        (passed_on_twice, [1.0, 0.0]),
        (functools.partial(passed_on), [1.0, 0.0]),
        (Method(), [1.0, 0.0]),
    ],
)
def test_a_decorator_is_called_by_its_own_arguments_and_passes_on_what_is_wanted(
    reward: Any, values: list[float], runner: asyncio.Runner
) -> None:
    assert needed_columns("mine.py:f", reward) == []
    report = judge(reward, runner)
    assert (report.values, report.error) == (values, "")


def test_a_decorator_that_supplies_nothing_needs_what_it_names() -> None:
    @functools.wraps(over_threshold)
    def named(completions: list[str], topic: list[str]) -> list[float]:
        return over_threshold(completions, len(topic))

    assert needed_columns("mine.py:f", named) == ["topic"]


def factory(scale: float = 2.0) -> Any:
    return lambda completions: [scale for _ in completions]


@pytest.mark.parametrize(("reward", "said"), [(lambda: [1.0], "none"), (factory, "scale"), (lambda *args: [1.0], "args")])
def test_a_function_that_takes_nothing_of_a_call_is_refused(reward: Any, said: str) -> None:
    with pytest.raises(
        RewardError, match=f"mine.py:f takes nothing that a call gives .its arguments: {said}.; give it the argument completions"
    ):
        needed_columns("mine.py:f", reward)


@pytest.mark.parametrize(
    "reward", [lambda prompts: [1.0], lambda completion_ids, x=1: [1.0], lambda solution: [1.0], lambda **columns: [1.0]]
)
def test_a_function_that_takes_something_else_than_completions_is_not(reward: Any) -> None:
    assert needed_columns("mine.py:f", reward) in ([], ["solution"])
