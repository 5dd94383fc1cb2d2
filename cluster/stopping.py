"""Stop at SIGINT, SIGTERM and SIGHUP: a command ends its work, closes what it has started, and ends with 128 + the signal's number."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from configs.contracts.errors import StoppedError

Result = TypeVar("Result")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPED_BY = "stopped by "
"""Start of the exit reason of a run that a signal stopped, such as `stopped by SIGTERM`."""


WAKE_UP_S = 0.2
"""How often a main thread that waits for another looks for signals."""


class EndedBySignal(SystemExit):
    """A signal came while nothing ran that could end in order: the command unwinds, and closes what it has started."""

    def __init__(self, name: str) -> None:
        super().__init__(exit_code_of(STOPPED_BY + name))
        self.name = name

    def __str__(self) -> str:
        return STOPPED_BY + self.name


def exit_code_of(exit_reason: str) -> int:
    """The exit code of a command whose work ended for this reason: 130, 143 or 129 after a signal, else 0.

    Example: `exit_code_of("stopped by SIGTERM") == 143`.
    """
    name = exit_reason.removeprefix(STOPPED_BY)
    return 128 + signal.Signals[name] if name in [each.name for each in SIGNALS] else 0


@contextmanager
def on_signals(act: Callable[[str], object]) -> Iterator[None]:
    """Call `act("SIGTERM")`, and so on, at each signal; afterwards signals do again what they did before.

    A SIGHUP that this process was started to ignore, as by nohup, stays ignored. Python delivers signals to the main thread alone: in another
    thread this hears those that `in_thread` passes on, or else none.
    """
    if threading.current_thread() is not threading.main_thread():
        with _relay_of_thread().listening(act):
            yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        act(signal.Signals(number).name)

    heard = [each for each in SIGNALS if each != signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, handle) for each in heard}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)


@contextmanager
def in_loop_on_signals(act: Callable[[str], object]) -> Iterator[None]:
    """As `on_signals`, with `act` called in the running event loop, between two of its steps."""
    loop = asyncio.get_running_loop()
    with on_signals(lambda name: loop.call_soon_threadsafe(act, name)):
        yield


@contextmanager
def unwinding_on_signals() -> Iterator[None]:
    """End the command at a signal, wherever it is: `finally` blocks run, and the exit code names the signal.

    Raises:
        EndedBySignal: a signal came.
    """

    def end(name: str) -> None:
        raise EndedBySignal(name)

    with on_signals(end):
        yield


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let a signal take effect only at the end of what runs here, which would leave processes behind if it were cut short.

    Processes started meanwhile do not hear SIGHUP: a terminal that closes sends it to all of them, and they must outlive the last checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[signal.Signals] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
    try:
        with on_signals(lambda name: held.append(signal.Signals[name])):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    for number in held:
        signal.raise_signal(number)


class _SignalRelay:
    """Passes signals on to the work of another thread. A signal that comes while nothing listens waits for the next listener."""

    def __init__(self) -> None:
        self._acts: list[Callable[[str], object]] = []
        self._waiting: list[str] = []

    def send(self, name: str) -> None:
        """Tell the innermost listener. Raises KeyboardInterrupt at a second signal for which nothing listens: the caller waits no longer."""
        if self._acts:
            self._acts[-1](name)
        elif self._waiting:
            raise KeyboardInterrupt
        else:
            self._waiting.append(name)

    @contextmanager
    def listening(self, act: Callable[[str], object]) -> Iterator[None]:
        self._acts.append(act)
        while self._waiting:
            act(self._waiting.pop())
        try:
            yield
        finally:
            self._acts.pop()


_THREAD = threading.local()


def _relay_of_thread() -> _SignalRelay:
    if "relay" not in vars(_THREAD):
        _THREAD.relay = _SignalRelay()
    return _THREAD.relay


def in_thread(work: Callable[[], Result]) -> Result:
    """Call `work` in a thread of its own, and wait for it. Signals that come meanwhile reach it as if it were in the main thread.

    Raises:
        KeyboardInterrupt: a second signal came while `work` was doing nothing that a signal can end.
    """
    found: Future[Result] = Future()
    relay = _SignalRelay()

    def run() -> None:
        _THREAD.relay = relay
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    with on_signals(relay.send):
        threading.Thread(target=run, name="rollcast", daemon=True).start()
        while not found.done():  # a signal that the kernel gave to another thread is handled when this one wakes up
            wait([found], timeout=WAKE_UP_S)
        return found.result()


def _leave_terminal() -> None:
    """Write to nowhere what would go to the terminal, which is gone: writing to it would be an error in the middle of the last checkpoint."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):
            os.dup2(nowhere, stream)
    os.close(nowhere)


def run_until_stopped(work: Coroutine[object, object, Result], consequence: str) -> Result:
    """Run `work` in an event loop of its own; a signal cancels it, and its `finally` blocks still run.

    Args:
        consequence: ends the error: what became of the work, and how to go on.

    Raises:
        StoppedError: a signal ended the work.
    """
    received: list[str] = []

    async def main() -> Result:
        task = asyncio.ensure_future(work)

        def stop(name: str) -> None:
            received.append(name)
            task.cancel()

        with in_loop_on_signals(stop):
            try:
                return await task
            except asyncio.CancelledError:
                raise stopped(received[0] if received else "", consequence) from None

    return asyncio.run(main())


def stopped(name: str, consequence: str) -> StoppedError:
    """The error for work that a signal ended, with the exit code of that signal."""
    reason = STOPPED_BY + (name or "cancellation")
    error = StoppedError(f"{reason}: {consequence}")
    error.exit_code = exit_code_of(reason) or StoppedError.exit_code
    return error
