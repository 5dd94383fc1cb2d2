"""The pool of reward workers without a process: a worker whose replacement cannot start, as where a node was lost, and what is said of failures."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from configs.contracts.errors import RewardError
from configs.contracts.records import Grades, PromptId, Scores
from configs.schema.rewards import RewardsSection
from rewards import pool as pool_module
from rewards.pool import RewardPool, _Slot

LONG_S = 60.0


class FakePool(RewardPool):
    """A pool whose workers start at once, or fail to as often as `failures` says for their slot."""

    def __init__(self, wait_s: float, failures: dict[int, int]) -> None:
        section = RewardsSection.model_validate({"functions": ["accuracy"], "num_workers": 2, "max_restarts": 3})
        super().__init__(section, {}, Path("logs"), wait_s)
        self.failures, self.tries = failures, [0, 0]
        for slot in self._slots:
            slot.ready.set()

    async def _open(self, slot: _Slot) -> None:
        self.tries[slot.index] += 1
        if self.tries[slot.index] <= self.failures.get(slot.index, 0):
            raise RewardError("it did not start: no node has room", role=slot.name)
        slot.ready.set()
        self._changed.set()

    def lose(self, index: int) -> None:
        self._lost(self._slots[index], None, ConnectionError("the node died"))


@pytest.fixture(autouse=True)
def _no_ray_and_short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.kill", lambda actor: None)
    monkeypatch.setattr(pool_module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(pool_module, "LONGEST_PAUSE_S", 0.02)


async def test_a_replacement_that_cannot_start_is_tried_again_while_others_go_on() -> None:
    pool = FakePool(0.05, {0: 20})
    pool.lose(0)
    await asyncio.sleep(0.15)
    assert 1 < pool.tries[0] < 20
    assert (await pool._least_loaded()).index == 1, "the other worker goes on, longer than the pool could be without any"
    while not pool._slots[0].ready.is_set():
        await asyncio.sleep(0.01)
    assert pool.tries == [21, 0]
    assert pool.status().workers_restarted == 1, "failed starts do not use up rewards.max_restarts"


async def test_without_any_worker_for_too_long_the_pool_ends() -> None:
    pool = FakePool(0.3, {0: 10**6, 1: 10**6})
    pool.lose(0)
    pool.lose(1)
    with pytest.raises(
        RewardError, match=r"reward worker \d: no reward worker was left for 0.3 s .*wait_s\); the last try: .*no node has room"
    ):
        await asyncio.wait_for(pool._least_loaded(), LONG_S)
    await pool.close()


async def test_a_pool_that_has_a_worker_again_in_time_goes_on() -> None:
    pool = FakePool(0.5, {0: 10**6, 1: 5})
    pool.lose(0)
    pool.lose(1)
    assert (await asyncio.wait_for(pool._least_loaded(), LONG_S)).index == 1
    await asyncio.sleep(0.6)
    assert (await pool._least_loaded()).index == 1
    await pool.close()


@pytest.mark.parametrize(
    ("on_error", "told"),
    [("exclude", "; such completions get no reward; later"), ("zero", "; it counts as 0 for them (rewards.on_error); later")],
)
def test_the_warning_of_a_failure_says_what_becomes_of_it_also_in_an_evaluation(
    on_error: str, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = RewardPool(RewardsSection.model_validate({"on_error": on_error}), {}, tmp_path, 1.0)
    failed = Scores(PromptId(-1, 0), 0, (None,), {"accuracy": Grades((None,), ("crashed",))}, 0.0, first_error="no such thing")
    with caplog.at_level(logging.WARNING, "rollcast.rewards"):
        pool._warn_of_failures(failed)
    assert told in caplog.text and "training" not in caplog.text
