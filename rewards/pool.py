"""RewardPool: all reward workers, as the driver sees them. The only file of rewards/ that starts Ray actors or calls them.

A group goes to the worker that has the fewest completions to score. A worker that dies or no longer answers is replaced, and its groups
are scored again by another worker: scoring a group twice does no harm. Ray itself retries and restarts nothing. A replacement that cannot
start, as where a node was lost, is tried again with growing pauses; the pool gives up when it has had no worker for too long.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter, deque
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

from configs.contracts.errors import RewardError, RolloutError, unwrapped
from configs.contracts.logs import tail
from configs.contracts.records import FAILED_OUTCOMES, BodyRef, GroupSummary, Outcome, RolloutGroup, Scores
from configs.schema.rewards import RewardsSection
from configs.schema.run import RunConfig
from rewards.functions.registry import validate
from rewards.worker import RewardWorker, WorkerFacts, WorkerReport

logger = logging.getLogger("rollcast.rewards")

Actor: TypeAlias = Any
"""Ray's handle of a `RewardWorker`. It makes its methods at run time, where no type checker sees them."""

START_TIMEOUT_S = 300.0
"""Limit on starting a worker and loading its rewards. It includes waiting for a node with room."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Pauses between two tries to start a replacement; each is twice as long as the one before."""

PING_EVERY_S, PONG_WITHIN_S = 5.0, 15.0
"""While a worker scores a group, it is pinged this often, and must answer this soon. It keeps the deadlines of gradings itself."""

CLOSE_TIMEOUT_S = 30.0
"""Limit on ending the graders of all workers. Then the workers are killed, and their graders end with them."""


@dataclass(frozen=True, slots=True)
class RewardPoolStatus:
    """The pool at one moment. Counts are since its start."""

    workers: int
    """Workers that are ready to score."""
    in_flight: int
    """Groups being scored."""
    busy_s: float
    """Wall seconds in which a worker was scoring, summed over all workers, also those since replaced."""
    busy_share: float
    """`busy_s` divided by the wall seconds since the start times the number of workers."""
    graders_replaced: int
    workers_restarted: int
    outcomes: Mapping[str, Mapping[Outcome, int]]
    """Completions by reward and outcome."""


@dataclass
class _Slot:
    """A numbered slot of the pool: the worker that has it now, and that worker's counts."""

    index: int
    log_path: Path
    actor: Actor = None
    facts: WorkerFacts | None = None
    completions: int = 0
    """Completions being scored."""
    groups: int = 0
    busy_s: float = 0.0
    graders_replaced: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return f"reward worker {self.index}"


