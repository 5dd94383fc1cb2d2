"""The roles as the loop knows them: by what they do. Real pools and learners satisfy these protocols, and so do small fakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeAlias

from configs.contracts.records import (
    AdapterRef,
    BodyRef,
    GroupSummary,
    Prompt,
    PromptId,
    RolloutRequest,
    ScoredGroup,
    Scores,
    StepReport,
    SyncReport,
)

Cursor: TypeAlias = Mapping[str, object]
"""The position of a stream of prompts, as JSON that only the stream reads."""


class Prompts(Protocol):
    """A resumable stream of prompts."""

    def next(self) -> Prompt | None:
        """The next prompt, or None at the end of the data."""
        ...

    def prompt(self, prompt_id: PromptId) -> Prompt:
        """A prompt drawn before."""
        ...

    def cursor(self) -> Cursor:
        """The position of the stream, as JSON."""
        ...


class Rollouts(Protocol):
    """Engines that sample groups under the newest adapter."""

    @property
    def version(self) -> int:
        """The policy version that every engine has confirmed."""
        ...

    def assign(self, requests: Sequence[RolloutRequest]) -> list[RolloutRequest]:
        """Requests that start together, so that a synchronous run is reproducible."""
        ...

    async def rollout(self, request: RolloutRequest) -> tuple[GroupSummary, BodyRef]:
        """Sample one group; its body stays where it is."""
        ...

    async def broadcast(self, adapter: AdapterRef) -> SyncReport:
        """Give every engine a new adapter."""
        ...


class Rewards(Protocol):
    """Graders of groups."""

    async def score(self, body: BodyRef, summary: GroupSummary, step: int) -> Scores:
        """Score one group; RolloutError when its body is lost."""
        ...


class Learner(Protocol):
    """The ranks that turn scored groups into adapters."""

    async def step(self, groups: list[ScoredGroup], step: int) -> StepReport:
        """Train one batch; `step` optimizer steps were done before it."""
        ...

    async def export_adapter(self) -> AdapterRef:
        """The adapter of the last step."""
        ...
