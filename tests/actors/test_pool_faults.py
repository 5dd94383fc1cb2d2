"""Real processes, really killed: every group comes back, the worker is replaced, and nothing survives.

One pool of two workers for the module; each test leaves it with two ready workers.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from actors.pool import RolloutPool
from configs.contracts.errors import RolloutError
from configs.contracts.records import AdapterRef, RolloutGroup, SyncReport
from tests.actors.conftest import TinyPolicy, make_config, make_request

RUN_NAME = f"faults-test-{os.getpid()}"
LENGTH = 200
PROGRESS_TIMEOUT_S = 15.0  # a busy machine must not look like a stopped engine

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MakePolicy = Callable[[int], TinyPolicy]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One event loop for the module, in which its pool lives."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 300))


@pytest.fixture(scope="module")
def seen() -> set[int]:
    """Every process that belonged to the pool at some time."""
    return set()


@pytest.fixture(scope="module")
def pool(
    ray_local: None, run: Run, tiny_model: Path, make_policy: MakePolicy, seen: set[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RolloutPool]:
    config = make_config(tiny_model, num_workers=2, max_completion_length=LENGTH, progress_timeout_s=PROGRESS_TIMEOUT_S)

    async def begin() -> RolloutPool:
        pool = RolloutPool.create(config, ray_options={"num_cpus": 1}, log_dir=tmp_path_factory.mktemp("logs"), run_name=RUN_NAME)
        await pool.start(str(tiny_model))
        await broadcast(pool, make_policy(0))
        return pool

    pool = run(begin())
    seen.update(pool.worker_pids() + pool.engine_pids())
    yield pool
    run(pool.close())


async def broadcast(pool: RolloutPool, policy: TinyPolicy) -> SyncReport:
    import ray

    return await pool.broadcast(AdapterRef(policy.adapter.manifest, ray.put(policy.adapter.buffer)))


async def until(condition: Callable[[], bool], limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.05)


def ready(pool: RolloutPool, seen: set[int]) -> bool:
    seen.update(pool.worker_pids() + pool.engine_pids())
    return len(pool._slots.ready) == 2


async def sample_and_strike(pool: RolloutPool, seen: set[int], first_index: int, strike: Callable[[], None]) -> list[int]:
    """24 groups, a blow in the middle; gives how often each was reissued, when all are there and two workers are ready again."""
    requests = [make_request(first_index + index, length=LENGTH) for index in range(24)]
    tasks = [asyncio.create_task(pool.rollout(request)) for request in requests]
    await until(lambda: sum(task.done() for task in tasks) >= 2)
    strike()
    results = await asyncio.gather(*tasks)
    for request, (summary, body) in zip(requests, results, strict=True):
        group = RolloutGroup(await body)
        assert group.prompt_id == summary.prompt_id == request.prompt.id and len(group) == 4
        assert group.attempt == summary.attempt == summary.reissued
        assert summary.completion_tokens_G == tuple(len(group.token_ids_T(index)) for index in range(4))
    await until(lambda: ready(pool, seen))
    return [summary.reissued for summary, _ in results]


@pytest.mark.parametrize("victim", ["actor", "engine"])
def test_a_killed_process_loses_no_group(run: Run, pool: RolloutPool, seen: set[int], victim: str) -> None:
    restarts = pool.restarts
    pids = pool.worker_pids() if victim == "actor" else pool.engine_pids()
    began = time.monotonic()
    reissued = run(sample_and_strike(pool, seen, 1000 if victim == "actor" else 2000, lambda: os.kill(pids[0], signal.SIGKILL)))
    assert 1 <= sum(reissued) <= 24 and max(reissued) == 1, reissued
    assert pool.restarts == restarts + 1
    print(f"kill -9 of the {victim}: {sum(reissued)} of 24 groups sampled anew, two workers ready after {time.monotonic() - began:.1f} s")


def test_a_replacement_has_the_current_adapter(run: Run, pool: RolloutPool, seen: set[int], make_policy: MakePolicy) -> None:
    async def scene() -> None:
        report = await broadcast(pool, make_policy(1))
        assert report.version == pool.version == 1 and report.canary_difference < 1e-5 and report.paused_s > 0
        os.kill(pool.engine_pids()[0], signal.SIGKILL)
        report = await broadcast(pool, make_policy(2))  # straight after: one engine is dead, the pool may not know it yet
        assert report.version == 2
        await until(lambda: ready(pool, seen))
        assert pool.version == 2
        statuses = await pool.status()
        assert [status.version for status in statuses.values() if status] == [2, 2]

    run(scene())


def test_a_stopped_engine_is_replaced(run: Run, pool: RolloutPool, seen: set[int]) -> None:
    restarts, [pid, _] = pool.restarts, pool.engine_pids()
    reissued = run(sample_and_strike(pool, seen, 3000, lambda: os.kill(pid, signal.SIGSTOP)))
    assert sum(reissued) >= 1 and pool.restarts == restarts + 1


def test_nothing_survives_close(run: Run, pool: RolloutPool, seen: set[int]) -> None:
    """Last in the module: it closes the pool, with work in hand. Engines that were killed left temporary files where they are found."""
    assert len(seen) >= 10
    assert list(Path("/dev/shm").glob(f"*{RUN_NAME}*/vllm_dist_*"))

    async def scene() -> float:
        task = asyncio.create_task(pool.rollout(make_request(4000, length=LENGTH)))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        await pool.close()
        closed_s = time.monotonic() - began
        with pytest.raises(RolloutError):
            await task
        await until(lambda: not any(psutil.pid_exists(pid) for pid in seen), limit_s=15)
        return closed_s

    assert run(scene()) < 20
    assert not list(Path("/dev/shm").glob(f"*{RUN_NAME}*")), "adapters were left in shared memory"


def test_a_model_that_is_not_there_ends_the_start(ray_local: None, run: Run, tmp_path: Path) -> None:
    config = make_config(tmp_path, num_workers=1)

    async def scene() -> None:
        pool = RolloutPool.create(config, ray_options={"num_cpus": 1}, log_dir=tmp_path / "logs", run_name=f"{RUN_NAME}-none")
        try:
            with pytest.raises(RolloutError, match="vLLM did not start") as caught:
                await pool.start(str(tmp_path))
            assert caught.value.log_tail
        finally:
            await pool.close()

    run(scene())
