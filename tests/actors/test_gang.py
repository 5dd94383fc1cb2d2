"""Gangs are even, the same on every run, and never wait for a member that will not come."""

from __future__ import annotations

import random

from actors.gang import GangBarrier, assign_gangs
from tests.actors.conftest import make_request


def test_gangs_are_even_and_depend_on_ids_alone() -> None:
    requests = [make_request(index) for index in range(7)]
    shuffled = random.Random(3).sample(requests, 7)
    expected = {request.prompt.id: (worker, request.gang) for worker, request in assign_gangs(requests, 3, "s")}
    assert {request.prompt.id: (worker, request.gang) for worker, request in assign_gangs(shuffled, 3, "s")} == expected
    sizes = sorted(gang.size for _, gang in {(worker, gang) for worker, gang in expected.values() if gang})
    assert sizes == [2, 2, 3]
    assert all(
        gang is not None and gang.size == sum(other == (worker, gang) for other in expected.values()) for worker, gang in expected.values()
    )


def test_the_order_given_is_kept() -> None:
    requests = [make_request(index) for index in (5, 1, 3)]
    assert [request.prompt.id.index for _, request in assign_gangs(requests, 2, "s")] == [5, 1, 3]


def test_fewer_prompts_than_workers() -> None:
    [(worker, request)] = assign_gangs([make_request(0)], 4, "s")
    assert worker == 0 and request.gang is not None and request.gang.size == 1


def test_a_muster_is_complete_with_its_last_member() -> None:
    barrier: GangBarrier[str] = GangBarrier(3)
    assert barrier.join("b") is None
    assert barrier.join("a") is None
    assert barrier.join("c") == ["b", "a", "c"]


def test_a_member_that_will_not_come_is_not_waited_for() -> None:
    barrier: GangBarrier[str] = GangBarrier(3)
    barrier.join("b")
    assert barrier.leave() is None
    assert barrier.join("a") == ["b", "a"]
    alone: GangBarrier[str] = GangBarrier(1)
    assert alone.leave() == []
