"""One rollout worker as the pool holds it. Only this module makes remote calls to workers.

No call raises because a worker is gone: a call that discovers a dead worker records it (`lose`) and returns None.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.worker import AdapterTimes, RolloutWorker, WorkerFacts, WorkerStatus
from configs.contracts.errors import AdapterError, PoisonPromptError, RollcastError, RolloutError, unwrapped
from configs.contracts.records import AdapterRef, BodyRef, GroupSummary, RolloutRequest
from configs.schema.model import BUILTIN
from configs.schema.run import RunConfig

if TYPE_CHECKING:
    from ray import ObjectRef

Actor: TypeAlias = Any
"""Ray's handle of a worker. Ray adds its remote methods at run time, so that they have no static types."""

Result = TypeVar("Result")

CONCURRENT_CALLS = 10_000
"""Limit for one worker. Its calls are coroutines that mostly wait, and `status` must never queue behind them."""


def engine_env(config: RunConfig) -> dict[str, str]:
    """Environment variables of a worker and its engine. They take effect only if set before vllm is imported."""
    env = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    if config.model.path.startswith(BUILTIN) or Path(config.model.path).exists():
        env["HF_HUB_OFFLINE"] = "1"
    if config.actors.gpus_per_worker > 0:
        return env
    return env | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # on the CPU: the engine computes in its own process, not in one more
        "TORCHDYNAMO_DISABLE": "1",  # or the first request compiles the sampler for seconds, and needs a C++ compiler
        "OMP_NUM_THREADS": str(max(1, int(config.actors.cpus_per_worker))),
    }


def group_cost(request: RolloutRequest) -> int:
    """Largest number of tokens that a group can take; routing balances it over the workers."""
    sampling = request.sampling
    return len(request.prompt.token_ids) + sampling.num_generations * sampling.max_completion_length


class WorkerHandle:
    """One worker process, from its start to its loss. The process that replaces it has a handle of its own."""

    def __init__(self, index: int, actor: Actor) -> None:
        self.index = index
        self.name = f"rollout {index}"
        self.lost: asyncio.Future[RollcastError] = asyncio.get_running_loop().create_future()
        self.engine_died = False
        """True if the worker was lost because its engine died or hung, which a prompt may have caused."""
        self.facts: WorkerFacts | None = None
        self.version = -1
        """Policy version that it has confirmed; -1 before the first, when it is not ready."""
        self.sha256 = ""
        self.times: AdapterTimes | None = None
        """Seconds that its last adapter took."""
        self.installing = asyncio.Lock()
        self.tokens_in_hand = 0
        self._actor = actor

    @classmethod
    def spawn(cls, config: RunConfig, index: int, run_name: str, log_dir: Path, ray_options: Mapping[str, object]) -> WorkerHandle:
        """Start the process and return at once."""
        # Ray neither restarts nor retries: a new worker must first be given an adapter, and a retried sample is another sample
        options: dict[str, object] = {
            **ray_options,
            "runtime_env": {"env_vars": engine_env(config)},
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": CONCURRENT_CALLS,
        }
        return cls(index, ray.remote(RolloutWorker).options(**options).remote(config, index, run_name, log_dir))

    @property
    def ready(self) -> bool:
        return self.version >= 0 and not self.lost.done()

    def lose(self, error: BaseException, *, engine_died: bool = False) -> None:
        """Record that the worker is gone or cannot be trusted; the first reason stays."""
        if not self.lost.done():
            self.engine_died = engine_died
            self.lost.set_result(error if isinstance(error, RollcastError) else RolloutError(str(error), role=self.name))

    async def start(self, model_path: str, limit_s: float) -> None:
        """Load the model; the worker is lost if that takes longer than the limit."""
        try:
            self.facts = await asyncio.wait_for(self._answer(self._actor.start.remote(model_path)), limit_s)
        except TimeoutError:
            self.lose(
                RolloutError(f"it was not ready after {limit_s:g} s; raise actors.start_timeout_s, or look into its log", role=self.name)
            )
        except (RayActorError, RayTaskError) as error:
            self.lose(unwrapped(error))

    async def install(self, adapter: AdapterRef) -> None:
        """Install and verify an adapter, unless the worker has it already."""
        manifest = adapter.manifest
        if self.lost.done() or (self.version, self.sha256) == (manifest.version, manifest.sha256):
            return
        try:
            times = await self._answer(self._actor.install_adapter.remote(manifest, adapter.buffer))
        except (RayActorError, RayTaskError) as error:
            self.lose(unwrapped(error))
            return
        if times is not None:
            self.version, self.sha256, self.times = manifest.version, manifest.sha256, times

    async def rollout(self, request: RolloutRequest) -> tuple[GroupSummary, BodyRef] | None:
        """Sample a group; None if the worker was lost meanwhile.

        Raises:
            PoisonPromptError: the prompt cannot be sampled.
            Exception: a bug in the worker, as Ray hands it over.
        """
        cost = group_cost(request)
        self.tokens_in_hand += cost
        summary, body = self._actor.rollout.options(num_returns=2).remote(request)
        try:
            found = await self._answer(summary)
            return None if found is None else (found, body)
        except RayActorError as error:
            self.lose(error)
        except RayTaskError as error:
            cause = unwrapped(error)
            if isinstance(cause, PoisonPromptError) or not isinstance(cause, RollcastError):
                body.future()
                raise (cause if isinstance(cause, RollcastError) else error) from None
            self.lose(cause, engine_died=not isinstance(cause, AdapterError))
        finally:
            self.tokens_in_hand -= cost
        body.future()  # otherwise Ray would report the error again, as one that nobody retrieved
        return None

    async def status(self, limit_s: float) -> WorkerStatus | None:
        """Ask for the worker's status; None if it has not started, is lost, or does not answer within the limit."""
        if self.facts is None or self.lost.done():
            return None
        try:
            return await asyncio.wait_for(self._answer(self._actor.status.remote()), limit_s)
        except TimeoutError:
            return None
        except (RayActorError, RayTaskError) as error:
            self.lose(unwrapped(error))
            return None

    async def close(self, limit_s: float) -> None:
        """Give the worker time, up to the limit, to end its engine; then kill its process."""
        with suppress(TimeoutError, RayActorError, RayTaskError):
            await asyncio.wait_for(asyncio.wrap_future(self._actor.close.remote().future()), limit_s)
        self.kill()

    def kill(self) -> None:
        """Kill the process with SIGKILL. Its engine ends with it."""
        ray.kill(self._actor, no_restart=True)

    async def _answer(self, call: ObjectRef[Result]) -> Result | None:
        """Await a call; None as soon as the worker is lost, because a call to a stopped process would never return."""
        answer = asyncio.wrap_future(call.future())  # type: ignore[attr-defined]
        await asyncio.wait([answer, self.lost], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None
