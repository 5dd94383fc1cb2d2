"""A function in a process of its own: its result, its reports, its errors, and its sudden end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.models.own_process import ProcessEndedError, call_in_process
from configs.contracts.errors import ConfigError


def double(number: int, progress: Callable[..., None]) -> int:
    print(f"{number} is doubled")
    progress("half done", 0.5)
    return 2 * number


def refuse(_progress: Callable[..., None]) -> None:
    raise ConfigError("that cannot be")


def fail(_progress: Callable[..., None]) -> None:
    raise ValueError("a fault of the function")


def die(_progress: Callable[..., None]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_it_returns_and_reports(tmp_path: Path) -> None:
    reports: list[tuple[object, ...]] = []
    assert call_in_process(double, 21, log=tmp_path / "log", progress=lambda *word: reports.append(word)) == 42
    assert reports == [("half done", 0.5)] and "21 is doubled" in (tmp_path / "log").read_text()


def test_an_error_of_ours_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="that cannot be"):
        call_in_process(refuse, log=tmp_path / "log")


@pytest.mark.parametrize(("function", "exitcode", "logged"), [(fail, 1, "a fault of the function"), (die, -signal.SIGKILL, "")])
def test_any_other_end_has_its_exit_code(function: Callable[..., None], exitcode: int, logged: str, tmp_path: Path) -> None:
    with pytest.raises(ProcessEndedError) as caught:
        call_in_process(function, log=tmp_path / "log")
    assert caught.value.exitcode == exitcode and logged in (tmp_path / "log").read_text()
