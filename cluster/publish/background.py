"""Pushes a run's adapters while it trains: `cluster.push_to_hub`.

    checkpoint of a step ─► its adapter, hard-linked into RUN/hub/step-000050 ─► `rollcast push` in a process of its own
                                                    (one at a time; of those that wait only the newest is kept)

The loop never waits for a push, and no failure of one ends the run: it is said, counted, and made good by the next. The process can be
killed, which a thread could not, and is the very command that a person would repeat.
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
"""So that an error stays one line of the log."""


class HubSummary(TypedDict):
    """The pushes of a run, as `hub` in `summary.json`."""

    repo_id: str
    pushed_steps: list[int]
    failed_steps: list[int]
    superseded: int
    """Saves that were never pushed because a newer one came before their turn."""
    last_error: str


def open_hub(config: RunConfig) -> str | None:
    """The id of the repository that a run is pushed to, which is made where there is none; None where nothing is to be pushed.

    Raises:
        HubError: the hub cannot be reached, or does not let this token write there. The run is not started.
    """
    settings = config.cluster.push_to_hub
    if settings is None:
        return None
    name = settings.hub_model_id or config.out_dir.absolute().name
    try:
        return open_repository(name, private=settings.hub_private_repo, revision=settings.hub_model_revision)
    except HubError as error:
        raise HubError(
            f"{error.message}. Nothing was started; cluster.push_to_hub= trains without a hub, and rollcast push pushes later"
        ) from None


@dataclass
class HubUploads:
    """The pushes of one run. `say(text)` shows a person what came of them."""

    run: Path
    settings: PushToHubSection
    repo_id: str
    say: Callable[[str], None]
    pushed: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    superseded: int = 0
    """Saves that were never pushed because a newer one came before their turn."""
    last_error: str = ""
    _waiting: tuple[int, Path] | None = None
    _working: asyncio.Task[None] | None = None

    @classmethod
    def open(
        cls, config: RunConfig, run: Path, repo_id: str | None, tokenizer: PreTrainedTokenizerBase, say: Callable[[str], None]
    ) -> HubUploads | None:
        """For the run in `run`, whose repository `open_hub` opened; None where nothing is to be pushed."""
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
        """The command that pushes the run's result."""
        return " ".join(["rollcast", "push", str(self.run), *self._options()])

    def after_save(self, step: int, adapter: Path) -> None:
        """Push the adapter of a checkpoint as soon as the push before it is done. Takes no time: the files are linked, not copied."""
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
        """Push the run's result, and wait for it and the push before it, `push_timeout_s` together; returns what `summary.json` holds.

        Args:
            whole: whether the run came to its end. One that was stopped is to end soon, and pushes nothing more.
        """
        if self._waiting is not None:
            shutil.rmtree(self._waiting[1], ignore_errors=True)
            self._waiting, self.superseded = None, self.superseded + 1
        if not whole:
            self.say(f"stopped, so the result is not pushed: go on with the same command, or push it with: {self.command}")
        elif not await self._push_result(step):
            self.say(f"WARNING: the result is not at {self.repo_id}. Nothing is lost; push it with: {self.command}")
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
        """End what goes on, and remove what waited."""
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
                    self.say(f"WARNING: the push of step {step} to {self.repo_id} failed; training goes on, and the next save is pushed")
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
                start_new_session=True,  # a Ctrl-C at the terminal is meant for the run
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
