"""Killable graders: a pool of processes that call the rewards under a hard deadline. This is the side of the reward worker.

Some completions freeze a process that holds the GIL (`\\boxed{\\sum_{k=1}^{10^{9}} k^{k}}`), and some functions crash it. So a grader answers step by
step. A step is one completion under a per-completion reward, or a whole group under a user's function.

    step in time            its report; the grader does the next step
    step over its deadline  outcome `timeout` for this step; the grader is killed with all its children
    grader dies             outcome `crashed` for this step
                            then another grader goes on with the next step

rewards/grading/warden.py is the other side.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from configs.contracts.errors import RewardError
from rewards.convention.group_input import Columns, GroupInput
from rewards.convention.per_completion import PerCompletionReward
from rewards.functions.registry import NameAndParams, load
from rewards.grading.calling import GradeReport
from rewards.grading.frames import Forged
from rewards.grading.grader_process import Exited, GraderOutput, GraderProcess
from rewards.grading.messages import Answer, Ended, Graded, Kill, Spawn
from rewards.grading.progress import Progress, Step

T = TypeVar("T")

FRONT_DOOR = Path(__file__).parents[2] / "rollcast.py"
"""Runs a module of this project as a program."""

LOAD_TIMEOUT_S = 120.0
"""Limit on starting the warden and loading the rewards, users' modules included."""

OUT_OF_MEMORY = ("MemoryError", "bad_alloc", "Cannot allocate memory")
"""What the last output of a process says that got no more memory, in Python, in C++ and of the system."""


