"""The pool of reward workers on a real Ray. What is protected:

1. A group is scored, once, with the outcomes and counts that its rewards deserve.
2. A reward worker killed in the middle of a group is replaced and the group scored, up to the restart budget.
3. Rewards that fail too often, or at all under `on_error: fail`, end the run with the first traceback.
4. `close` leaves no process behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from configs.contracts.errors import ConfigError, RewardError
from configs.contracts.records import PromptId, RolloutGroup, Scores
from configs.schema.run import RunConfig
from rewards.pool import RewardPool, has_copy_here
from tests import REPOSITORY
from tests.rewards.groups import rollout_group, summary_of
from tests.rewards.services import Piston, Service

ATTACKS = REPOSITORY / "tests" / "rewards" / "attacks.py"

pytestmark = pytest.mark.usefixtures("ray_local")


def config(*functions: str | dict[str, Any], **settings: Any) -> RunConfig:
    rewards = {"functions": functions, "timeout_s": 5.0, "cpus_per_worker": 0.1, "graders_per_worker": 1} | settings
    return RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "rewards": rewards})


def with_pool(run: RunConfig, log_dir: Path, act: Callable[[RewardPool], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        pool = await RewardPool.start(run, ray_options={}, log_dir=log_dir)
        pids = pool.worker_pids()
        try:
            return await act(pool)
        finally:
            pids += pool.worker_pids()
            await pool.close()
            await gone(pids)

    return asyncio.run(main())


async def gone(pids: list[int]) -> None:
    deadline_s = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) or wardens():
        assert time.monotonic() < deadline_s, (pids, wardens())
        await asyncio.sleep(0.05)


def wardens() -> list[int]:
    """Wardens and graders of any pool: tests run one after another."""
    return [
        int(name)
        for name in filter(str.isdigit, os.listdir("/proc"))
        if _belongs_to_us(Path(f"/proc/{name}")) and b"rewards.grading.warden" in _command(Path(f"/proc/{name}"))
    ]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def _belongs_to_us(process: Path) -> bool:
    """Other checkouts may run their tests on this machine."""
    try:
        return f"PWD={os.environ.get('PWD', '')}".encode() in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


async def score(pool: RewardPool, group: RolloutGroup) -> Scores:
    import ray

    return await pool.score(ray.put(group.table), summary_of(group), step=3)


def test_groups_are_scored_counted_and_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def act(pool: RewardPool) -> None:
        groups = [rollout_group(["\\boxed{4}", "\\boxed{5}"], index=i, conversational=i % 2 == 0, solution="4") for i in range(6)]
        for group, scores in zip(groups, await asyncio.gather(*(score(pool, group) for group in groups)), strict=True):
            assert scores.prompt_id == group.prompt_id
            assert scores.rewards_G == (1.0, 0.0)
        assert not caplog.records
        for index in (7, 8):
            assert (await score(pool, rollout_group(["\\boxed{4}"], index=index, solution=""))).rewards_G == (None,)
        (warning,) = caplog.records
        assert "completion 0 of prompt 0:7 (accuracy: unparsable_gold)" in warning.getMessage()
        assert "{'solution': ''}" in warning.getMessage()
        status = pool.status()
        assert status.outcomes == {"accuracy": {"scored": 12, "unparsable_gold": 2}}
        assert (status.workers, status.in_flight, status.graders_replaced, status.workers_restarted) == (2, 0, 0, 0)
        assert status.busy_s > 0 and 0 < status.busy_share < 1
        assert len(set(pool.worker_pids())) == 2
        assert len(wardens()) >= 4, "else the check that they are gone sees nothing"

    with caplog.at_level(logging.WARNING, "rollcast.rewards"):
        with_pool(config("accuracy", num_workers=2), tmp_path, act)


def test_a_body_that_the_drivers_node_has_is_not_opened_there(tmp_path: Path) -> None:
    import ray

    class Unopened(ray.ObjectRef):
        def __await__(self) -> Any:
            raise AssertionError("the driver opened the body")

    async def act(pool: RewardPool) -> None:
        group = rollout_group(["\\boxed{4}"], solution="4")
        kept = ray.put(group.table)
        assert (await pool.score(Unopened(kept.binary()), summary_of(group), step=3)).rewards_G == (1.0,)
        with pytest.raises(AssertionError, match="opened"):
            await Unopened(kept.binary())

    with_pool(config("accuracy"), tmp_path, act)
    in_memory = ray.remote(lambda: 1).remote()
    ray.wait([in_memory])
    assert not has_copy_here(in_memory)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_worker_killed_while_it_scores_is_replaced_and_its_group_scored(tmp_path: Path, num_workers: int) -> None:
    async def act(pool: RewardPool) -> None:
        victim = pool.worker_pids()[0]
        scoring = asyncio.ensure_future(score(pool, rollout_group(["a", "b"], index=5)))
        await asyncio.sleep(0.5)
        assert pool.status().in_flight == 1
        os.kill(victim, signal.SIGKILL)
        scores = await scoring
        assert (scores.prompt_id, scores.rewards_G) == (PromptId(0, 5), (1.0, 1.0))
        while len(pool.worker_pids()) < num_workers:
            await asyncio.sleep(0.05)
        assert victim not in pool.worker_pids()
        assert pool.status().workers_restarted == 1
        assert pool.status().outcomes == {"slow": {"scored": 2}}

    with_pool(config(f"{ATTACKS}:slow", num_workers=num_workers), tmp_path, act)


def test_a_worker_that_stands_still_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.pool.PING_EVERY_S", 1.0)
    monkeypatch.setattr("rewards.pool.PONG_WITHIN_S", 8.0)  # ample for a worker that starts on a busy machine, and 7 s less to wait

    async def act(pool: RewardPool) -> None:
        (victim,) = pool.worker_pids()
        os.kill(victim, signal.SIGSTOP)
        assert (await score(pool, rollout_group(["a"]))).rewards_G == (0.0,)
        assert pool.status().workers_restarted == 1

    with_pool(config("tag_count"), tmp_path, act)


def test_a_worker_whose_gradings_take_long_is_left_alone(tmp_path: Path) -> None:
    async def act(pool: RewardPool) -> None:
        assert (await score(pool, rollout_group(["a"] * 4))).rewards_G == (1.0,) * 4
        assert pool.status().workers_restarted == 0

    with_pool(config(f"{ATTACKS}:very_slow"), tmp_path, act)


def test_a_used_up_restart_budget_ends_with_the_log(tmp_path: Path) -> None:
    async def act(pool: RewardPool) -> None:
        await score(pool, rollout_group(["a", "attack"]))
        scoring = asyncio.ensure_future(score(pool, rollout_group(["a", "b"])))
        await asyncio.sleep(0.3)
        os.kill(pool.worker_pids()[0], signal.SIGKILL)
        with pytest.raises(RewardError, match="reward worker 0 on node .*max_restarts 0 replacements are used up(.|\n)*last words"):
            await scoring

    with_pool(config(f"{ATTACKS}:slow", f"{ATTACKS}:exit_now", max_restarts=0), tmp_path, act)
    assert "last words" in (tmp_path / "reward-0.log").read_text()


def test_a_worker_whose_warden_dies_is_replaced(tmp_path: Path) -> None:
    async def act(pool: RewardPool) -> None:
        (warden,) = pool._slots[0].facts.grader_pids  # type: ignore[union-attr]
        os.kill(warden, signal.SIGKILL)
        assert (await score(pool, rollout_group(["a"]))).rewards_G == (0.0,)

    with_pool(config("tag_count"), tmp_path, act)


def test_on_error_fail_ends_the_run(tmp_path: Path) -> None:
    async def act(pool: RewardPool) -> None:
        assert (await score(pool, rollout_group(["a"]))).rewards_G == (1.0,)
        with pytest.raises(RewardError, match="on_error is fail:\nreward .*raise_error: (.|\n)*no such thing"):
            await score(pool, rollout_group(["attack"]))

    with_pool(config(f"{ATTACKS}:raise_error", on_error="fail"), tmp_path, act)


def test_too_many_failures_end_the_run_with_the_first_traceback(tmp_path: Path) -> None:
    async def act(pool: RewardPool) -> None:
        for _ in range(2):
            assert (await score(pool, rollout_group(["attack", "b"]))).rewards_G == (None, None)
            assert (await score(pool, rollout_group(["a", "b"]))).rewards_G == (1.0, 1.0)
        with pytest.raises(RewardError, match="failed on 6 of the last 8 completions(.|\n)*no such thing"):
            await asyncio.gather(*(score(pool, rollout_group(["attack", "b"])) for _ in range(2)))

    with_pool(config(f"{ATTACKS}:raise_error", max_error_rate=0.6, error_window=8), tmp_path, act)


def test_the_first_failure_of_a_reward_is_shown_and_the_others_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def act(pool: RewardPool) -> None:
        for _ in range(3):
            await score(pool, rollout_group(["attack", "b"]))
        (warning,) = caplog.records
        assert "reward raise_error failed on 2 of 2 completions of prompt 0:0 (crashed)" in warning.getMessage()
        assert "no such thing" in warning.getMessage(), "the traceback of the reward"
        assert list(pool.status().outcomes.values()) == [{"crashed": 6}, {"scored": 6}]

    with caplog.at_level(logging.WARNING, "rollcast.rewards"):
        with_pool(config(f"{ATTACKS}:raise_error", "tag_count"), tmp_path, act)


def test_the_length_limit_of_the_run_reaches_its_reward(tmp_path: Path) -> None:
    """Completions of two tokens, a limit of eight and a cache of eight: (8 - 8 - 2) / 8."""

    async def act(pool: RewardPool) -> None:
        assert (await score(pool, rollout_group(["a", "b"]))).rewards_G == (-0.25, -0.25)

    def run(limit: int) -> RunConfig:
        overlong = {"name": "soft_overlong_punishment", "params": {"soft_punish_cache": 8}}
        plain = config("tag_count").model_dump(exclude={"rewards": {"functions"}})
        return RunConfig.model_validate(
            plain | {"actors": {"max_completion_length": limit}, "rewards": plain["rewards"] | {"functions": [overlong]}}
        )

    with_pool(run(8), tmp_path, act)
    with pytest.raises(ConfigError, match="soft_punish_cache 8 is more than max_completion_len 7"):
        with_pool(run(7), tmp_path, act)


def test_what_cannot_work_is_refused_at_the_start(tmp_path: Path) -> None:
    async def act(pool: RewardPool) -> None:
        pytest.fail("started")

    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        with_pool(config("acuracy"), tmp_path, act)
    (tmp_path / "broken.py").write_text("import not_installed_anywhere\ndef f(completions): ...\n")
    with pytest.raises(RewardError, match="reward worker 0.*cannot be loaded:(.|\n)*not_installed_anywhere"):
        with_pool(config(f"{tmp_path}/broken.py:f"), tmp_path, act)
    asyncio.run(gone([]))


def test_a_node_that_lacks_what_a_reward_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver has the addresses of Piston's servers in its environment, the node's Ray has not."""

    async def act(pool: RewardPool) -> None:
        pytest.fail("started")

    with Service(Piston).running() as server:
        monkeypatch.setenv("PISTON_ENDPOINTS", server.url)
        piston = {"name": "code", "params": {"provider": "piston"}}
        with pytest.raises(RewardError, match=r"reward worker 0 on node \d+\.\d+\.\d+\.\d+: reward code: provider piston needs"):
            with_pool(config(piston), tmp_path, act)
    asyncio.run(gone([]))
