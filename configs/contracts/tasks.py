"""Awaiting several things at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

Result = TypeVar("Result")


async def gather_or_cancel(awaitables: Iterable[Awaitable[Result]]) -> list[Result]:
    """Await all at once and return their results in order; when one fails, the others are cancelled and none is left running.

    Raises:
        BaseException: the first failure.
    """
    tasks = [asyncio.ensure_future(awaitable) for awaitable in awaitables]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