@dataclass
class Graders:
    """A pool of grader processes. Make one with `start`; any number of groups may be graded at the same time."""

    timeout_s: float
    need_token_ids: bool = True
    """True if a reward may read the token ids of completions."""
    needed_columns: Sequence[Sequence[str]] = ()
    """For each reward, the columns without which a user's function cannot be called."""
    read_columns: Sequence[Sequence[str]] = ()
    """For each reward, the columns that a user's function names, and `EVERY_COLUMN` if it takes every one."""
    replaced: int = 0
    """Number of graders that were killed or died, and were replaced."""
    lost: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Done when the warden has ended without `close`. Nothing can be graded any more."""
    _names: Sequence[str] = ()
    _per_completion: list[bool] = field(default_factory=list)
    _own_limits: list[Callable[[Columns], float]] = field(default_factory=list)
    """For each reward, a function: the columns of a group -> the seconds that the reward's own limits allow for one completion."""
    _idle: asyncio.LifoQueue[tuple[GraderProcess, GraderOutput] | RewardError] = field(default_factory=asyncio.LifoQueue)
    """Graders with nothing to do. The one that worked last is taken first: its caches are the fullest."""
    _graders: dict[int, GraderProcess] = field(default_factory=dict)
    _started: int = 0
    _closing: bool = False
    _replacements: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    async def start(
        cls,
        rewards: Sequence[NameAndParams],
        *,
        count: int,
        timeout_s: float,
        memory_limit_bytes: int,
        cwd: Path,
    ) -> Graders:
        """Start the warden and `count` graders, and load the rewards in each.

        Args:
            rewards: name and parameters of each reward.
            count: number of grader processes.
            timeout_s: deadline for one completion under one reward. It is longer where the reward's own limits allow more. A user's
                function, which gets a whole group of G completions, has G times as long.
            memory_limit_bytes: address space of one grader.
            cwd: folder that relative paths of users' functions start from.

        Raises:
            RewardError: a reward cannot be loaded. The text names it, and where in its code the error is.
        """
        graders = cls(timeout_s)
        graders._own_limits = [_own_limit(name, params) for name, params in rewards]
        graders._names = [name for name, _ in rewards]
        graders._start_warden(rewards, memory_limit_bytes, cwd)
        try:
            for ready in await asyncio.gather(*(graders._spawn() for _ in range(count))):
                graders._idle.put_nowait(ready)
        except BaseException:
            await graders.close()
            raise
        return graders

    def _start_warden(self, rewards: Sequence[NameAndParams], memory_limit_bytes: int, cwd: Path) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        path = [*sys.path, str(cwd)]
        # SECURITY: rewards need no GPU and no threads of their own. The warden has a session of its own: if the worker's process group
        # is killed, the warden lives on and cleans up.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        settings = json.dumps({"rewards": list(rewards), "memory_limit_bytes": memory_limit_bytes})
        self._warden = subprocess.Popen(
            # by its path: no module of the user can take its place
            [sys.executable, "-P", str(FRONT_DOOR), "-m", "rewards.grading.warden", str(theirs.fileno()), settings],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            cwd=cwd,
            env=env,
        )
        theirs.close()
        asyncio.get_running_loop().add_reader(self._control, self._on_control)

    def _on_control(self) -> None:
        try:
            message = self._control.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if message:
            ended: Ended = json.loads(message)
            grader = self._graders.pop(ended["number"], None)
            if grader:
                grader.exit(ended["exit_code"])
            return
        asyncio.get_running_loop().remove_reader(self._control)
        if not self._closing:
            self.lost.set_result(None)  # first: else the ends of the graders would be taken for crashes of the rewards
        for grader in self._graders.values():
            grader.exit(-signal.SIGKILL)

    async def _spawn(self) -> tuple[GraderProcess, GraderOutput]:
        self._started += 1
        grader = self._graders[self._started] = GraderProcess(self._started)
        ours, theirs = socket.socketpair()
        output_r, output_w = os.pipe()
        try:
            message: Spawn = {"spawn": grader.number, "key": grader.key}
            socket.send_fds(self._control, [json.dumps(message).encode()], [theirs.fileno(), output_w])
        finally:
            theirs.close()
            os.close(output_w)
        ours.setblocking(False)
        output = GraderOutput(output_r)
        await asyncio.get_running_loop().create_connection(lambda: grader, sock=ours)
        hello = await grader.answer(LOAD_TIMEOUT_S)
        if isinstance(hello, dict) and "loaded" in hello:
            self._per_completion = [per_completion for per_completion, _ in hello["loaded"]]
            self.need_token_ids = any(needs for _, needs in hello["loaded"])
            self.needed_columns, self.read_columns = hello["needs"], hello["reads"]
            return grader, output
        self._discard(grader, output)
        raise RewardError(_why_not_loaded(self._names, hello, output))

    def _discard(self, grader: GraderProcess, output: GraderOutput) -> None:
        if grader.number in self._graders:
            message: Kill = {"kill": grader.number}
            self._control.send(json.dumps(message).encode())
        if grader.transport:
            grader.transport.close()
        output.close()

    def _replace(self, grader: GraderProcess, output: GraderOutput) -> None:
        self._discard(grader, output)
        if self._closing:
            return
        self.replaced += 1
        task = asyncio.get_running_loop().create_task(self._add_spare())
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _add_spare(self) -> None:
        try:
            self._idle.put_nowait(await self._spawn())
        except RewardError as error:
            self._idle.put_nowait(error)
        except OSError:
            return  # the warden is gone, and `lost` says so

    async def grade(self, group: GroupInput) -> list[GradeReport]:
        """Grade a group with every reward, and return their reports in order.

        Raises:
            RewardError: the warden was killed, or a grader that replaces another cannot load the rewards.
        """
        size = len(group.texts_G)
        steps = [
            Step(reward, completion)
            for reward, per_completion in enumerate(self._per_completion)
            for completion in (range(size) if per_completion else (None,))
        ]
        return await self._until_lost(self._finish(group, steps, self.timeout_s))

    async def grade_step(self, group: GroupInput, step: Step, timeout_s: float | None = None) -> GradeReport:
        """Do one step of a group, under a deadline of its own if one is given. Raises what `grade` raises."""
        reports = await self._until_lost(self._finish(group, [step], self.timeout_s if timeout_s is None else timeout_s))
        return reports[step.reward]

    async def _until_lost(self, work: Coroutine[object, object, T]) -> T:
        """Await work that needs the warden. Raise RewardError as soon as the warden is gone: such work may wait for ever."""
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait({working, self.lost}, return_when=asyncio.FIRST_COMPLETED)
            if not self.lost.done():
                return working.result()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        raise RewardError("the warden, which starts the graders, was killed from outside; run or call again")

    async def _finish(self, group: GroupInput, steps: list[Step], timeout_s: float) -> list[GradeReport]:
        """Do these steps. When a grader must be replaced, go on with another."""
        progress = Progress(group, steps, [GradeReport([], []) for _ in self._per_completion], timeout_s)
        while progress.done < len(steps):
            idle = await self._idle.get()
            if isinstance(idle, RewardError):
                self._idle.put_nowait(idle)
                raise idle
            grader, output = idle
            if grader.exited.done():  # it died while it had nothing to do: no completion is to blame
                self._replace(grader, output)
                continue
            try:
                reusable = await self._go_on(grader, output, progress)
            except BaseException:
                self._replace(grader, output)
                raise
            if reusable:
                self._idle.put_nowait(idle)
            else:
                self._replace(grader, output)
        return progress.reports

    async def _go_on(self, grader: GraderProcess, output: GraderOutput, progress: Progress) -> bool:
        """Let one grader do the steps that are left. Return False if it must be replaced."""
        output.new_group()
        grader.ask({"key": "", "group": asdict(progress.group), "steps": progress.steps[progress.done :]})
        first = progress.done
        while progress.done < len(progress.steps):
            deadline_s = self._deadline_s(progress)
            answer = await grader.answer(deadline_s)
            if answer is None:
                progress.fail("timeout", f"no answer within {deadline_s:g} s; its process was killed")
                return False
            if isinstance(answer, Exited):
                progress.fail("crashed", f"its process {answer}{_quoted(output)}")
                return False
            if isinstance(answer, Forged) or "values" not in answer or not progress.expects(answer, first):
                unasked = answer if isinstance(answer, Forged) else Forged("an answer to nothing that was asked")
                progress.fail("crashed", f"{unasked}; its process was killed{_quoted(output)}")
                return False
            progress.record(_report_of(answer))
        last = await grader.answer(self.timeout_s)
        if not isinstance(last, dict) or "left_children" not in last:
            return False
        if last["left_children"]:
            print("a reward left processes running after its group; they are killed, and its grader is replaced", flush=True)
        return not last["left_children"]

    def _deadline_s(self, progress: Progress) -> float:
        """The deadline of the next step."""
        step = progress.steps[progress.done]
        if step.completion is None:
            return progress.timeout_s * len(progress.group.texts_G)
        return max(progress.timeout_s, self._own_limits[step.reward](progress.group.columns))

    async def close(self) -> None:
        """End every process, and return when all have ended."""
        self._closing = True
        for task in list(self._replacements):
            task.cancel()
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()  # at this the warden kills everything below it, and ends
        while self._warden.poll() is None:  # no thread waits for it: while the interpreter ends, none can be started
            await asyncio.sleep(0.005)
        for grader in self._graders.values():
            if grader.transport:
                grader.transport.close()

    def pids(self) -> list[int]:
        """The warden's process id. All other processes are below it."""
        return [self._warden.pid]


