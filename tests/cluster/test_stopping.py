"""Signals end a command's work in the main thread, and are left alone in every other."""

import asyncio
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.stopping import call_on_signals, run_until_stopped
from configs.contracts.errors import StoppedError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_work_which_closes_what_it_started(number: signal.Signals) -> None:
    closed = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    with pytest.raises(StoppedError, match="stopped by a signal: nothing was written"):
        run_until_stopped(work(), "nothing was written")
    assert closed == [True]


def test_each_signal_is_passed_on_by_name() -> None:
    async def work() -> list[str]:
        names: list[str] = []
        call_on_signals(names.append)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)
        return names

    assert asyncio.run(work()) == ["SIGTERM", "SIGINT", "SIGTERM"]


def test_a_thread_beside_the_main_one_runs_the_work_without_handlers() -> None:
    async def work() -> int:
        return 7

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(run_until_stopped, work(), "").result(timeout=60) == 7
    assert signal.getsignal(signal.SIGTERM) is before
