"""Rewards that are objects of the user's process: written to a file, and loaded by graders that share nothing with it."""

from __future__ import annotations

import asyncio
import functools
import importlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import ConfigError
from configs.schema.rewards import RewardsSection
from rewards import load, validate
from rewards.convention.group_input import GroupInput
from rewards.functions.pickled import name_of, write_reward
from rewards.grading.graders import Graders
from tests import REPOSITORY


def graded(name: str, *texts: str, **params: Any) -> list[float | None]:
    """The values that a grader process gives, which shares no memory with this one."""

    async def main() -> list[float | None]:
        graders = await Graders.start([(name, params)], count=1, timeout_s=20.0, memory_limit_bytes=4 << 30, cwd=REPOSITORY)
        try:
            (report,) = await graders.grade(GroupInput("p", list(texts), [[]] * len(texts), {}, 0))
        finally:
            await graders.close()
        assert not report.error
        return report.values

    return asyncio.run(main())


class Scaled:
    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [self.factor * len(completion) for completion in completions]


def test_a_closure_reaches_a_grader_by_value(tmp_path: Path) -> None:
    bonus = 10.0

    def with_bonus(completions: list[str], **_: Any) -> list[float]:
        return [len(completion) + bonus for completion in completions]

    name = write_reward(with_bonus, tmp_path / "rewards")
    assert name == f"{tmp_path}/rewards/with_bonus.pkl:with_bonus"
    section = RewardsSection.model_validate({"functions": [name]})
    assert [spec.label for spec in section.functions] == ["with_bonus"]
    validate(section)
    assert load(name)(completions=["ab"]) == [12.0]
    assert graded(name, "ab", "c") == [12.0, 11.0]


def test_classes_instances_partials_and_lambdas(tmp_path: Path) -> None:
    assert graded(write_reward(Scaled, tmp_path), "ab", factor=2.0) == [4.0]
    assert graded(write_reward(Scaled(3.0), tmp_path), "ab") == [6.0]
    assert graded(write_reward(functools.partial(Scaled.__call__, Scaled(4.0)), tmp_path, "bound"), "ab") == [8.0]
    assert graded(write_reward(lambda completions: [1.0] * len(completions), tmp_path), "ab") == [1.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Scaled.pkl", "bound.pkl", "lambda.pkl"]


def test_a_function_of_a_module_that_no_grader_can_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module that defines it is pickled too, with the functions and constants that it uses."""
    (tmp_path / "only_here_x.py").write_text(
        "BONUS = 5.0\ndef length(completions): return [each(c) for c in completions]\ndef each(c): return len(c) + BONUS\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("only_here_x")
    name = write_reward(module.length, tmp_path / "rewards")
    code = f"import sys, rewards; assert {str(tmp_path)!r} not in sys.path; print(rewards.functions.registry.load({name!r})(completions=['ab']))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert printed == "[7.0]\n"


def test_what_cannot_be_pickled_is_refused_with_its_name(tmp_path: Path) -> None:
    lock = threading.Lock()

    def guarded(completions: list[str]) -> list[float]:
        with lock:
            return [0.0] * len(completions)

    with pytest.raises(ConfigError, match=r"reward guarded cannot be sent to the graders.*lock.*path/to/file\.py:function"):
        write_reward(guarded, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_missing_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match=r"reward file nowhere\.pkl is not there"):
        validate(RewardsSection.model_validate({"functions": ["nowhere.pkl:f"]}))


def test_names() -> None:
    assert [name_of(each) for each in (Scaled, Scaled(), functools.partial(graded), lambda: None)] == [
        "Scaled",
        "Scaled",
        "graded",
        "lambda",
    ]
