"""Rollout groups for the tests."""

from __future__ import annotations

from collections.abc import Sequence

from configs.contracts.records import Completion, GroupSummary, Prompt, PromptId, RolloutGroup, RolloutRequest, Sampling, VersionSpan


def rollout_group(texts_G: Sequence[str], *, index: int = 0, conversational: bool = False, **columns: object) -> RolloutGroup:
    """A group that answers prompt 0:index with these texts."""
    prompt = Prompt(
        PromptId(0, index),
        (1, 2),
        "2+2?",
        columns,
        conversational,
        ({"role": "user", "content": "2+2?"},) if conversational else (),
    )
    completions_G = [Completion((5, 6), (-0.1, -0.2), (VersionSpan(0, 0, 2),), "stop", text) for text in texts_G]
    return RolloutGroup.build(RolloutRequest(prompt, Sampling(len(texts_G), 8)), completions_G)


def summary_of(group: RolloutGroup) -> GroupSummary:
    """The summary that belongs to it."""
    size = len(group)
    return GroupSummary(group.prompt_id, group.attempt, 2, (2,) * size, (False,) * size, 0, 0, "rollout-0", 0.1)