class RewardPool:
    """Scores groups on reward workers. Make one with `start`. All methods must run on the same event loop.

    Example:
        pool = await RewardPool.start(config, ray_options={}, log_dir=run_dir / "logs")
        scores = await pool.score(body_ref, summary, step=0)
        await pool.close()
    """

    def __init__(self, section: RewardsSection, ray_options: Mapping[str, object], log_dir: Path, lost_resources_wait_s: float) -> None:
        self._section = section
        self._lost_resources_wait_s = lost_resources_wait_s
        self._ray_options = ray_options
        self._slots = [_Slot(index, (log_dir / f"reward-{index}.log").absolute()) for index in range(section.num_workers)]
        self._restarts = 0
        self._retired_busy_s = 0.0
        self._retired_graders_replaced = 0
        self._outcomes: dict[str, Counter[Outcome]] = {spec.label: Counter() for spec in section.functions}
        self._failures: deque[bool] = deque(maxlen=section.error_window)
        self._first_error = ""
        self._warned_of_none = False
        self._warned_of: set[str] = set()
        """Rewards whose first failure was shown."""
        self._failed_start: RewardError | None = None
        """The last failed start of a replacement."""
        self._fatal: RewardError | None = None
        self._changed = asyncio.Event()
        self._restarting: set[asyncio.Task[None]] = set()
        self._started_s = 0.0

    @classmethod
    async def start(cls, config: RunConfig, *, ray_options: Mapping[str, object], log_dir: Path) -> RewardPool:
        """Start all workers and load the rewards.

        Args:
            config: the settings of the run.
            ray_options: Ray's options for each worker's actor, such as node labels. They overrule the pool's own.
            log_dir: folder of the workers' logs, `reward-<index>.log`.

        Raises:
            ConfigError: a reward's name or parameter is wrong. Nothing was started.
            RewardError: a reward cannot be loaded, or a worker does not start.
        """
        section = config.rewards_resolved
        validate(section)
        pool = cls(section, ray_options, log_dir, config.cluster.lost_resources_wait_s)
        try:
            opened = await asyncio.gather(*(pool._open(slot) for slot in pool._slots), return_exceptions=True)
            for error in opened:
                if error is not None:
                    raise error
        except BaseException:
            await pool.close()
            raise
        pool._started_s = time.monotonic()
        return pool

    async def score(self, body: BodyRef, summary: GroupSummary, step: int) -> Scores:
        """Score one group.

        Args:
            body: reference of the group's table in the object store. A copy of the table is left on the driver's node, which a run cannot
                lose: a scored group outlives the node that sampled it.
            summary: the facts about the group.
            step: optimizer steps done.

        Raises:
            RewardError: a reward failed and `on_error` is `fail`; or rewards failed on too many of the last `error_window` completions;
                or workers died more often than `max_restarts`; or no worker was left for `cluster.lost_resources_wait_s`.
            RolloutError: the body is lost, and the group must be sampled again.
        """
        while True:
            slot = await self._least_loaded()
            with _lost_bodies_sampled_again(summary):
                report = await self._score_on(slot, body, summary, step)
                if report is not None and not has_copy_here(body):
                    await body
            if report is not None:
                slot.busy_s, slot.graders_replaced = max(slot.busy_s, report.busy_s), max(slot.graders_replaced, report.graders_replaced)
                await self._account(body, report.scores)
                return report.scores

    async def _least_loaded(self) -> _Slot:
        while True:
            if self._fatal:
                raise self._fatal
            ready = [slot for slot in self._slots if slot.ready.is_set()]
            if ready:
                return min(ready, key=lambda slot: slot.completions)
            self._changed.clear()
            await self._changed.wait()

    async def _score_on(self, slot: _Slot, body: BodyRef, summary: GroupSummary, step: int) -> WorkerReport | None:
        """Score a group on this worker. Return None if the worker was lost; it is then being replaced."""
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        actor, size = slot.actor, len(summary.completion_tokens_G)
        slot.completions += size
        slot.groups += 1
        call = asyncio.ensure_future(actor.score.remote(body, step))
        try:
            while not (await asyncio.wait({call}, timeout=PING_EVERY_S))[0]:
                async with asyncio.timeout(PONG_WITHIN_S):
                    await actor.ping.remote()
            return await call
        except (RayActorError, TimeoutError) as error:
            self._lost(slot, actor, error)
        except ObjectLostError:  # a RayTaskError too, when the worker finds it
            raise
        except RayTaskError as error:
            raise _as_reward_error(error, slot) from error
        finally:
            call.cancel()
            if slot.actor is actor:
                slot.completions -= size
                slot.groups -= 1
        return None

    async def _open(self, slot: _Slot) -> None:
        """Start a worker in this slot, and wait until its rewards are loaded."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        actor_class: Any = ray.remote(RewardWorker).options(  # type: ignore[attr-defined]
            **{"num_cpus": self._section.cpus_per_worker, "max_restarts": 0, "max_task_retries": 0, **self._ray_options}
        )
        actor = slot.actor = actor_class.remote(self._section, slot.log_path, Path.cwd())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                slot.facts = await actor.start.remote()
        except RayTaskError as error:
            ray.kill(actor)
            raise _as_reward_error(error, slot) from error
        except (RayActorError, TimeoutError) as error:
            ray.kill(actor)
            why = "did not start" if isinstance(error, RayActorError) else f"was not ready after {START_TIMEOUT_S:g} s"
            raise RewardError(f"it {why}: {error}", role=slot.name, log_tail=tail(slot.log_path)) from error
        slot.completions = slot.groups = 0
        slot.ready.set()
        self._changed.set()

    def _lost(self, slot: _Slot, actor: Actor, error: Exception) -> None:
        """Begin to replace a worker. Its death ends many calls; only the first of them does this."""
        import ray

        if slot.actor is not actor or not slot.ready.is_set():
            return
        slot.ready.clear()
        ray.kill(actor)
        self._retired_busy_s += slot.busy_s
        self._retired_graders_replaced += slot.graders_replaced
        slot.busy_s, slot.graders_replaced = 0.0, 0
        self._restarts += 1
        why = "did not answer" if isinstance(error, TimeoutError) else "died"
        if self._restarts > self._section.max_restarts:
            self._end(
                RewardError(
                    f"it {why}, and rewards.max_restarts {self._section.max_restarts} replacements are used up; look at its log",
                    role=slot.name,
                    node=slot.facts.node if slot.facts else "",
                    log_tail=tail(slot.log_path),
                )
            )
            return
        logger.warning("%s %s; it is being replaced (replacement %d of %d)", slot.name, why, self._restarts, self._section.max_restarts)
        self._begin(self._reopen(slot))
        if not any(slot.ready.is_set() for slot in self._slots):
            self._begin(self._await_one())

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._restarting.add(task)
        task.add_done_callback(self._restarting.discard)

    async def _reopen(self, slot: _Slot) -> None:
        """Start a worker in this slot, however often it takes."""
        for attempt in itertools.count():
            try:
                await self._open(slot)
                return
            except RewardError as error:
                self._failed_start = error
            pause_s = min(FIRST_PAUSE_S * 2.0**attempt, LONGEST_PAUSE_S)
            logger.warning("%s: %s; it is tried again in %g s", slot.name, self._failed_start.message, pause_s)
            await asyncio.sleep(pause_s)

    async def _await_one(self) -> None:
        """End the pool if it has no worker for too long."""
        waits = [asyncio.ensure_future(slot.ready.wait()) for slot in self._slots]
        try:
            done, _ = await asyncio.wait(waits, timeout=self._lost_resources_wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not done:
            last = self._failed_start or RewardError("Ray has not found room for it")
            reason = f"no reward worker was left for {self._lost_resources_wait_s:g} s (cluster.lost_resources_wait_s); the last try: "
            self._end(RewardError(reason + last.message, role=last.role, node=last.node, log_tail=last.log_tail))

    def _end(self, error: RewardError) -> None:
        self._fatal = error
        self._changed.set()

    async def _account(self, body: BodyRef, scores: Scores) -> None:
        for name, column in scores.columns.items():
            self._outcomes[name].update(column.outcomes_G)
        outcomes_G = list(zip(*(column.outcomes_G for column in scores.columns.values()), strict=True))
        failed_G = [not FAILED_OUTCOMES.isdisjoint(outcomes) for outcomes in outcomes_G]
        self._failures.extend(failed_G)
        self._first_error = self._first_error or scores.first_error
        if any(failed_G) and self._section.on_error == "fail":
            raise RewardError(f"a reward failed on group {scores.prompt_id}, and rewards.on_error is fail:\n{scores.first_error}")
        rate, window = self._section.max_error_rate, self._section.error_window
        if sum(self._failures) > rate * window:
            raise RewardError(
                f"rewards failed on {sum(self._failures)} of the last {len(self._failures)} completions, more than "
                f"rewards.max_error_rate {rate:g} of {window}; the first failure:\n{self._first_error}"
            )
        if any(failed_G):
            self._warn_of_failures(scores)
        elif None in scores.rewards_G and not self._warned_of_none:
            self._warned_of_none = True
            await self._warn_of_none(body, scores)

    def _warn_of_failures(self, scores: Scores) -> None:
        """Show the first failure of each reward, in training or in an evaluation; the later ones are counted."""
        fate = "it counts as 0 for them (rewards.on_error)" if self._section.on_error == "zero" else "such completions get no reward"
        for name, column in scores.columns.items():
            failed = [outcome for outcome in column.outcomes_G if outcome in FAILED_OUTCOMES]
            if failed and name not in self._warned_of:
                self._warned_of.add(name)
                logger.warning(
                    "reward %s failed on %d of %d completions of prompt %s (%s); %s; later failures are only counted, as rewards/%s/%s.\n%s",
                    name, len(failed), len(column.outcomes_G), scores.prompt_id, failed[0], fate, name, failed[0], scores.first_error,
                )  # fmt: skip

    async def _warn_of_none(self, body: BodyRef, scores: Scores) -> None:
        index = scores.rewards_G.index(None)
        said = ", ".join(f"{name}: {column.outcomes_G[index]}" for name, column in scores.columns.items())
        logger.warning(
            "no reward applies to completion %d of prompt %s (%s); such completions get no reward. The columns of its row: %s",
            index, scores.prompt_id, said, RolloutGroup(await body).columns,
        )  # fmt: skip

    def status(self) -> RewardPoolStatus:
        """The pool's counts at this moment."""
        elapsed_s = (time.monotonic() - self._started_s) * len(self._slots)
        busy_s = self._retired_busy_s + sum(slot.busy_s for slot in self._slots)
        return RewardPoolStatus(
            workers=sum(slot.ready.is_set() for slot in self._slots),
            in_flight=sum(slot.groups for slot in self._slots),
            busy_s=busy_s,
            busy_share=min(1.0, busy_s / elapsed_s) if elapsed_s else 0.0,
            graders_replaced=self._retired_graders_replaced + sum(slot.graders_replaced for slot in self._slots),
            workers_restarted=self._restarts,
            outcomes={name: dict(counts) for name, counts in self._outcomes.items()},
        )

    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are ready, in the order of their slots."""
        return [slot.facts.pid for slot in self._slots if slot.facts and slot.ready.is_set()]

    async def close(self) -> None:
        """End all workers and their graders. Calls that are under way fail."""
        import ray

        for task in list(self._restarting):
            task.cancel()
        self._end(RewardError("the pool of reward workers is closed"))
        actors = [slot.actor for slot in self._slots if slot.actor is not None]
        closing = [asyncio.ensure_future(actor.close.remote()) for actor in actors]
        if closing:
            await asyncio.wait(closing, timeout=CLOSE_TIMEOUT_S)
        for actor in actors:
            ray.kill(actor)
        for call in closing:
            call.cancel()
        await asyncio.gather(*closing, return_exceptions=True)


def has_copy_here(body: BodyRef) -> bool:
    """Ask the driver's own record whether its node has a copy of a body in the object store. Nothing is sent, and the body is not opened.

    A body of a few kilobytes is in no object store: Ray keeps it in the driver's memory.
    """
    import ray
    from ray.experimental import get_local_object_locations

    reference = cast("ray.ObjectRef[object]", body)
    return ray.get_runtime_context().get_node_id() in get_local_object_locations([reference])[reference]["node_ids"]


@contextmanager
def _lost_bodies_sampled_again(summary: GroupSummary) -> Iterator[None]:
    """Turn Ray's error about a lost body into one of the rollout."""
    from ray.exceptions import ObjectLostError

    try:
        yield
    except ObjectLostError as error:
        raise RolloutError(f"the body of group {summary.prompt_id} was lost with its node; sample the prompt again") from error


def _as_reward_error(error: Exception, slot: _Slot) -> RewardError:
    """Turn what a worker raised into a RewardError that names the worker and its node."""
    cause = unwrapped(error)
    if isinstance(cause, RewardError):
        return RewardError(cause.message, role=slot.name, node=cause.node or (slot.facts.node if slot.facts else ""))
    return RewardError(f"{type(cause).__name__}: {cause}", role=slot.name, log_tail=str(error)[-4000:])
