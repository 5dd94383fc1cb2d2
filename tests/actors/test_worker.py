"""Real workers, real vLLM on the CPU: what they sample is what the policy says, token by token, bit for bit.

Log-probabilities are compared with transformers + peft in float64. vLLM computes in float32, whose relative error of 6e-8 grows over two
layers and a softmax; 5e-7 is what is seen, and 1e-5 is allowed.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from actors.engine.adapter_folders import run_folder, shared_memory
from actors.handle import WorkerHandle
from configs.contracts.errors import AdapterError, PoisonPromptError, RolloutError
from configs.contracts.records import AdapterRef, Canary, Gang, RolloutGroup, RolloutRequest, adapter_sha256
from tests.actors.conftest import VOCABULARY, TinyPolicy, make_config, make_request

TOLERANCE = 1e-5
RUN_NAME = f"worker-test-{os.getpid()}"

Run = Callable[[Coroutine[Any, Any, Any]], Any]
MakePolicy = Callable[..., TinyPolicy]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """One event loop for the module, in which its workers live."""
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 300))


@pytest.fixture(scope="module")
def workers(
    ray_local: None, run: Run, tiny_model: Path, make_policy: MakePolicy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[WorkerHandle]]:
    """Two workers of one run, with adapter 0."""
    config, logs = make_config(tiny_model), tmp_path_factory.mktemp("logs")

    async def begin() -> list[WorkerHandle]:
        handles = [WorkerHandle.spawn(config, index, RUN_NAME, logs, {"num_cpus": 1}) for index in range(2)]
        await asyncio.gather(*(handle.start(str(tiny_model), 300) for handle in handles))
        for handle in handles:
            assert handle.facts, (logs / f"rollout-{handle.index}.log").read_text()[-3000:]
        await asyncio.gather(*(install(handle, make_policy(0)) for handle in handles))
        return handles

    async def end(handles: list[WorkerHandle]) -> None:
        await asyncio.gather(*(handle.close(15) for handle in handles))

    handles = run(begin())
    yield handles
    run(end(handles))
    assert not list(Path("/dev/shm").glob(f"*{RUN_NAME}*")), "adapters were left in shared memory"


async def install(worker: WorkerHandle, policy: TinyPolicy) -> None:
    import ray

    await worker.install(AdapterRef(policy.adapter.manifest, ray.put(policy.adapter.buffer)))


async def sample(worker: WorkerHandle, request: RolloutRequest) -> RolloutGroup:
    result = await worker.rollout(request)
    assert result is not None, worker.lost
    return RolloutGroup(await result[1])


async def sample_all(worker: WorkerHandle, requests: list[RolloutRequest], pause_s: float = 0.0) -> list[RolloutGroup]:
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(sample(worker, request)))
        await asyncio.sleep(pause_s)
    return sorted(await asyncio.gather(*tasks), key=lambda group: group.prompt_id)


async def tokens_are_sampled(worker: WorkerHandle, count: int, sampling: asyncio.Task[Any]) -> None:
    """Wait until the worker has sampled so many tokens more, or has nothing left to sample."""

    async def tokens() -> int:
        status = await worker.status(5)
        assert status is not None, worker.lost
        return status.tokens

    target = await tokens() + count
    while not sampling.done() and await tokens() < target:
        await asyncio.sleep(0.002)


def replay(models: dict[int, Any], group: RolloutGroup, index: int, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities of a completion, token by token with cached keys and values, each token by the model of its version: float64 [T].

    Keys and values of earlier tokens stay those of the version that computed them, as in the engine.
    """
    import torch

    token_ids = group.token_ids_T(index).tolist()
    version_T = [span.version for span in group.spans(index) for _ in range(span.start, span.end)]
    assert len(version_T) == len(token_ids), "every token has a version"
    cache, fed, logprobs = None, group.prompt_token_ids.tolist(), []
    with torch.no_grad():
        for token, version in zip(token_ids, version_T, strict=True):
            out = models[version](torch.tensor([fed]), past_key_values=cache, use_cache=True)
            cache, fed = out.past_key_values, [token]
            logprobs.append((out.logits[0, -1] / temperature).log_softmax(-1)[token].item())
    return np.array(logprobs)


def differences(models: dict[int, Any], groups: list[RolloutGroup], temperature: float = 1.0) -> np.ndarray:
    return np.concatenate(
        [np.abs(replay(models, group, i, temperature) - group.logprobs_T(i)) for group in groups for i in range(len(group))]
    )


