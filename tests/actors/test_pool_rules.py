"""What the pool decides, with workers that are fakes: no Ray, no vllm, no time.

1. A group goes to the ready worker with the fewest tokens in hand.  2. A group whose worker is lost is sampled elsewhere under the next
attempt, outside of its gang.  3. A prompt in two engines when they died is not sampled again; a worker that was merely killed is
nobody's fault.  4. Versions only grow, but after a rewind.  5. Lost workers are replaced, at most max_restarts times, and come back with
the current adapter.  6. A configuration with which nothing starts ends at once.  7. Nobody waits for ever: failure and close reach all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.handle import WorkerHandle
from actors.pool import RolloutPool
from actors.worker import AdapterTimes, WorkerFacts, WorkerStatus, summarize
from configs.contracts.errors import AdapterError, NoRoomError, PoisonPromptError, RolloutError
from configs.contracts.records import AdapterManifest, AdapterRef, Completion, RolloutRequest, SyncReport, VersionSpan
from tests.actors.conftest import make_config, make_request


class FakeWorker(WorkerHandle):
    """A worker whose groups finish when the test lets them, and which can be lost."""

    starts = True

    def __init__(self, index: int) -> None:
        super().__init__(index, actor=None)
        self.asked: list[RolloutRequest] = []
        self.finish = asyncio.Event()
        self.killed = False

    async def start(self, model_path: str, limit_s: float) -> None:
        if self.starts:
            self.facts = WorkerFacts(1, (2,), "node", 0.0)
        else:
            self.lose(RolloutError("no such model", role=self.name))

    async def install(self, adapter: AdapterRef) -> None:
        assert not self.killed, "a killed worker was given an adapter"
        manifest = adapter.manifest
        if adapter.buffer == "too large":
            self.lose(NoRoomError("/dev/shm is full, and so is /var/tmp"))
            return
        if adapter.buffer == f"refused by {self.index}":
            self.lose(AdapterError("another model"))
            return
        self.version, self.sha256 = manifest.version, manifest.sha256
        self.times = AdapterTimes(manifest.version, 0, 0, 0.01, 0, 0, 1e-7)

    async def rollout(self, request: RolloutRequest) -> Any:
        assert self.ready, "a worker that is not ready was asked"
        self.asked.append(request)
        self.tokens_in_hand += 1
        await asyncio.wait([asyncio.ensure_future(self.finish.wait()), self.lost], return_when=asyncio.FIRST_COMPLETED)
        self.tokens_in_hand -= 1
        if self.lost.done():
            return None
        completion = Completion((1,), (0.0,), (VersionSpan(self.version, 0, 1),), "stop", "")
        return summarize(request, [completion], self.name, 0.0), "body"

    async def status(self, limit_s: float) -> WorkerStatus | None:
        return None if self.lost.done() else WorkerStatus(self.version, 0, 0.0, 0.0, 0, 0.0)

    async def close(self, limit_s: float) -> None:
        self.kill()

    def kill(self) -> None:
        self.killed = True


class Stage:
    """A pool over fake workers; `made` has every incarnation, in order."""

    def __init__(self, kind: type[FakeWorker] = FakeWorker, **actors: Any) -> None:
        self.made: list[FakeWorker] = []
        self.kind = kind
        self.pool = RolloutPool(make_config(Path("model"), **actors), self.spawn, Path("logs"), "rules")

    def spawn(self, index: int) -> FakeWorker:
        self.made.append(self.kind(index))
        return self.made[-1]

    async def begin(self) -> None:
        await self.pool.start("model")
        await self.broadcast(0)

    async def broadcast(self, version: int, buffer: Any = "buffer", **options: Any) -> SyncReport:
        return await self.pool.broadcast(AdapterRef(manifest(version), buffer), **options)

    def ask(self, *indices: int) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(self.pool.rollout(make_request(index))) for index in indices]


def manifest(version: int) -> AdapterManifest:
    return AdapterManifest(version, f"hash {version}", "float32", (), 8, 16.0, (), "model")


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(30):
        await asyncio.sleep(0)


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 20))


def test_groups_go_where_least_is_in_hand() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=2)
        await stage.begin()
        tasks = stage.ask(0, 1, 2, 3)
        await settle()
        first, second = stage.made
        assert [len(first.asked), len(second.asked)] == [2, 2]
        first.finish.set()
        await settle()
        tasks += stage.ask(4)
        await settle()
        assert [len(first.asked), len(second.asked)] == [3, 2]
        second.finish.set()
        assert all(summary.reissued == 0 for summary, _ in await asyncio.gather(*tasks))
        await stage.pool.close()

    play(scene())


def test_a_lost_group_is_sampled_elsewhere_under_the_next_attempt() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=2)
        await stage.begin()
        requests = stage.pool.assign([make_request(index) for index in range(4)])
        tasks = [asyncio.create_task(stage.pool.rollout(request)) for request in requests]
        await settle()
        first, second = stage.made
        assert [request.prompt.id.index for request in first.asked] == [0, 2], "gangs alternate between workers, by id"
        first.lose(RolloutError("killed"))
        second.finish.set()
        await settle()
        for made in stage.made:
            made.finish.set()
        summaries = {summary.prompt_id.index: summary for summary, _ in await asyncio.gather(*tasks)}
        assert {index: (summary.attempt, summary.reissued) for index, summary in summaries.items()} == {
            0: (1, 1),
            1: (0, 0),
            2: (1, 1),
            3: (0, 0),
        }
        again = [request for made in stage.made[1:] for request in made.asked if request.attempt == 1]
        assert len(again) == 2 and all(request.gang is None for request in again)
        assert first.killed and stage.pool.restarts == 1
        await stage.pool.close()

    play(scene())


@pytest.mark.parametrize("engine_died", [True, False])
def test_a_prompt_of_two_dead_engines_is_quarantined(engine_died: bool) -> None:
    async def scene() -> None:
        stage = Stage(num_workers=1)
        await stage.begin()
        [task] = stage.ask(7)
        for _ in range(2):
            await settle()
            stage.made[-1].lose(RolloutError("gone"), engine_died=engine_died)
        await settle()
        stage.made[-1].finish.set()
        if engine_died:
            with pytest.raises(PoisonPromptError, match="0:7"):
                await task
        else:
            assert (await task)[0].reissued == 2
        await stage.pool.close()

    play(scene())


def test_versions_only_grow_unless_rewound() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=2)
        await stage.begin()
        assert (await stage.broadcast(4)).version == stage.pool.version == 4
        for version in (4, 3):
            with pytest.raises(AdapterError, match="not newer"):
                await stage.broadcast(version)
        await stage.broadcast(2, rewind=True)
        assert stage.pool.version == 2
        await stage.pool.close()

    play(scene())


def test_a_worker_that_fails_a_broadcast_is_replaced_and_named() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=2)
        await stage.begin()
        report = await stage.broadcast(1, "refused by 1")
        assert report.failed_workers == ("rollout 1",) and stage.pool.version == 1
        await stage.pool.close()

    play(scene())


def test_a_replacement_comes_back_with_the_current_adapter() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=1)
        await stage.begin()
        await stage.broadcast(3)
        stage.made[0].lose(RolloutError("killed"))
        await settle()
        assert stage.made[1].version == stage.pool.version == 3
        await stage.pool.close()

    play(scene())


def test_the_budget_of_restarts_ends_the_run_for_those_who_wait() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=1, max_restarts=1)
        await stage.begin()
        [task] = stage.ask(0)
        for _ in range(2):
            await settle()
            stage.made[-1].lose(RolloutError("out of memory"))
        with pytest.raises(RolloutError, match="no rollout worker is left after 1 replacements.*out of memory"):
            await task
        assert len(stage.made) == 2
        await stage.pool.close()

    play(scene())


class NeverStarts(FakeWorker):
    starts = False


def test_an_engine_is_not_blamed_for_a_full_disk() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=2, max_restarts=9)
        await stage.begin()
        with pytest.raises(NoRoomError, match="/dev/shm is full"):
            await stage.broadcast(1, "too large")
        assert len(stage.made) == 2 and stage.pool.restarts == 0
        await stage.pool.close()

    play(scene())


def test_a_configuration_with_which_nothing_starts_ends_at_once() -> None:
    async def scene() -> None:
        stage = Stage(NeverStarts, num_workers=1, max_restarts=100)
        with pytest.raises(RolloutError, match="no such model"):
            await stage.pool.start("model")
        assert len(stage.made) == 1
        await stage.pool.close()

    play(scene())


class DiesWithItsFirstAdapter(FakeWorker):
    """Its engine raises inside a library that prints the error into the log, each time with another number in it."""

    log_dir = Path()
    errors: tuple[str, ...] = (
        "ValueError: Head size 16 is not supported (process 17)",
        "ValueError: Head size 16 is not supported (process 18)",
    )

    async def install(self, adapter: AdapterRef) -> None:
        made = len(list(self.log_dir.glob("*.made")))
        (self.log_dir / f"{made}.made").touch()
        with (self.log_dir / f"rollout-{self.index}.log").open("a") as log:
            log.write(f"(EngineCore pid=7) ERROR 11-28 [core.py:9] {self.errors[made % len(self.errors)]}\n")
            log.write(
                "(EngineCore pid=7) ERROR 11-28 [core.py:9] vllm.v1.EngineDeadError: EngineCore encountered an issue. See stack trace\n"
            )
        self.lose(RolloutError("its engine died", role=self.name), engine_died=True)


@pytest.mark.parametrize(("errors", "made"), [(DiesWithItsFirstAdapter.errors, 2), (("OSError: a", "KeyError: b", "TypeError: c"), 4)])
def test_a_start_that_fails_alike_twice_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, errors: tuple[str, ...], made: int
) -> None:
    """Each replacement is announced with what the library raised, and the error begins with it. Other errors may pass."""

    class Dies(DiesWithItsFirstAdapter):
        log_dir = tmp_path

    Dies.errors = errors

    async def scene() -> None:
        stage = Stage(Dies, num_workers=1, max_restarts=5)
        stage.pool._slots._log_dir = tmp_path
        await stage.pool.start("model")
        with pytest.raises(RolloutError) as caught:
            await stage.broadcast(0)
        assert caught.value.message.startswith(errors[(made - 1) % len(errors)] + "; no rollout worker is left")
        assert len(stage.made) == made
        await stage.pool.close()

    play(scene())
    announced = [record.getMessage() for record in caplog.records if record.name == "actors.slots"]
    assert announced == [
        f"rollout 0 is lost and started again ({number} of 5): {errors[(number - 1) % len(errors)]}" for number in range(1, made)
    ]


def test_close_reaches_those_who_wait() -> None:
    async def scene() -> None:
        stage = Stage(num_workers=1)
        await stage.pool.start("model")
        [task] = stage.ask(0)
        await settle()
        await stage.pool.close()
        with pytest.raises(RolloutError, match="closed"):
            await task
        assert stage.made[0].killed

    play(scene())


def test_seeds_differ_between_attempts() -> None:
    request = make_request(0)
    seeds = [other.completion_seed(index) for other in (request, replace(request, attempt=1)) for index in range(4)]
    assert len(set(seeds)) == 8 and np.all(np.array(seeds) >= 0)
