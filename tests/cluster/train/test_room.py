"""Room for a learner that is made again: a run waits for a node that may come, says what is missing, and does not wait for ever."""

from __future__ import annotations

import asyncio

import pytest

from cluster.placement import Role
from cluster.train import room
from cluster.train.room import Room
from configs.contracts.errors import LearnerError, PlacementError

LEARNERS = Role("learner", 2, 1.0, 0.5)
LONG_S = 60.0


class FakeGroup:
    """A group whose ranks run after a while, or never, or die."""

    def __init__(self, starts_after_s: float, dies: bool = False) -> None:
        self.starts_after_s, self.dies, self.closed = starts_after_s, dies, False

    async def worker_pids(self) -> list[int]:
        await asyncio.sleep(self.starts_after_s)
        if self.dies:
            raise LearnerError("the process died")
        return [1, 2]

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SAY_EVERY_S", 0.1)
    monkeypatch.setattr(room, "SPAWN_AGAIN_S", 0.01)


async def test_ranks_that_wait_for_room_are_waited_for_and_what_is_missing_is_said() -> None:
    said: list[str] = []
    group = FakeGroup(0.35)
    found = await Room(LEARNERS, LONG_S, lambda: "the cluster has 1 CPU core", said.append).spawned(lambda: group)
    assert found is group and not group.closed
    assert said and said[0].endswith("at most: the learner asks for 2 x (0.5 GPUs, 1 CPU cores): the cluster has 1 CPU core")


async def test_ranks_that_die_with_the_lost_node_are_spawned_again() -> None:
    groups = iter([FakeGroup(0.0, dies=True), FakeGroup(0.0, dies=True), last := FakeGroup(0.0)])
    assert await Room(LEARNERS, LONG_S, str, print).spawned(lambda: next(groups)) is last


async def test_without_room_in_time_the_error_names_what_is_missing() -> None:
    group = FakeGroup(LONG_S)
    with pytest.raises(
        PlacementError, match=r"2 x \(0.5 GPUs, 1 CPU cores\): no node has a GPU; cluster.lost_resources_wait_s 0.3 is over"
    ):
        await Room(LEARNERS, 0.3, lambda: "no node has a GPU", print).spawned(lambda: group)
    assert group.closed, "its ranks no longer wait for room"


async def test_ranks_that_die_though_there_is_room_are_not_a_matter_of_room() -> None:
    with pytest.raises(LearnerError, match="the process died"):
        await Room(LEARNERS, 0.2, str, print).spawned(lambda: FakeGroup(0.0, dies=True))


async def test_a_run_that_is_stopped_meanwhile_leaves_no_group() -> None:
    group = FakeGroup(LONG_S)
    waiting = asyncio.ensure_future(Room(LEARNERS, LONG_S, str, print).spawned(lambda: group))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert group.closed