def test_a_gang_gives_the_same_bits_in_fresh_engines(run: Run, workers: list[WorkerHandle], make_policy: MakePolicy) -> None:
    """First in the module: neither engine has sampled before. The second gets the members in another order, one after another."""

    def gang(version: int) -> list[RolloutRequest]:  # more completions than seats: 24 of 16
        return [replace(make_request(100 * version + index, tokens=4 + 3 * index), gang=Gang(f"v{version}", 6)) for index in range(6)]

    async def steps(worker: WorkerHandle, reverse: bool) -> list[RolloutGroup]:
        groups = await sample_all(worker, gang(1)[::-1] if reverse else gang(1), pause_s=0.02 if reverse else 0.0)
        await install(worker, make_policy(2))
        return groups + await sample_all(worker, gang(2)[::-1] if reverse else gang(2), pause_s=0.01 if reverse else 0.0)

    async def both() -> list[list[RolloutGroup]]:
        return list(await asyncio.gather(steps(workers[0], False), steps(workers[1], True)))

    one, other = run(both())
    assert len(one) == 12
    for left, right in zip(one, other, strict=True):
        assert left.table.equals(right.table, check_metadata=True), left.prompt_id


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_behaviour_logprobs_are_the_policys(run: Run, workers: list[WorkerHandle], make_policy: MakePolicy, temperature: float) -> None:
    run(install(workers[0], make_policy(3)))
    groups = run(sample_all(workers[0], [make_request(200 + index, temperature=temperature) for index in range(6)]))
    found = differences({3: make_policy(3).model}, groups, temperature)
    assert len(found) > 500
    assert found.max() < TOLERANCE and found.mean() < TOLERANCE / 10, (found.max(), found.mean())
    base = make_policy(3).model
    with base.disable_adapter():  # the comparison would notice an adapter that is not there
        assert differences({3: base}, groups[:1], temperature).max() > 0.05


def test_temperature_0_is_greedy(run: Run, workers: list[WorkerHandle], make_policy: MakePolicy) -> None:
    import torch

    run(install(workers[0], make_policy(4)))
    group = run(sample(workers[0], make_request(300, temperature=0.0, G=2)))
    assert group.token_ids_T(0).tolist() == group.token_ids_T(1).tolist()
    ids = group.prompt_token_ids.tolist() + group.token_ids_T(0).tolist()
    with torch.no_grad():
        best = make_policy(4).model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    start = len(group.prompt_token_ids)
    assert best[start - 1 : -1] == ids[start:]


def test_a_swap_in_mid_generation_replays_exactly(run: Run, workers: list[WorkerHandle], make_policy: MakePolicy) -> None:
    """With prompts longer than two cache blocks, so that siblings sampled after a swap would show keys of the policy before it."""

    async def scene(versions: range) -> list[RolloutGroup]:
        await install(workers[0], make_policy(versions[0]))
        requests = [make_request(10 * versions[0] + index, tokens=70) for index in range(10)]
        sampling = asyncio.create_task(sample_all(workers[0], requests))
        for version in versions[1:]:
            await tokens_are_sampled(workers[0], 20, sampling)
            await install(workers[0], make_policy(version))
        return await sampling

    groups: list[RolloutGroup] = []
    swapped, start = 0, 400
    while swapped < 4 and start < 430:  # how far the completions are when an adapter comes is the machine's affair: at most ten goes
        groups += run(scene(range(start, start + 3)))
        swapped = sum(len(group.spans(index)) > 1 for group in groups for index in range(len(group)))
        start += 3
    assert swapped >= 4, "no completion was running when the adapter changed"
    found = differences({version: make_policy(version).model for version in range(400, start)}, groups)
    assert found.max() < TOLERANCE, found.max()


def test_rslora_is_scaled_by_the_root_of_the_rank(run: Run, workers: list[WorkerHandle], make_policy: MakePolicy) -> None:
    """`install` alone would fail on the canary: with alpha / r the update would be smaller by sqrt(8)."""
    policy = make_policy(12, use_rslora=True)
    assert policy.model.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"] == pytest.approx(16 / 8**0.5)
    run(install(workers[0], policy))
    assert not workers[0].lost.done(), workers[0].lost
    groups = run(sample_all(workers[0], [make_request(1000 + index) for index in range(2)]))
    assert differences({12: policy.model}, groups).max() < TOLERANCE


def test_end_of_sequence_is_a_token_and_no_text(run: Run, workers: list[WorkerHandle]) -> None:
    groups = run(sample_all(workers[1], [make_request(500 + index) for index in range(12)]))
    ended = [(group, index) for group in groups for index in range(len(group)) if group.finish_reasons_G[index] == "stop"]
    assert ended, "no completion ended by itself"
    for group, index in ended:
        assert group.token_ids_T(index)[-1] == 1 and "<eos>" not in group.texts_G[index]
    assert all(len(group.token_ids_T(i)) == 48 for group in groups for i in range(4) if group.finish_reasons_G[i] == "length")


