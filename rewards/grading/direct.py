"""Rewards that are called outside a run, for example in a notebook. Those that can hang grade in a process that can be killed.

    your process                                       a grader process
    reward(completions=...) ──► thread with a loop ──► NamedReward.grade

One warden with one grader serves all rewards of this process. They start at the first call that needs them, and end with this process.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import logging
import os
import threading
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar, cast

from configs.contracts.errors import ConfigError, RollcastError
from rewards.convention.group_input import Columns, GroupInput
from rewards.convention.per_completion import Grade, PerCompletionReward, TextReward
from rewards.functions import registry
from rewards.grading.loading import why_not_loaded

if TYPE_CHECKING:
    from rewards.functions.registry import Reward
    from rewards.grading.calling import GradeReport
    from rewards.grading.graders import Graders

logger = logging.getLogger("rollcast.rewards")

T = TypeVar("T")


def load(spec: str | Path | Reward, *, grading_timeout_s: float | None = None, **params: object) -> Reward:
    """Load a reward that you can call directly.

    `fn(completions=[...], **columns)`, with plain strings or chat messages, returns one float or None for each completion. A built-in that
    compares with a gold answer can hang, so it grades in another process: a completion that is not graded in time gets None, as under
    `rewards.on_error: exclude`, and a warning says so. A function of yours is called in this process.

    Args:
        spec: a built-in name, `path/to/file.py:function`, `package.module:function`, or a callable. A class is instantiated.
        grading_timeout_s: hard limit on grading one completion. Default: that of a run (`rewards.timeout_s`).
        params: the reward's parameters.

    Raises:
        ConfigError: there is no such reward, it has no such parameter, or its module cannot be imported.

    Example:
        >>> load("accuracy", answer_style="answer_tag")(completions=["<answer>4</answer>"], solution=["4"])
        [1.0]
    """
    spec = str(spec) if isinstance(spec, Path) else spec
    try:
        reward = registry.load(spec, **params)
    except RollcastError:
        raise
    except (Exception, SystemExit) as error:
        if not isinstance(spec, str):
            raise  # the caller's own class, made here
        raise ConfigError(why_not_loaded(spec, error)) from error
    if not isinstance(spec, str) or not isinstance(reward, PerCompletionReward) or not reward.can_hang:
        return reward
    return DirectReward(spec, params, reward, grading_timeout_s)


class DirectReward(PerCompletionReward):
    """A built-in reward that grades in another process. Pickled and read again, it is the built-in itself."""

    def __init__(self, name: str, params: Mapping[str, object], reward: PerCompletionReward, timeout_s: float | None) -> None:
        self.__name__ = reward.__name__
        self.needs_token_ids = reward.needs_token_ids
        self.gold_probe = reward.gold_probe
        self._name, self._params, self._reward, self._timeout_s = name, params, reward, timeout_s

    def __reduce__(self) -> tuple[object, ...]:
        return functools.partial(registry.load, self._name, **self._params), ()

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return self._reward.gold_columns(columns)

    def check_columns(self, columns: Collection[str]) -> None:
        self._reward.check_columns(columns)

    def check_row(self, columns: Columns) -> None:
        self._reward.check_row(columns)

    def grade(self, group: GroupInput, index: int) -> Grade:
        self.check_row(group.columns)
        if isinstance(self._reward, TextReward):  # the other completions do not matter, and may be many
            group, index = replace(group, texts_G=[group.texts_G[index]], token_ids_G=[]), 0
        columns: _NamedColumns = {"reward": self._name, "params": json.dumps(self._params), "columns": group.columns}
        report = _GRADER.grade(replace(group, columns=columns), index, self._timeout_s)
        if report.error:
            logger.warning("reward %s gave None to a completion: %s", self.__name__, report.error)
        return Grade(report.values[0], report.outcomes[0])


class _NamedColumns(TypedDict):
    """The columns of the groups that `NamedReward` gets."""

    reward: str
    params: str
    """JSON, which can be the key of a cache."""
    columns: Columns


class NamedReward(PerCompletionReward):
    """The reward that the grader of direct calls loads. It grades with the built-in that the group's columns name."""

    __name__ = "named"

    def grade(self, group: GroupInput, index: int) -> Grade:
        columns = cast(_NamedColumns, group.columns)
        return _made(columns["reward"], columns["params"]).grade(replace(group, columns=columns["columns"]), index)


@functools.lru_cache(maxsize=256)
def _made(name: str, params: str) -> PerCompletionReward:
    reward = registry.load(name, **json.loads(params))
    assert isinstance(reward, PerCompletionReward)
    return reward


class _Grader:
    """The grader of this process. Its event loop has a thread of its own: the caller's thread may run a loop already (a notebook)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._graders: Graders | None = None

    def grade(self, group: GroupInput, index: int, timeout_s: float | None) -> GradeReport:
        """Grade completion `index`. Start the grader first if there is none, or if it was killed."""
        from rewards.grading.progress import Step

        with self._lock:
            graders = self._ready()
        return self._run(graders.grade_step(group, Step(1, index), timeout_s))

    def close(self) -> None:
        """End the processes and the thread. The next call of `grade` starts them again."""
        with self._lock:
            loop, graders = self._loop, self._graders
            if loop is not None:
                if graders is not None:
                    self._run(graders.close())
                loop.call_soon_threadsafe(loop.stop)
                self._thread.join()
                loop.close()
            self._loop = self._graders = None

    def forget(self) -> None:
        """Forget everything, in a forked child: it has no such thread, and the processes belong to its parent."""
        self.__init__()

    def _ready(self) -> Graders:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="rollcast-direct-rewards", daemon=True)
            self._thread.start()
        if self._graders is not None and self._graders.lost.done():
            self._run(self._graders.close())
            self._graders = None
        if self._graders is None:
            self._graders = self._run(_start_graders())
        return self._graders

    def _run(self, work: Coroutine[object, object, T]) -> T:
        """Run a coroutine on the loop's thread, and wait for it. An interrupt (Ctrl-C) cancels it."""
        assert self._loop is not None
        result = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return result.result()
        finally:
            result.cancel()


async def _start_graders() -> Graders:
    from configs.schema.rewards import RewardsSection
    from rewards.grading.graders import Graders

    section = RewardsSection()
    return await Graders.start(
        [("accuracy", {}), (f"{__name__}:{NamedReward.__qualname__}", {})],  # the first so that the warden has loaded math-verify
        count=1,
        timeout_s=section.timeout_s,
        memory_limit_bytes=section.memory_limit_bytes,
        cwd=Path.cwd(),
    )


_GRADER = _Grader()
atexit.register(_GRADER.close)
os.register_at_fork(after_in_child=_GRADER.forget)
