"""Rewards called outside a run: what hangs gets None in time, and no process stays behind."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import ConfigError, RewardError
from configs.schema.rewards import RewardsSection
from rewards import load
from rewards.functions.math_answer import Accuracy
from rewards.grading import direct
from rewards.grading.direct import DirectReward
from tests import REPOSITORY

HUGE = "9" * 100_000
ENDLESS = "\\sum_{k=1}^{10^{9}} k^{k}"
TIMEOUT_S = 1.0


@pytest.fixture(autouse=True, scope="module")
def ended() -> Iterator[None]:
    yield
    direct._GRADER.close()


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5", "\\boxed{10^{10^{10}}}"),
        ("10^{10^{10}}", "\\boxed{5}"),
        ("9^{9^{9^9}}", "\\boxed{9^{9^{9^9}}+1}"),
        ("5", "\\boxed{9^{9^{9^9}}}"),
        ("5", "\\boxed{1000000000!}"),
        ("(10^{10})^{10^{10}}", "\\boxed{5}"),
        ("5", f"\\boxed{{{ENDLESS}}}"),
        (ENDLESS, "\\boxed{5}"),
    ],
)
def test_what_would_never_end_gets_none_in_time(gold: str, answer: str) -> None:
    reward = load("accuracy", grading_timeout_s=TIMEOUT_S)
    reward(completions=["\\boxed{5}"], solution=["5"])  # starts the grader
    started_s = time.monotonic()
    values = reward(completions=["\\boxed{1}", answer, "\\boxed{2}"], solution=["1", gold, "2"])
    assert (values[0], values[2]) == (1.0, 1.0)
    assert values[1] in (None, 0.0)
    assert time.monotonic() - started_s < 20


@pytest.mark.parametrize(("gold", "answer"), [("\\frac{1}{0}", "\\boxed{5}"), ("5", "\\boxed{\\frac{1}{0}}"), (HUGE, f"\\boxed{{{HUGE}}}")])
def test_odd_golds_come_back(gold: str, answer: str) -> None:
    started_s = time.monotonic()
    values = load("accuracy", grading_timeout_s=TIMEOUT_S)(completions=[answer], solution=[gold])
    assert values[0] in (None, 0.0, 1.0)
    assert time.monotonic() - started_s < 20


@pytest.mark.parametrize(
    "answer", ["10^{10^{10}}", "9^{9^{9^9}}", "(10^9)!", "2^{-10^{10}}", "\\binom{10^9}{10^8}", "10^{10^{10}}-10^{10^{10}}"]
)
def test_a_number_that_nobody_can_write_out_is_wrong_at_once(answer: str) -> None:
    reward = load("accuracy", grading_timeout_s=TIMEOUT_S)
    assert reward(completions=[f"\\boxed{{{answer}}}", f"\\boxed{{{answer}}}"], solution=["5", "5"]) == [0.0, 0.0]
    assert reward(completions=["\\boxed{5}", f"\\boxed{{{answer}}}"], solution=[answer, answer]) == [0.0, 1.0]


def test_a_hang_gives_none_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert load("accuracy", grading_timeout_s=TIMEOUT_S)(completions=[f"\\boxed{{{ENDLESS}}}"], solution=["5"]) == [None]
    assert "reward accuracy gave None to a completion: no answer within 1 s" in caplog.text


@pytest.mark.parametrize("name", ["reasoning_accuracy", "length", "cosine"])
def test_every_reward_with_a_gold_has_the_time_out(name: str) -> None:
    texts = [f"</think>\\boxed{{{ENDLESS}}}", "</think>\\boxed{5}"]
    values = load(name, grading_timeout_s=TIMEOUT_S)(completions=texts, solution=["5", "5"])
    assert values[0] is None and values[1] is not None


def test_the_default_time_out_is_that_of_a_run() -> None:
    load("accuracy")(completions=["\\boxed{5}"], solution=["5"])
    assert direct._GRADER._graders is not None
    assert direct._GRADER._graders.timeout_s == RewardsSection().timeout_s


def test_only_what_can_hang_is_sent_to_a_process() -> None:
    assert isinstance(load("accuracy"), DirectReward)
    assert not isinstance(load("format"), DirectReward)
    assert not isinstance(load("code"), DirectReward)


def test_the_pickle_is_the_bare_reward() -> None:
    """So that graders of a run, which unpickle it, do not start graders of their own."""
    reward = pickle.loads(pickle.dumps(load("accuracy", answer_style="auto")))
    assert type(reward) is Accuracy
    assert reward._style == "auto"


def test_a_running_event_loop_does_not_matter() -> None:
    async def cell() -> Any:
        return load("accuracy")(completions=["\\boxed{5}"], solution=["5"])

    assert asyncio.run(cell()) == [1.0]


def test_it_starts_again_after_its_processes_were_killed() -> None:
    reward = load("accuracy")
    assert reward(completions=["\\boxed{5}"], solution=["5"]) == [1.0]
    graders = direct._GRADER._graders
    assert graders is not None
    os.kill(graders.pids()[0], signal.SIGKILL)
    while not graders.lost.done():
        time.sleep(0.01)
    assert reward(completions=["\\boxed{5}"], solution=["5"]) == [1.0]


def test_a_wrong_row_is_an_error_and_not_none() -> None:
    with pytest.raises(RewardError, match="is a list, not text or a number"):
        load("accuracy")(completions=["\\boxed{5}"], solution=[["5"]])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def f(:\n", "mine.py, line 1: SyntaxError: .*; correct it there"),
        ("\nimport no_such_library\n", "mine.py, line 2: ModuleNotFoundError: .*no_such_library.*; install it, or set PYTHONPATH"),
        ("import json\n\njson.loads('[')\n", "mine.py, line 3: JSONDecodeError"),
        ("raise SystemExit(3)\n", "mine.py, line 1: SystemExit: 3"),
        (
            "class f:\n    def __init__(self, of):\n        of.x\n",
            "mine.py:f cannot be loaded: .*line 3: AttributeError: .*; correct it there",
        ),
        ("class f:\n    pass\n", "mine.py:f has no argument of .its arguments: none.; remove it from params"),
        (
            "class f:\n    def __init__(self, of, a): ...\n",
            "mine.py:f is a class and cannot be made without a; give it in .* params: {a: ...}",
        ),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(ConfigError, match=told):
        load(f"{tmp_path}/mine.py:f", of=1)


def test_a_reward_may_be_named_by_a_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(completions):\n    return [1.0 for _ in completions]\n")
    assert load(tmp_path / "mine.py:f")(completions=["a"]) == [1.0]
    with pytest.raises(ConfigError, match="names a file and no function; write .*mine.py:FUNCTION"):
        load(tmp_path / "mine.py")


def test_a_forked_process_starts_its_own() -> None:
    reward = load("accuracy")
    assert reward(completions=["\\boxed{5}"], solution=["5"]) == [1.0]
    fork = multiprocessing.get_context("fork")
    queue: Any = fork.SimpleQueue()
    child = fork.Process(target=lambda: (queue.put(reward(completions=["\\boxed{5}"], solution=["5"])), direct._GRADER.close()))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == [1.0]
    assert reward(completions=["\\boxed{5}"], solution=["5"]) == [1.0]


SCRIPT = """
import rewards
from rewards.grading import direct
print(rewards.load("accuracy")(completions=["\\\\boxed{5}"], solution=["5"]))
print(direct._GRADER._graders.pids()[0])
"""


def test_nothing_is_left_when_the_process_ends() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120)
    values, warden = run.stdout.split("\n")[:2]
    assert (values, run.stderr) == ("[1.0]", "")
    assert not Path(f"/proc/{warden}").exists()
