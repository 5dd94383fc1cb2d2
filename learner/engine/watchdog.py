"""A bound on every call to the ranks, so that no run waits for ever.

Two signs say that a call hangs:

    a rank is stopped (SIGSTOP, a debugger) for `learner.process_group_timeout_s`     found soon, whatever the call
    the call takes longer than its limit                                              a deadlock, a lost connection, a dead disk

The limit follows from what was measured: a call may take `FACTOR` times the slowest one of its kind so far, and at least `FLOOR_S`. The first of a
kind has `FIRST_CALL_S`, since kernels are compiled, and models loaded, in it:

    step 1: 3600 s       it took 70 s ─► step 2: 700 s       it took 20 s ─► step 3: 700 s
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

FACTOR = 10.0
FLOOR_S = 300.0
FIRST_CALL_S = 3600.0

Result = TypeVar("Result")

STEP = "step"
"""Name of the call that `learner.step_timeout_s` bounds."""


@dataclass
class CallLimits:
    """The longest time that a call may take, by its name. Limits are of one group: another one compiles anew."""

    step_timeout_s: float | Literal["auto"] = "auto"
    _slowest_s: dict[str, float] = field(default_factory=dict)

    def of(self, call: str) -> float:
        """Seconds that the next call of this name may take."""
        slowest_s = self._slowest_s.get(call)
        if call == STEP and self.step_timeout_s != "auto":
            return self.step_timeout_s if slowest_s is not None else max(self.step_timeout_s, FIRST_CALL_S)
        return FIRST_CALL_S if slowest_s is None else max(FLOOR_S, FACTOR * slowest_s)

    def took(self, call: str, seconds: float) -> None:
        """Learn from a call that succeeded."""
        self._slowest_s[call] = max(seconds, self._slowest_s.get(call, 0.0))


@dataclass(frozen=True, slots=True)
class Hang:
    """The reason for giving up a call, and the ranks to blame."""

    ranks: tuple[int, ...]
    reason: str

    @property
    def role(self) -> str:
        """The ranks, for people: `learner rank 1`, `learner ranks 0, 1`."""
        return f"learner rank{'s' if len(self.ranks) > 1 else ''} {', '.join(map(str, self.ranks))}"


@dataclass
class Watchdog:
    """Waits for a call to the ranks, as long as it may take.

    Args:
        stopped_timeout_s: time for which a rank may be stopped.
        stopped_ranks: finds the ranks that are stopped at this moment.
    """

    limits: CallLimits
    stopped_timeout_s: float
    stopped_ranks: Callable[[], Awaitable[set[int]]]

    async def wait(self, call: str, futures: Sequence[asyncio.Future[Result]]) -> Hang | None:
        """Wait until every rank has answered or one has failed. Returns a Hang where neither happens in time."""
        began, limit_s = time.monotonic(), self.limits.of(call)
        answered = asyncio.ensure_future(asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION))
        watching = asyncio.ensure_future(self._until_stopped(call))
        try:
            done, _ = await asyncio.wait({answered, watching}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            answered.cancel()
            watching.cancel()
        if answered in done:
            if all(future.done() and not future.exception() for future in futures):
                self.limits.took(call, time.monotonic() - began)
            return None
        if watching in done:
            return watching.result()
        setting = " (learner.step_timeout_s)" if call == STEP else ""
        silent = tuple(rank for rank, future in enumerate(futures) if not future.done())
        return Hang(silent, f"no answer to the call {call!r} for {limit_s:g} s{setting}")

    async def _until_stopped(self, call: str) -> Hang:
        """Return when some rank has been stopped for too long."""
        since_s: dict[int, float] = {}
        while True:
            await asyncio.sleep(self.stopped_timeout_s / 4)
            now, stopped = time.monotonic(), await self.stopped_ranks()
            since_s = {rank: since_s.get(rank, now) for rank in stopped}
            long = sorted(rank for rank, first_s in since_s.items() if time.monotonic() - first_s >= self.stopped_timeout_s)
            if long:
                return Hang(
                    tuple(long),
                    f"the process was stopped for {self.stopped_timeout_s:g} s (learner.process_group_timeout_s) in the call {call!r}, as by SIGSTOP",
                )
