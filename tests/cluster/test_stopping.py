"""Signals end a command's work in the main thread, with an exit code of their own, and are left alone in every other."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.stopping import (
    SIGNALS,
    EndedBySignal,
    exit_code_of,
    in_loop_on_signals,
    in_thread,
    on_signals,
    run_until_stopped,
    signals_held_back,
    unwinding_on_signals,
)
from configs.contracts.errors import StoppedError
from tests import REPOSITORY


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_cancels_the_work_which_closes_what_it_started(number: signal.Signals, code: int) -> None:
    closed = []

    async def work() -> None:
        try:
            os.kill(os.getpid(), number)
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=f"stopped by {number.name}: nothing was written") as caught:
        run_until_stopped(work(), "nothing was written")
    assert closed == [True]
    assert caught.value.exit_code == exit_code_of(f"stopped by {number.name}") == code
    assert signal.getsignal(number) is before


def test_only_signals_have_codes_of_their_own() -> None:
    assert [exit_code_of(reason) for reason in ("finished", "data exhausted", "stopped by my_callback", "failed: x")] == [0] * 4


def test_each_signal_is_passed_on_by_name() -> None:
    async def work() -> list[str]:
        names: list[str] = []
        with in_loop_on_signals(names.append):
            for number in (signal.SIGTERM, *SIGNALS):
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.05)
        return names

    assert asyncio.run(work()) == ["SIGTERM", "SIGINT", "SIGTERM", "SIGHUP"]


def test_a_signal_wakes_a_loop_that_waits() -> None:
    command = "import asyncio, cluster.stopping as s\nprint('ready', flush=True)\ns.run_until_stopped(asyncio.sleep(600), 'x')"
    with subprocess.Popen(
        [sys.executable, "-c", command], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)  # one that comes before the handler ends it too, but says nothing
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                continue
        assert process.returncode == -signal.SIGTERM or "stopped by SIGTERM: x" in process.stderr.read()


@pytest.mark.parametrize("number", SIGNALS)
def test_outside_a_loop_a_signal_unwinds_the_command(number: signal.Signals) -> None:
    closed = []
    with pytest.raises(EndedBySignal, match=f"stopped by {number.name}") as caught, unwinding_on_signals():
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("it went on")
        finally:
            closed.append(True)
    assert closed and caught.value.code == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_a_start_is_not_cut_short_and_what_it_starts_does_not_hear_the_terminal_close(number: signal.Signals) -> None:
    started = []
    with pytest.raises(EndedBySignal), unwinding_on_signals():
        with signals_held_back():
            os.kill(os.getpid(), number)
            started.append(subprocess.Popen(["sleep", "600"]))
        raise AssertionError("it went on")
    (child,) = started
    child.send_signal(signal.SIGHUP)
    time.sleep(0.1)
    assert child.poll() is None
    child.terminate()
    assert child.wait(10) == -signal.SIGTERM


HANGUP = """
import os, signal, sys
from cluster.stopping import on_signals
names = []
with on_signals(names.append):
    print("ready", flush=True)
    while not names:
        signal.pause()
    print("the terminal is gone", flush=True)
open(sys.argv[1], "w").write(names[0])
"""


def test_a_closed_terminal_is_no_error_for_what_is_said_afterwards(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{HANGUP}", tmp_path / "name"],
        cwd=REPOSITORY, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    assert os.read(master, 5) == b"ready"
    os.close(master)
    assert process.wait(30) == 0
    assert (tmp_path / "name").read_text() == "SIGHUP"


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with unwinding_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_beside_the_main_one_runs_the_work_without_handlers() -> None:
    async def work() -> int:
        return 7

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(run_until_stopped, work(), "").result(timeout=60) == 7
    assert signal.getsignal(signal.SIGTERM) is before


async def test_a_signal_reaches_the_work_of_another_thread() -> None:
    """As in a notebook, whose main thread has an event loop: an evaluation is ended there, in order."""
    ended: list[str] = []

    async def work() -> None:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("in order")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(StoppedError, match="stopped by SIGINT: nothing is left"):
        in_thread(lambda: run_until_stopped(work(), "nothing is left"))
    assert ended == ["in order"] and signal.getsignal(signal.SIGINT) is before


def test_an_early_signal_waits_for_the_work_that_can_end() -> None:
    heard: list[str] = []

    def work() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
        time.sleep(0.2)
        with on_signals(heard.append):
            pass

    in_thread(work)
    assert heard == ["SIGTERM"]