def _report_of(answer: Graded) -> GradeReport:
    return GradeReport(
        answer["values"], answer["outcomes"], answer.get("error", ""), dict(answer.get("metrics", {})), dict(answer.get("extras", {}))
    )


def _own_limit(name: str, params: Mapping[str, object]) -> Callable[[Columns], float]:
    """A built-in's `deadline_s`; 0 for a user's function, whose module must not run in this process."""
    reward = None if ":" in name else load(name, **params)
    return reward.deadline_s if isinstance(reward, PerCompletionReward) else lambda columns: 0.0


def _why_not_loaded(names: Sequence[str], hello: Answer | Exited | Forged | None, output: GraderOutput) -> str:
    loading = f"loading {', '.join([name for name in names if ':' in name] or names)}"
    if hello is None:
        return f"{loading} took more than {LOAD_TIMEOUT_S:g} s; look what is done there when it is imported"
    if isinstance(hello, Exited):
        quoted = _quoted(output)
        remedy = "look what is done there when it is imported"
        if hello.code == -signal.SIGKILL or any(sign in quoted for sign in OUT_OF_MEMORY):
            remedy = "raise rewards.memory_limit_bytes, or free memory on this machine"
        return f"{loading} ended the grader process: it {hello}; {remedy}{quoted}"
    if isinstance(hello, Forged) or "failed" not in hello:
        return f"{loading} spoiled the grader: {hello if isinstance(hello, Forged) else Forged('an answer to nothing that was asked')}"
    return hello["failed"]


def _quoted(output: GraderOutput) -> str:
    output.drain()
    text = output.tail.decode(errors="replace").strip()
    return f"; its last output:\n{text}" if text else ""
