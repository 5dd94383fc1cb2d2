"""Stop at SIGINT and SIGTERM: a command ends its work, and closes what it has started."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine
from typing import TypeVar

from configs.contracts.errors import StoppedError

Result = TypeVar("Result")


def call_on_signals(stop: Callable[[str], object]) -> None:
    """Call `stop("SIGTERM")` or `stop("SIGINT")` at each such signal, in the running event loop, until that loop is closed.

    Outside the main thread this does nothing: Python delivers signals to the main thread alone, whose owner decides what they do.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)


def run_until_stopped(work: Coroutine[object, object, Result], consequence: str) -> Result:
    """Run `work` in an event loop of its own; SIGINT and SIGTERM cancel it, and its `finally` blocks still run.

    Args:
        consequence: ends the error: what became of the work, and how to go on.

    Raises:
        StoppedError: a signal ended the work.
    """

    async def main() -> Result:
        task = asyncio.ensure_future(work)
        call_on_signals(lambda _name: task.cancel())
        try:
            return await task
        except asyncio.CancelledError:
            raise StoppedError(f"stopped by a signal: {consequence}") from None

    return asyncio.run(main())