def test_sockets_of_an_engine_lie_where_its_run_removes_them(workers: list[WorkerHandle]) -> None:
    facts = workers[0].facts
    assert facts is not None
    sockets = [Path(str(socket.laddr)) for socket in psutil.Process(facts.pid).net_connections("unix") if socket.laddr]
    of_the_engine = [path for path in sockets if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", path.name)]
    assert of_the_engine and {path.parent for path in of_the_engine} == {run_folder(shared_memory(), RUN_NAME)}


def test_another_end_token_ends_a_completion_as_the_models_own_does(
    ray_local: None, run: Run, tiny_model: Path, make_policy: MakePolicy, tmp_path: Path
) -> None:
    """The letters e and s are two of 128 tokens, neither of them special."""
    config = make_config(tiny_model)
    config = config.model_copy(update={"model": config.model.model_copy(update={"eos_token": "e"})})
    end = 3 + ord("e") - 32

    async def scene() -> list[RolloutGroup]:
        worker = WorkerHandle.spawn(config, 0, f"{RUN_NAME}-end", tmp_path, {"num_cpus": 1})
        try:
            await worker.start(str(tiny_model), 300)
            await install(worker, make_policy(0))
            return await sample_all(worker, [make_request(700 + index) for index in range(12)])
        finally:
            await worker.close(15)

    groups = run(scene())
    completions = [
        (group.token_ids_T(i).tolist(), group.finish_reasons_G[i], group.texts_G[i]) for group in groups for i in range(len(group))
    ]
    assert {token_ids[-1] for token_ids, reason, _ in completions if reason == "stop"} == {1, end}
    for token_ids, reason, text in completions:
        assert end not in token_ids[:-1] and "e" not in text
        assert reason == "stop" or len(token_ids) == 48


@pytest.mark.parametrize(
    ("token_ids", "reason"),
    [((), "without tokens"), ((5,) * 81, "more than 80 tokens"), ((5, VOCABULARY), "has only 0 to 127"), ((5, -1), "has only 0 to 127")],
)
def test_poison_prompts_never_reach_the_engine(run: Run, workers: list[WorkerHandle], token_ids: tuple[int, ...], reason: str) -> None:
    request = make_request(600)
    poison = replace(request, prompt=replace(request.prompt, token_ids=token_ids))
    with pytest.raises(PoisonPromptError, match=f"prompt 0:600.*{reason}"):
        run(workers[1].rollout(poison))
    assert not workers[1].lost.done()
    assert len(run(sample(workers[1], make_request(601)))) == 4


def test_a_gang_does_not_wait_for_a_poison_prompt(run: Run, workers: list[WorkerHandle]) -> None:
    gang = Gang("with poison", 3)
    requests = [replace(make_request(700 + index), gang=gang) for index in range(3)]
    poison = replace(requests[2], prompt=replace(requests[2].prompt, token_ids=()))

    async def scene() -> list[Any]:
        calls = (sample(workers[1], requests[0]), sample(workers[1], poison), sample(workers[1], requests[1]))
        return list(await asyncio.gather(*calls, return_exceptions=True))

    first, refused, second = run(scene())
    assert len(first) == len(second) == 4 and isinstance(refused, PoisonPromptError)


def test_status_counts_tokens(run: Run, workers: list[WorkerHandle]) -> None:
    before = run(workers[1].status(5))
    group = run(sample(workers[1], make_request(800)))
    after = run(workers[1].status(5))
    assert after.tokens - before.tokens == sum(len(group.token_ids_T(index)) for index in range(4))
    assert after.busy_s > before.busy_s and after.in_flight == 0 and after.stalled_s < 1


def test_errors_cross_as_ours(run: Run, workers: list[WorkerHandle], make_policy: MakePolicy) -> None:
    """A damaged adapter makes the worker STALE, whatever it could do before: it is lost, with a typed error, and refuses to sample."""
    adapter = make_policy(8).adapter
    wrong = replace(adapter.manifest, sha256=adapter_sha256(adapter.buffer[1:]))
    run(install(workers[1], TinyPolicy(replace(adapter, manifest=wrong), None)))
    error = workers[1].lost.result()
    assert type(error) is AdapterError and "hash" in str(error)
    with pytest.raises(AdapterError, match="STALE"):
        import ray

        ray.get(workers[1]._actor.rollout.remote(make_request(900)))


def test_an_adapter_that_computes_something_else_is_found_by_its_canary(
    run: Run, workers: list[WorkerHandle], make_policy: MakePolicy
) -> None:
    """Last: it leaves the worker STALE."""
    adapter = make_policy(9).adapter
    canary = adapter.manifest.canary
    assert canary is not None
    off = Canary(canary.token_ids, tuple(value + 0.002 for value in canary.logprobs))  # the tolerance in float32 is 0.001
    run(install(workers[0], TinyPolicy(replace(adapter, manifest=replace(adapter.manifest, canary=off)), None)))
    error = workers[0].lost.result()
    assert isinstance(error, AdapterError) and "differ from the learner's by 0.002" in str(error)
    assert not isinstance(error, RolloutError)
