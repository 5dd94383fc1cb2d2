"""The error that a library printed is found in a log, behind its prefixes and before what followed from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.contracts.logs import last_exception

LOGS = {
    "a traceback": ("Traceback (most recent call last):\n  File 'x.py', line 1\nValueError: Head size 16 is not supported\n", 0),
    "a prefix of each line": ("(EngineCore pid=77) ERROR 11-28 09:00:00 [core.py:1] torch.OutOfMemoryError: CUDA out of memory\n", 1),
    "consequences after it": (
        "KeyError: 'model.layers'\nRuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.\nconfigs.contracts.errors.RolloutError: it died\n",
        2,
    ),
    "no exception": ("INFO Error handling is on\nloading: 3 of 7\n", 3),
}
FOUND = ("ValueError: Head size 16 is not supported", "torch.OutOfMemoryError: CUDA out of memory", "KeyError: 'model.layers'", "")


@pytest.mark.parametrize("name", LOGS)
def test_the_first_cause_is_found(tmp_path: Path, name: str) -> None:
    text, number = LOGS[name]
    (tmp_path / "log").write_text(text)
    assert last_exception(tmp_path / "log") == FOUND[number]


def test_a_log_that_is_not_there_names_nothing(tmp_path: Path) -> None:
    assert last_exception(tmp_path / "log") == ""
