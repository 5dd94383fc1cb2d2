"""Graders under attack. What is protected:

1. A misbehaving reward costs its own step only: the rest of the group, and the next group, score as ever.
2. It gets the outcome that says what happened, and never a number.
3. A killed grader is replaced within a second.
4. Nothing that a reward started is alive after its group, after `close`, or after the process that holds the graders is killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import RewardError
from rewards.convention.group_input import GroupInput
from rewards.grading.calling import GradeReport
from rewards.grading.graders import Graders
from tests import REPOSITORY

ATTACKS = REPOSITORY / "tests" / "rewards" / "attacks.py"
HANG_TIMEOUT_S = 1.0
"""Deadline in tests of hangs: well over the milliseconds that a sound completion takes, on a busy machine too."""

REPLACED_WITHIN_S = 3.0
"""A second is promised and a fork takes about 0.02 s; the rest is for a machine that runs other tests on the same cores."""


def group(*texts: str, **columns: Any) -> GroupInput:
    return GroupInput("2+2?", list(texts), [[1]] * len(texts), columns, 0)


def with_graders(
    *rewards: str | tuple[str, dict[str, Any]], act: Callable[[Graders], Awaitable[Any]], count: int = 1, **limits: Any
) -> Any:
    """Run `act` on graders of these rewards, and check that closing them leaves nothing."""

    async def main() -> Any:
        specs = [(reward, {}) if isinstance(reward, str) else reward for reward in rewards]
        settings = {"timeout_s": 20.0, "memory_limit_bytes": 4 << 30} | limits
        graders = await Graders.start(specs, count=count, cwd=REPOSITORY, **settings)
        (session,) = graders.pids()
        try:
            return await act(graders)
        finally:
            await graders.close()
            assert descendants(session) == []

    return asyncio.run(main())


def descendants(warden: int) -> list[int]:
    """Processes of the warden's session and those below it. (A daemon's own session shows by its parents.)"""
    parents: dict[int, tuple[int, int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent, _, session = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if state != "Z":
            parents[int(name)] = (int(parent), int(session))
    found = {pid for pid, (parent, session) in parents.items() if warden in (pid, parent, session)}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


async def settled(graders: Graders, warden: int, count: int = 1) -> float:
    """Seconds until nothing but the warden and its graders is left, and all graders are ready."""
    started_s = time.monotonic()
    while len(descendants(warden)) != 1 + count or graders._idle.qsize() != count:
        assert time.monotonic() - started_s < 10, descendants(warden)
        await asyncio.sleep(0.01)
    return time.monotonic() - started_s


@pytest.mark.parametrize(
    ("attack", "outcome", "says"),
    [
        ("hang", "timeout", "no answer within 2 s"),
        ("gil_hang", "timeout", "no answer within 2 s"),
        ("deaf", "timeout", "no answer within 2 s"),
        ("daemon_and_hang", "timeout", "no answer within 2 s"),
        ("exit_now", "crashed", "exited with code 3; its last output:\nlast words"),
        ("segfault", "crashed", "ended by SIGSEGV"),
        ("sys_exit", "crashed", "SystemExit"),
        ("raise_error", "crashed", "no such thing"),
        ("allocate", "crashed", "MemoryError"),
        ("wrong_length", "invalid", "3 values for 2 completions"),
        ("unpicklable", "invalid", "value 0 is <function"),
        ("text", "invalid", "value 0 is '1.0'"),
        ("forged_keys", "crashed", "wrote into its channel what is no answer of a grader"),
        ("forged_types", "crashed", "no answer of a grader"),
        ("forged_length", "crashed", "an answer to nothing that was asked"),
        ("forged_end", "crashed", "an answer to nothing that was asked"),
        ("forged_text", "crashed", "no answer of a grader ('hello')"),
        ("forged_nesting", "crashed", "no answer of a grader"),
        ("forged_step", "crashed", "an answer to nothing that was asked"),
        ("forged_answer", "crashed", "no answer of a grader"),
        ("forged_key", "crashed", "no answer of a grader"),
    ],
)
def test_an_attack_costs_its_own_reward_and_group(attack: str, outcome: str, says: str) -> None:
    async def act(graders: Graders) -> None:
        reports = await graders.grade(group("attack", "b"))
        assert [report.outcomes for report in reports] == [["scored"] * 2, [outcome] * 2, ["scored"] * 2]
        assert reports[1].values == [None, None]
        assert says in reports[1].error
        assert await settled(graders, graders.pids()[0]) < REPLACED_WITHIN_S
        again = await graders.grade(group("fine", "b"))
        assert [report.outcomes for report in again] == [["scored"] * 2] * 3
        assert again[1].values == [1.0, 1.0]

    with_graders("tag_count", f"{ATTACKS}:{attack}", "format", act=act, timeout_s=HANG_TIMEOUT_S if outcome == "timeout" else 20.0)


def test_a_program_that_a_reward_starts_has_no_channel() -> None:
    async def act(graders: Graders) -> list[float | None]:
        return (await graders.grade(group("attack", "b")))[0].values

    assert with_graders(f"{ATTACKS}:spawn", act=act) == [1.0, 1.0]


def test_a_module_that_writes_into_the_channel_when_imported_is_refused(tmp_path: Path) -> None:
    forged = b'{"loaded": [[false, true]], "needs": [[]], "reads": [[]]}'
    (tmp_path / "forging.py").write_text(
        f"from tests.rewards.attacks import into_the_channel\ninto_the_channel({forged!r})\ndef f(x, /): ...\n"
    )

    async def act(graders: Graders) -> None:
        pytest.fail("started")

    with pytest.raises(RewardError, match="spoiled the grader: .*no answer of a grader"):
        with_graders(f"{tmp_path / 'forging.py'}:f", act=act)


def test_a_single_value_that_is_nan_is_invalid_alone() -> None:
    async def act(graders: Graders) -> GradeReport:
        return (await graders.grade(group("attack", "b")))[0]

    report = with_graders(f"{ATTACKS}:nan", act=act)
    assert (report.values, report.outcomes) == ([None, 1.0], ["invalid", "scored"])


@pytest.mark.parametrize("attack", ["daemon", "orphan", "return_twice"])
def test_processes_left_behind_are_ended_after_the_group(attack: str) -> None:
    async def act(graders: Graders) -> None:
        (report,) = await graders.grade(group("attack", "b"))
        assert report.values == [1.0, 1.0]
        assert await settled(graders, graders.pids()[0]) < REPLACED_WITHIN_S

    with_graders(f"{ATTACKS}:{attack}", act=act)


def test_output_is_capped(capfd: pytest.CaptureFixture[str]) -> None:
    async def act(graders: Graders) -> None:
        for _ in range(2):
            assert (await graders.grade(group("attack", "b")))[0].values == [1.0, 1.0]

    with_graders(f"{ATTACKS}:print_much", act=act)
    printed = capfd.readouterr().out
    assert printed.count("the rest of its output for this group is dropped") == 2
    assert 2 * 65_536 <= len(printed) <= 2 * 65_536 + 400


@pytest.mark.parametrize("box", ["\\sum_{k=1}^{10^{9}} k^{k}", "\\prod_{k=1}^{10^9} k", "(1+x)^{99999}"])
def test_a_box_that_freezes_sympy_costs_one_completion(box: str) -> None:
    """Also the case where math-verify answers in time, as it may learn to: then the completion is simply wrong."""

    async def act(graders: Graders) -> None:
        texts = ["\\boxed{4}", f"\\boxed{{{box}}}", "\\boxed{5}", "\\boxed{4}"]
        accuracy, form = await graders.grade(group(*texts, solution="4"))
        assert accuracy.values in ([1.0, None, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0])
        assert accuracy.outcomes[1] in ("timeout", "scored")
        assert form.outcomes == ["scored"] * 4
        if box.startswith("\\sum"):
            assert accuracy.outcomes[1] == "timeout"
            assert graders.replaced == 1

    with_graders("accuracy", "format", act=act, timeout_s=HANG_TIMEOUT_S)


def test_hangs_of_one_group_do_not_hold_up_another() -> None:
    async def act(graders: Graders) -> float:
        stuck = asyncio.ensure_future(graders.grade(group("attack", *["b"] * 3)))
        await asyncio.sleep(0.05)
        started_s = time.monotonic()
        await graders.grade(group("fine"))
        waited_s = time.monotonic() - started_s
        assert not stuck.done()
        assert (await stuck)[0].outcomes == ["timeout"] * 4
        return waited_s

    assert with_graders(f"{ATTACKS}:very_slow", act=act, count=2, timeout_s=HANG_TIMEOUT_S) < 4 * HANG_TIMEOUT_S


def test_a_cancelled_group_frees_its_grader() -> None:
    async def act(graders: Graders) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await graders.grade(group("attack", *["b"] * 99))
        assert (await graders.grade(group("fine")))[0].values == [1.0]

    with_graders(f"{ATTACKS}:very_slow", act=act)


def test_a_grader_killed_while_idle_costs_nothing() -> None:
    async def act(graders: Graders) -> None:
        (warden,) = graders.pids()
        (grader,) = set(descendants(warden)) - {warden}
        os.kill(grader, signal.SIGKILL)
        await asyncio.sleep(0.2)
        assert (await graders.grade(group("fine")))[0].outcomes == ["scored"]
        assert graders.replaced == 1

    with_graders("tag_count", act=act)


def test_token_ids_and_relative_paths_reach_a_users_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def f(completions, completion_ids, log_metric):\n    log_metric('n', 2)\n    return [sum(t) for t in completion_ids]\n"
    )

    async def act(graders: Graders) -> GradeReport:
        assert graders.need_token_ids
        return (await graders.grade(group("a", "b")))[0]

    async def main() -> GradeReport:
        graders = await Graders.start([("mine.py:f", {})], count=1, timeout_s=5, memory_limit_bytes=1 << 30, cwd=tmp_path)
        try:
            return await act(graders)
        finally:
            await graders.close()

    report = asyncio.run(main())
    assert (report.values, report.metrics) == ([1.0, 1.0], {"n": [2.0]})


TOKEN_REWARDS = (
    ("length", {"unit": "tokens"}),
    ("cosine", {"unit": "tokens", "max_len": 4}),
    ("repetition_penalty", {"language": "tokens", "ngram_size": 1}),
    ("fluency", {"language": "tokens", "ngram_size": 1}),
    ("soft_overlong_punishment", {"max_completion_len": 4, "soft_punish_cache": 4}),
)


def test_token_ids_reach_the_rewards_that_count_tokens() -> None:
    """The texts are equally long: only the token ids, of 0, 2 and 4 tokens, tell the completions apart."""

    async def act(graders: Graders) -> list[GradeReport]:
        assert graders.need_token_ids
        return await graders.grade(GroupInput("2+2?", ["\\boxed{4}"] * 3, [[], [7, 7], [7, 8, 7, 8]], {"solution": "4"}, 0))

    values = [report.values for report in with_graders("format", *TOKEN_REWARDS, act=act)]
    assert values[0] == [0.0, 0.0, 0.0]
    assert values[1] == [0.5, 0.0, -0.5]
    assert values[2] == pytest.approx([1.0, 0.75, 0.5])
    assert values[3:] == [[0.0, -0.5, -0.5], [1.0, 0.5, 0.5], [0.0, -0.5, -1.0]]


def test_token_ids_are_not_asked_for_by_rewards_over_text() -> None:
    names = ("reasoning_accuracy", "length", "cosine", "reasoning_steps", "code_format", "repetition_penalty")

    async def act(graders: Graders) -> list[GradeReport]:
        assert not graders.need_token_ids
        return await graders.grade(GroupInput("2+2?", ["\\boxed{4}", "a a a a"], [], {"solution": "4"}, 0))

    reports = with_graders(*names, ("fluency", {"language": "zh"}), act=act)
    assert all(None not in report.values and not report.error for report in reports)
    assert reports[1].values == [-0.5, 0.0], "nine characters and right, seven and wrong"


@pytest.mark.parametrize(("reward", "library"), [(("cosine", {}), "math_verify"), (("fluency", {"language": "zh"}), "jieba")])
def test_the_warden_has_loaded_what_graders_need(reward: tuple[str, dict[str, Any]], library: str, tmp_path: Path) -> None:
    """So that a grader that replaces another has it too, at once."""
    (tmp_path / "loaded.py").write_text("import sys\ndef f(completions, name):\n    return [float(n in sys.modules) for n in name]\n")

    async def act(graders: Graders) -> list[GradeReport]:
        return await graders.grade(group("a", name=library, solution="4"))

    assert with_graders(f"{tmp_path / 'loaded.py'}:f", reward, act=act)[0].values == [1.0]
    assert with_graders(f"{tmp_path / 'loaded.py'}:f", "format", act=act)[0].values == [0.0]


def test_a_killed_warden_is_an_error_and_no_crash_of_the_rewards() -> None:
    async def act(graders: Graders) -> None:
        hanging = [asyncio.ensure_future(graders.grade(group("attack"))) for _ in range(2)]  # one waits for the only grader
        await asyncio.sleep(0.2)
        os.kill(graders.pids()[0], signal.SIGKILL)
        for grading in hanging:
            with pytest.raises(RewardError, match="the warden, which starts the graders, was killed from outside"):
                await grading
        with pytest.raises(RewardError, match="was killed from outside"):
            await graders.grade(group("a"))
        while descendants(graders.pids()[0]):  # the kernel kills the grader
            await asyncio.sleep(0.02)

    with_graders(f"{ATTACKS}:very_slow", act=act, timeout_s=600.0)


ORPHANING = """
import asyncio, sys
from pathlib import Path
from rewards.convention.group_input import GroupInput
from rewards.grading.graders import Graders
async def main():
    graders = await Graders.start([(sys.argv[1], {})], count=2, timeout_s=600, memory_limit_bytes=4 << 30, cwd=Path.cwd())
    print(*graders.pids(), flush=True)
    await graders.grade(GroupInput("p", ["attack"], [[1]], {}, 0))
asyncio.run(main())
"""


def test_nothing_survives_a_killed_holder() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", ORPHANING, f"{ATTACKS}:daemon_and_hang"], stdout=subprocess.PIPE, cwd=REPOSITORY, start_new_session=True
    )
    assert holder.stdout is not None
    warden = int(holder.stdout.readline())
    while len(all_below := descendants(warden)) < 5:  # the warden, two graders, two daemons
        time.sleep(0.02)
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    deadline_s = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in all_below):
        assert time.monotonic() < deadline_s, all_below
        time.sleep(0.02)


def test_throughput_of_short_integer_answers() -> None:
    """2,000 completions a second and core are asked for; a tenth of it here, so that a busy machine does not fail the test."""

    async def act(graders: Graders) -> float:
        started_s = time.monotonic()
        for index in range(100):
            texts = [f"<think>\n{index}\n</think>\n<answer>\n{index + delta}\n</answer>" for delta in range(8)]
            accuracy, _ = await graders.grade(group(*texts, solution=str(index)))
            assert accuracy.values == [1.0] + [0.0] * 7
        return 800 / (time.monotonic() - started_s)

    assert with_graders(("accuracy", {"answer_style": "answer_tag"}), "tag_count", act=act, timeout_s=5.0) > 200
