"""A bound on every call to the ranks: measured limits, and ranks that are stopped. Futures that never settle stand for ranks that hang."""

from __future__ import annotations

import asyncio

import pytest

from learner.engine import watchdog
from learner.engine.watchdog import FIRST_CALL_S, FLOOR_S, CallLimits, Hang, Watchdog

SHORT_S = 0.2
LONG_S = 60.0
"""Longer than a test may take: it fails by pytest's own limit where it waits for this."""


async def nobody() -> set[int]:
    return set()


def settled(value: str) -> asyncio.Future[str]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(value)
    return future


def never() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


def test_a_limit_follows_the_slowest_call_of_its_kind() -> None:
    limits = CallLimits()
    assert limits.of("step") == FIRST_CALL_S, "kernels are compiled in the first step"
    limits.took("step", 70.0)
    limits.took("step", 20.0)
    assert limits.of("step") == pytest.approx(700.0)
    assert limits.of("save") == FIRST_CALL_S, "a step says nothing about a save"
    limits.took("save", 1.0)
    assert limits.of("save") == FLOOR_S


def test_a_given_number_bounds_steps_after_the_first() -> None:
    limits = CallLimits(20.0)
    assert limits.of("step") == FIRST_CALL_S
    limits.took("step", 70.0)
    limits.took("save", 70.0)
    assert limits.of("step") == 20.0
    assert limits.of("save") == pytest.approx(700.0)
    assert CallLimits(2 * FIRST_CALL_S).of("step") == 2 * FIRST_CALL_S


async def test_a_call_without_an_answer_in_time_names_the_ranks_that_did_not_answer() -> None:
    limits = CallLimits(SHORT_S)
    limits.took("step", 1.0)
    hang = await Watchdog(limits, LONG_S, nobody).wait("step", [settled("done"), never(), never()])
    assert hang == Hang((1, 2), "no answer to the call 'step' for 0.2 s (learner.step_timeout_s)")
    assert hang is not None and hang.role == "learner ranks 1, 2"


async def test_other_calls_have_the_measured_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "FIRST_CALL_S", SHORT_S)
    for call in ("start", "save", "export_adapter"):
        assert await Watchdog(CallLimits(), LONG_S, nobody).wait(call, [never()]) == Hang((0,), f"no answer to the call {call!r} for 0.2 s")


async def test_a_stopped_rank_is_found_long_before_the_limit() -> None:
    async def second() -> set[int]:
        return {1}

    hang = await Watchdog(CallLimits(), SHORT_S, second).wait("step", [never(), never()])
    assert hang is not None and hang.role == "learner rank 1", "rank 0 only waits for it"
    assert "stopped for 0.2 s" in hang.reason


async def test_a_rank_that_is_stopped_for_a_moment_is_left_alone() -> None:
    asked, answer = 0, never()

    async def every_other_time() -> set[int]:
        nonlocal asked
        asked += 1
        if asked == 8:
            answer.set_result("done")
        return {0} if asked % 2 else set()

    limits = CallLimits()
    assert await Watchdog(limits, SHORT_S, every_other_time).wait("step", [answer]) is None
    assert limits.of("step") == FLOOR_S, "the call was measured"


async def test_a_failed_call_teaches_no_limit() -> None:
    failed, limits = never(), CallLimits()
    failed.set_exception(ValueError("out of memory"))
    assert await Watchdog(limits, LONG_S, nobody).wait("step", [failed, never()]) is None
    assert limits.of("step") == FIRST_CALL_S
