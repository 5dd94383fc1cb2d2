"""The window's rules: the bound on staleness, the accounting, and what a snapshot keeps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.loop.window import Window
from configs.contracts.errors import AccountingError
from configs.contracts.records import Grades, GroupSummary, PromptId, ScoredGroup, Scores
from tests.bodies import NO_BODY


def scored(prompt_id: PromptId, version: int, rewards: tuple[float, ...] = (0.0, 1.0), attempt: int = 0) -> ScoredGroup:
    summary = GroupSummary(prompt_id, attempt, 3, (5, 6), (False, False), version, version, "rollout 0", 0.1)
    column = Grades(rewards, ("scored",) * len(rewards))
    return ScoredGroup(NO_BODY, summary, Scores(prompt_id, attempt, rewards, {"accuracy": column}, 0.0))


def ids(count: int) -> list[PromptId]:
    return [PromptId(0, index) for index in range(count)]


def test_a_synchronous_window_admits_one_batch_and_waits_for_the_version() -> None:
    window = Window(groups_per_step=2, max_staleness=0, total_steps=3)
    assert window.room(engine_version=0) == 2
    first, second, third = ids(3)
    window.admit(first)
    assert window.room(0) == 0, "a gang is admitted at once or not at all"
    window.admit(second)
    window.add(scored(first, 0))
    assert window.take() is None
    window.add(scored(second, 0))
    assert [group.summary.prompt_id for group in window.take() or []] == [first, second]
    window.finish_step()
    assert window.room(engine_version=0) == 0, "version 1 is not confirmed"
    assert window.room(engine_version=1) == 2
    window.admit(third)
    assert window.accounting().as_json()["trained"] == 2


def test_one_step_of_staleness_overlaps_exactly_one_batch() -> None:
    window = Window(groups_per_step=2, max_staleness=1, total_steps=9)
    assert window.room(0) == 4
    for prompt_id in ids(4):
        window.admit(prompt_id)
        window.add(scored(prompt_id, 0))
    window.take()
    assert window.room(engine_version=0) == 0
    assert window.room(engine_version=1) == 2


def test_a_group_over_the_bound_is_sampled_again_under_a_new_attempt() -> None:
    window = Window(groups_per_step=1, max_staleness=1, total_steps=9, steps_taken=2)
    (prompt_id,) = ids(1)
    window.admit(prompt_id)
    window.add(scored(prompt_id, version=0))
    assert window.take() is None
    assert window.to_reissue() == (prompt_id, 1)
    assert window.admit(prompt_id) == 1
    assert (window.drawn, window.reissued_stale) == (1, 1)
    window.add(scored(prompt_id, version=2, attempt=1))
    assert window.take() is not None


def test_keep_trains_what_is_over_the_bound() -> None:
    window = Window(groups_per_step=1, max_staleness=1, on_stale="keep", total_steps=9, steps_taken=5)
    (prompt_id,) = ids(1)
    window.admit(prompt_id)
    window.add(scored(prompt_id, version=0))
    assert window.take() is not None


def test_zero_variance_groups_are_filtered_and_refilled() -> None:
    window = Window(groups_per_step=2, max_staleness=0, total_steps=1, filter_zero_variance=True)
    first, second, third = ids(3)
    window.admit(first)
    window.admit(second)
    window.add(scored(first, 0, rewards=(1.0, 1.0)))
    assert window.room(0) == 0
    window.add(scored(second, 0))
    assert window.room(0) == 1
    window.admit(third)
    window.add(scored(third, 0))
    assert window.take() is not None
    window.finish_step()
    assert window.accounting().as_json() == {
        "drawn": 3, "trained": 2, "filtered": 1, "dropped": 0, "ready": 0, "in_flight": 0,
        "filtered_by_reason": {"zero_variance": 1}, "dropped_by_reason": {},
    }  # fmt: skip


def test_a_second_delivery_is_ignored() -> None:
    window = Window(groups_per_step=2, max_staleness=1, total_steps=2)
    (prompt_id,) = ids(1)
    window.admit(prompt_id)
    assert window.add(scored(prompt_id, 0)) is True
    assert window.add(scored(prompt_id, 0)) is False
    assert window.accounting().ready == 1


def test_a_prompt_is_admitted_once() -> None:
    window = Window(groups_per_step=2, max_staleness=1, total_steps=2)
    window.admit(PromptId(0, 0))
    with pytest.raises(AccountingError, match="outstanding already"):
        window.admit(PromptId(0, 0))


def test_a_wrong_ledger_is_an_error() -> None:
    window = Window(groups_per_step=2, max_staleness=1)
    window.drawn = 1
    with pytest.raises(AccountingError, match="1 prompts were drawn but 0"):
        window.accounting()


def test_a_snapshot_keeps_the_ledger_and_reissues_what_was_in_flight() -> None:
    window = Window(groups_per_step=2, max_staleness=1, total_steps=9)
    for prompt_id in ids(4):
        window.admit(prompt_id)
    for prompt_id in ids(3):
        window.add(scored(prompt_id, 0))
    window.take()
    window.finish_step()
    resumed = Window(groups_per_step=2, max_staleness=1, total_steps=9)
    resumed.restore(window.snapshot(), ready=[scored(PromptId(0, 2), 0)])
    assert resumed.accounting() == window.accounting()
    assert resumed.to_reissue() == (PromptId(0, 3), 0)
    without_bodies = Window(groups_per_step=2, max_staleness=1, total_steps=9)
    without_bodies.restore(window.snapshot(), ready=[])
    assert without_bodies.accounting().in_flight == 2


@given(
    groups_per_step=st.integers(1, 4),
    max_staleness=st.integers(0, 4),
    sync_every_steps=st.integers(1, 3),
    moves=st.lists(st.tuples(st.sampled_from(["deliver", "train", "sync"]), st.integers(0, 50)), max_size=150),
)
def test_nothing_older_than_the_bound_is_trained_and_nothing_is_lost(
    groups_per_step: int, max_staleness: int, sync_every_steps: int, moves: list[tuple[str, int]]
) -> None:
    """Any order of deliveries, steps and (late) broadcasts: the bound holds, the ledger balances, no prompt is trained twice."""
    window = Window(groups_per_step, max_staleness, total_steps=1000)
    engine_version, drawn, trained = 0, 0, []
    sampled_under: dict[PromptId, tuple[int, int]] = {}
    for move, choice in moves:
        for _ in range(window.room(engine_version)):
            again = window.to_reissue()
            prompt_id = again[0] if again else PromptId(0, drawn)
            drawn += 0 if again else 1
            sampled_under[prompt_id] = (window.admit(prompt_id), engine_version)
        if move == "deliver" and sampled_under:
            prompt_id = list(sampled_under)[choice % len(sampled_under)]
            attempt, version = sampled_under.pop(prompt_id)
            window.add(scored(prompt_id, version, attempt=attempt))
        elif move == "sync":
            engine_version = max(engine_version, window.steps_taken - window.steps_taken % sync_every_steps)
        elif move == "train":
            step = window.steps_taken
            for group in window.take() or []:
                assert step - group.summary.min_policy_version <= max_staleness
                trained.append(group.summary.prompt_id)
            window.finish_step()
        assert window.outstanding <= groups_per_step * (max_staleness + 1)
        window.accounting()
    assert len(trained) == len(set(trained)) == window.trained


@given(groups_per_step=st.integers(1, 4), max_staleness=st.integers(1, 4), steps=st.integers(1, 12))
def test_in_order_delivery_never_wastes_a_group(groups_per_step: int, max_staleness: int, steps: int) -> None:
    """The derived size is no larger than the bound allows: groups finished in the order of admission are never too old."""
    window = Window(groups_per_step, max_staleness, total_steps=steps)
    engine_version, drawn = 0, 0
    under_way: list[tuple[PromptId, int]] = []
    while window.steps_taken < steps:
        for _ in range(window.room(engine_version)):
            prompt_id = PromptId(0, drawn)
            drawn += 1
            window.admit(prompt_id)
            under_way.append((prompt_id, engine_version))
        if under_way:
            window.add(scored(*under_way.pop(0)))
        if window.take() is not None:
            # The slowest broadcast that the loop allows: version k is confirmed only when step k + 1 is over.
            engine_version = window.steps_taken - 1
            window.finish_step()
    assert window.reissued_stale == 0
