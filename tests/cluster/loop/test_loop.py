"""The loop under small fakes that check what they receive: order, overlap, faults, stopping, resuming."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from cluster.loop.loop import LoopSettings, Snapshot, StepRecord, TrainLoop
from cluster.loop.window import Window
from configs.contracts.errors import PoisonPromptError, RewardError, RolloutError
from configs.contracts.records import (
    AdapterManifest,
    AdapterRef,
    BodyRef,
    Grades,
    GroupSummary,
    Prompt,
    PromptId,
    RolloutRequest,
    Sampling,
    ScoredGroup,
    Scores,
    StepReport,
    SyncReport,
)
from tests.bodies import NO_BODY


@dataclass
class CountedPrompts:
    limit: int = 10_000
    position: int = 0

    def next(self) -> Prompt | None:
        if self.position == self.limit:
            return None
        self.position += 1
        return self.prompt(PromptId(0, self.position - 1))

    def prompt(self, prompt_id: PromptId) -> Prompt:
        return Prompt(prompt_id, (1, 2, 3), "one two three")

    def cursor(self) -> dict[str, Any]:
        return {"position": self.position}


@dataclass
class ScriptedRollouts:
    """Samples in `delay(request)` seconds under the version current at the start; a broadcast takes `broadcast_s`."""

    delay: Any = lambda request: 0.0
    broadcast_s: float = 0.0
    poison: frozenset[int] = frozenset()
    version: int = 0
    broadcasting: int = 0
    started: list[PromptId] = field(default_factory=list)

    def assign(self, requests: Sequence[RolloutRequest]) -> list[RolloutRequest]:
        return list(requests)

    async def rollout(self, request: RolloutRequest) -> tuple[GroupSummary, BodyRef]:
        self.started.append(request.prompt.id)
        version = self.version
        await asyncio.sleep(self.delay(request))
        if request.prompt.id.index in self.poison:
            raise PoisonPromptError("refused")
        return GroupSummary(request.prompt.id, request.attempt, 3, (4, 4), (False, False), version, version, "rollout 0", 0.0), NO_BODY

    async def broadcast(self, adapter: AdapterRef) -> SyncReport:
        assert self.broadcasting == 0, "two adapters on their way at once"
        assert adapter.version > self.version
        self.broadcasting += 1
        await asyncio.sleep(self.broadcast_s)
        self.broadcasting -= 1
        self.version = adapter.version
        return SyncReport(adapter.version, 10, self.broadcast_s, 0.0, 0.0)


@dataclass
class ConstantRewards:
    fail_at: int = -1

    async def score(self, body: BodyRef, summary: GroupSummary, step: int) -> Scores:
        assert body is NO_BODY
        if summary.prompt_id.index == self.fail_at:
            raise RewardError("no such column")
        return Scores(summary.prompt_id, summary.attempt, (0.0, 1.0), {"accuracy": Grades((0.0, 1.0), ("scored", "scored"))}, 0.0)


@dataclass
class CountingLearner:
    max_staleness: int
    step_s: float = 0.0
    version: int = 0
    trained: list[PromptId] = field(default_factory=list)

    async def step(self, groups: list[ScoredGroup], step: int) -> StepReport:
        assert step == self.version
        assert all(step - group.summary.min_policy_version <= self.max_staleness for group in groups)
        await asyncio.sleep(self.step_s)
        self.version += 1
        self.trained += [group.summary.prompt_id for group in groups]
        return StepReport(self.version, False, {}, self.step_s, 10)

    async def export_adapter(self) -> AdapterRef:
        return AdapterRef(AdapterManifest(self.version, "", "float32", (), 1, 1.0, (), "tiny"), NO_BODY)


async def nothing(version: int) -> None: ...


def make_loop(
    *, steps: int = 4, max_staleness: int = 1, groups: int = 2, save_steps: int = 0, **parts: Any
) -> tuple[TrainLoop, list[StepRecord], list[Snapshot]]:
    records: list[StepRecord] = []
    snapshots: list[Snapshot] = []

    async def on_step(record: StepRecord) -> None:
        records.append(record)

    async def save_checkpoint(snapshot: Snapshot) -> None:
        snapshots.append(snapshot)

    loop = TrainLoop(
        prompts=parts.get("prompts", CountedPrompts()),
        rollouts=parts.get("rollouts", ScriptedRollouts()),
        rewards=parts.get("rewards", ConstantRewards()),
        learner=parts.get("learner", CountingLearner(max_staleness)),
        window=parts.get("window", Window(groups, max_staleness, total_steps=steps)),
        settings=LoopSettings(steps, Sampling(2, 8), save_steps=save_steps),
        on_step=on_step,
        on_new_adapter=parts.get("on_new_adapter", nothing),
        save_checkpoint=save_checkpoint,
        on_filtered=parts.get("on_filtered", lambda group: None),
    )
    return loop, records, snapshots


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
async def test_every_step_trains_distinct_groups_within_the_bound(max_staleness: int) -> None:
    learner = CountingLearner(max_staleness, step_s=0.001)
    rollouts = ScriptedRollouts(delay=lambda request: 0.001 * (request.prompt.id.index % 5), broadcast_s=0.002)
    loop, records, snapshots = make_loop(steps=12, max_staleness=max_staleness, learner=learner, rollouts=rollouts)
    assert await loop.run() == "finished"
    assert [record.step for record in records] == list(range(1, 13))
    assert len(learner.trained) == len(set(learner.trained)) == 24
    accounting = loop.window.accounting()
    assert (accounting.drawn, accounting.trained, accounting.in_flight, accounting.ready) == (24, 24, 0, 0)
    assert rollouts.version == 12
    assert [snapshot.step for snapshot in snapshots] == [12]


@dataclass
class EqualAfter(ConstantRewards):
    """Rewards that are all equal from one prompt on."""

    index: int = 0

    async def score(self, body: BodyRef, summary: GroupSummary, step: int) -> Scores:
        scores = await super().score(body, summary, step)
        return replace(scores, rewards_G=(1.0, 1.0)) if summary.prompt_id.index >= self.index else scores


@pytest.mark.parametrize("steps_before", [0, 3])
@pytest.mark.parametrize("max_staleness", [0, 2])
async def test_a_run_that_filters_every_group_ends(steps_before: int, max_staleness: int) -> None:
    window = Window(2, max_staleness, total_steps=1000, filter_zero_variance=True, max_num_gen_batches=5)
    loop, records, snapshots = make_loop(steps=1000, max_staleness=max_staleness, rewards=EqualAfter(index=2 * steps_before), window=window)
    assert await asyncio.wait_for(loop.run(), 10) == "every group was filtered"
    assert len(records) == snapshots[-1].step == steps_before
    assert 10 <= loop.window.filtered["zero_variance"] <= 10 + 2 * (max_staleness + 1)


async def test_groups_that_are_filtered_are_shown_to_the_caller() -> None:
    class EqualRewards(ConstantRewards):
        async def score(self, body: BodyRef, summary: GroupSummary, step: int) -> Scores:
            scores = await ConstantRewards.score(self, body, summary, step)
            return replace(scores, rewards_G=(1.0, 1.0)) if summary.prompt_id.index < 3 else scores

    filtered: list[int] = []
    window = Window(2, 1, total_steps=2, filter_zero_variance=True)

    def on_filtered(group: ScoredGroup) -> None:
        filtered.append(group.summary.prompt_id.index)

    loop, records, _ = make_loop(steps=2, rewards=EqualRewards(), window=window, on_filtered=on_filtered)
    await loop.run()
    assert sorted(filtered) == [0, 1, 2] and len(records) == 2


async def test_generation_goes_on_while_the_learner_trains() -> None:
    async def wall_s(max_staleness: int) -> float:
        rollouts = ScriptedRollouts(delay=lambda request: 0.05)
        loop, _, _ = make_loop(steps=8, max_staleness=max_staleness, rollouts=rollouts, learner=CountingLearner(max_staleness, step_s=0.05))
        await loop.run()
        return loop.elapsed_s

    # Sleeps, not work: 8 x (0.05 + 0.05) against 0.05 + 8 x 0.05.
    assert await wall_s(1) < 0.75 * await wall_s(0)


async def test_a_synchronous_run_never_samples_before_the_version_is_confirmed() -> None:
    rollouts = ScriptedRollouts(broadcast_s=0.01)
    loop, records, _ = make_loop(steps=5, max_staleness=0, rollouts=rollouts)
    await loop.run()
    assert [{group.summary.min_policy_version for group in record.groups} for record in records] == [{step} for step in range(5)]


async def test_a_poison_prompt_is_dropped_with_a_reason_and_replaced() -> None:
    loop, _, _ = make_loop(steps=3, rollouts=ScriptedRollouts(poison=frozenset({1})))
    assert await loop.run() == "finished"
    assert loop.window.accounting().as_json()["dropped_by_reason"] == {"poison_prompt": 1}
    assert loop.window.drawn == 7


async def test_a_group_whose_body_is_lost_is_sampled_again() -> None:
    class LosesOne(ConstantRewards):
        lost = False

        async def score(self, body: BodyRef, summary: GroupSummary, step: int) -> Scores:
            if summary.prompt_id.index == 2 and not self.lost:
                self.lost = True
                raise RolloutError("the node is gone")
            return await super().score(body, summary, step)

    rollouts = ScriptedRollouts()
    loop, _, _ = make_loop(steps=3, rollouts=rollouts, rewards=LosesOne())
    assert await loop.run() == "finished"
    assert rollouts.started.count(PromptId(0, 2)) == 2
    assert loop.window.accounting().as_json()["trained"] == loop.window.drawn == 6


async def test_the_end_of_the_data_ends_the_run_and_leaves_the_rest_ready() -> None:
    loop, records, snapshots = make_loop(steps=100, prompts=CountedPrompts(limit=5))
    assert await loop.run() == "data exhausted"
    assert len(records) == 2
    assert loop.window.accounting().ready == 1
    assert snapshots[-1].step == 2


async def test_an_error_of_a_part_ends_the_run_with_that_error() -> None:
    loop, _, _ = make_loop(rewards=ConstantRewards(fail_at=3))
    with pytest.raises(RewardError, match="no such column"):
        await asyncio.wait_for(loop.run(), 5)


async def test_a_failed_broadcast_ends_a_synchronous_run_instead_of_hanging_it() -> None:
    class NoBroadcast(ScriptedRollouts):
        async def broadcast(self, adapter: AdapterRef) -> SyncReport:
            raise RewardError("no engine is left")

    loop, _, _ = make_loop(max_staleness=0, rollouts=NoBroadcast())
    with pytest.raises(RewardError, match="no engine is left"):
        await asyncio.wait_for(loop.run(), 5)


async def test_stop_saves_what_is_in_flight() -> None:
    loop, records, snapshots = make_loop(steps=1000, rollouts=ScriptedRollouts(delay=lambda request: 0.005))

    async def stop_soon() -> None:
        while len(records) < 3:
            await asyncio.sleep(0.001)
        loop.stop("stopped by SIGTERM")

    reason, _ = await asyncio.gather(loop.run(), stop_soon())
    assert reason == "stopped by SIGTERM"
    last = snapshots[-1]
    assert last.step == len(records)
    outstanding = len(last.window["in_flight"]) + len(last.window["ready"]) + len(last.window["again"])
    assert last.cursor["position"] == 2 * last.step + outstanding


async def test_a_resumed_loop_trains_what_was_in_flight_and_nothing_twice() -> None:
    first, records, snapshots = make_loop(steps=6, save_steps=2, rollouts=ScriptedRollouts(delay=lambda request: 0.002))
    await first.run()
    snapshot = next(snapshot for snapshot in snapshots if snapshot.step == 4)
    window = Window(2, 1, total_steps=6)
    window.restore(snapshot.window, snapshot.ready)
    learner = CountingLearner(1, version=4)
    rollouts = ScriptedRollouts(version=4)
    prompts = CountedPrompts(position=cast(int, snapshot.cursor["position"]))
    second, _, _ = make_loop(steps=6, window=window, learner=learner, rollouts=rollouts, prompts=prompts)
    assert await second.run() == "finished"
    before = [group.summary.prompt_id for record in records[:4] for group in record.groups]
    assert sorted(before + learner.trained) == [PromptId(0, index) for index in range(12)]


async def test_logging_overlaps_the_next_step_stays_in_order_and_precedes_its_checkpoint() -> None:
    loop, _, snapshots = make_loop(steps=6, save_steps=2)
    seen: list[tuple[int, int]] = []

    async def slow_log(record: StepRecord) -> None:
        await asyncio.sleep(0.01)
        seen.append((record.step, len(snapshots)))

    loop.on_step = slow_log
    assert await loop.run() == "finished"
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert [saves for _, saves in seen] == [0, 0, 1, 1, 2, 2]


async def test_a_synchronous_run_samples_under_a_new_version_only_after_the_hook() -> None:
    started_when_hooked: list[tuple[int, int]] = []
    rollouts = ScriptedRollouts()

    async def on_new_adapter(version: int) -> None:
        before = len(rollouts.started)
        await asyncio.sleep(0.01)
        assert rollouts.version == version, "every engine has the adapter"
        started_when_hooked.append((version, len(rollouts.started) - before))

    async def save_slowly(_snapshot: Snapshot) -> None:
        await asyncio.sleep(0.005)  # the engines have the adapter before the learner asks for its next batch, which wakes the feed

    loop, _, _ = make_loop(steps=3, max_staleness=0, save_steps=1, rollouts=rollouts, on_new_adapter=on_new_adapter)
    loop.save_checkpoint = save_slowly
    assert await loop.run() == "finished"
    assert started_when_hooked == [(1, 0), (2, 0), (3, 0)]
    assert len(rollouts.started) == 6


async def test_an_error_of_the_hook_ends_the_run() -> None:
    async def on_new_adapter(version: int) -> None:
        raise RewardError(f"version {version} cannot be evaluated")

    loop, _, _ = make_loop(on_new_adapter=on_new_adapter)
    with pytest.raises(RewardError, match="version 1 cannot be evaluated"):
        await asyncio.wait_for(loop.run(), 5)
