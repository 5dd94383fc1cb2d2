"""Push the adapters of a run while it trains: `cluster.push_to_hub`.

    checkpoint of a step ─► its adapter, hard-linked into RUN/hub/step-000050 ─► `rollcast push` in a process of its own
                                                    (one at a time; of those that wait, only the newest is kept)

The training loop never waits for a push. A push that fails does not end the run: the failure is printed and counted, and the next push
uploads everything again. Pushes run in a process and not in a thread, because a process can be killed, and because a user can repeat the
same command by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from cluster.publish.hub import open_repository
from configs.contracts.errors import HubError
from configs.contracts.logs import tail
from configs.schema.cluster import PushToHubSection
from configs.schema.run import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}
FRONT_DOOR = str(Path(__file__).parents[2] / "rollcast.py")
"""The program that pushes, by its path: no folder of the user can stand in for it."""

WIDE = {"COLUMNS": "400"}
"""A wide terminal, so that an error is one line of the log."""


class HubSummary(TypedDict):
    """The pushes of a run, as `hub` in `summary.json`."""

    repo_id: str
    pushed_steps: list[int]
    failed_steps: list[int]
    superseded: int
    """Checkpoints that were not pushed because a newer one came before their turn."""
    last_error: str


def open_hub(config: RunConfig) -> str | None:
    """Make the repository that a run is pushed to, unless it exists; returns its id, or None if nothing is to be pushed.

    Raises:
        HubError: the hub cannot be reached, or does not let this token write. The run then does not start.
    """
    settings = config.cluster.push_to_hub
    if settings is None:
        return None
    name = settings.hub_model_id or config.out_dir.absolute().name
    try:
        return open_repository(name, private=settings.hub_private_repo, revision=settings.hub_model_revision)
    except HubError as error:
        raise HubError(
            f"{error.message}. The run was not started; to train without a hub, set cluster.push_to_hub= and use rollcast push later"
        ) from None


@dataclass
class HubUploads:
    """The pushes of one run. Their results are printed with `say(text)`."""

    run: Path
    settings: PushToHubSection
    repo_id: str
    say: Callable[[str], None]
    pushed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    superseded: int = 0
    """Checkpoints that were not pushed because a newer one came before their turn."""
    last_error: str = ""
    _waiting: tuple[int, Path] | None = None
    _working: asyncio.Task[None] | None = None

    @classmethod
    def open(
        cls, config: RunConfig, run: Path, repo_id: str | None, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
    ) -> HubUploads | None:
        """Prepare the pushes of the run in `run`; returns None if nothing is to be pushed. `repo_id` is from `open_hub`."""
        settings = config.cluster.push_to_hub
        if settings is None or repo_id is None:
            return None
        shutil.rmtree(run / "hub", ignore_errors=True)
        tokenizer.save_pretrained(run / "hub" / "tokenizer")
        return cls(run, settings, repo_id, say)

    @property
    def log(self) -> Path:
        return self.run / "logs" / "push.log"

    @property
    def command(self) -> str:
        """The command with which a user pushes the run's result."""
        return " ".join(["rollcast", "push", str(self.run), *self._options()])

    def after_save(self, step: int, adapter: Path) -> None:
        """Push the adapter of a checkpoint, after the push that is running. Returns at once: the files are linked, not copied."""
        if self.settings.hub_strategy != "every_save":
            return
        folder = self.run / "hub" / f"step-{step:06d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for file in (*adapter.iterdir(), *(self.run / "hub" / "tokenizer").iterdir()):
            if not (folder / file.name).exists():
                _link(file, folder / file.name)
        if self._waiting is not None:
            shutil.rmtree(self._waiting[1], ignore_errors=True)
            self.superseded += 1
        self._waiting = (step, folder)
        if self._working is None or self._working.done():
            self._working = asyncio.ensure_future(self._work())

    async def finish(self, step: int, *, whole: bool) -> HubSummary:
        """Push the run's result, and wait until it is done; returns the part `hub` of `summary.json`.

        This push and the one that is still running have `push_timeout_s` together.

        Args:
            whole: whether the run reached its end. A run that was stopped should end soon, so it pushes nothing more.
        """
        if self._waiting is not None:
            shutil.rmtree(self._waiting[1], ignore_errors=True)
            self._waiting, self.superseded = None, self.superseded + 1
        if not whole:
            self.say(f"the run was stopped, so its result is not pushed: continue with the same command, or push it with: {self.command}")
        elif not await self._push_result(step):
            self.say(f"WARNING: the result was not pushed to {self.repo_id}; it is in {self.run}, push it with: {self.command}")
        return {
            "repo_id": self.repo_id,
            "pushed_steps": self.pushed,
            "failed_steps": self.failed,
            "superseded": self.superseded,
            "last_error": self.last_error,
        }

    async def _push_result(self, step: int) -> bool:
        limit_s = self.settings.push_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                if self._working is not None:
                    await asyncio.wait([self._working])
                self.say(f"pushing the result to {self.repo_id} ...")
                return await self._push(step, [])
        except TimeoutError:
            self._fail(step, f"not done after cluster.push_to_hub.push_timeout_s {limit_s:g} s")
            return False

    async def close(self) -> None:
        """Stop the running push, and remove the adapters that waited."""
        self._waiting = None
        if self._working is not None:
            self._working.cancel()
            await asyncio.wait([self._working])
        shutil.rmtree(self.run / "hub", ignore_errors=True)

    async def _work(self) -> None:
        while self._waiting is not None:
            (step, folder), self._waiting = self._waiting, None
            try:
                if not await self._push(step, ["--adapter", str(folder)]):
                    self.say(
                        f"WARNING: the push of step {step} to {self.repo_id} failed; training continues, and the next checkpoint is pushed"
                    )
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    async def _push(self, step: int, arguments: Sequence[str]) -> bool:
        command = [sys.executable, "-P", FRONT_DOOR, "push", str(self.run), *arguments, *self._options(), "--message", f"Step {step}"]
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **QUIET, **WIDE},
                start_new_session=True,  # so that a Ctrl-C at the terminal reaches only the run
            )
            try:
                await process.wait()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode == 0:
            self.pushed.append(step)
            return True
        self._fail(step, next(iter(reversed(tail(self.log, lines=1).splitlines())), f"exit code {process.returncode}"))
        return False

    def _fail(self, step: int, reason: str) -> None:
        self.failed.append(step)
        self.last_error = reason.strip()
        self.say(f"push of step {step}: {self.last_error}")

    def _options(self) -> list[str]:
        private, revision = self.settings.hub_private_repo, self.settings.hub_model_revision
        return [
            *("--repo-id", self.repo_id),
            *([] if private is None else ["--private" if private else "--public"]),
            *([] if revision is None else ["--revision", revision]),
        ]


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:
        shutil.copy2(file, link)
