"""One group from request to score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cluster.loop.roles import Rewards, Rollouts
from configs.contracts.errors import RolloutError
from configs.contracts.records import RolloutRequest, ScoredGroup


async def sample_and_score(rollouts: Rollouts, rewards: Rewards, request: RolloutRequest, steps_taken: Callable[[], int]) -> ScoredGroup:
    """Sample one group and score it. A group whose body is lost before it is scored is sampled again under the next attempt.

    Args:
        steps_taken: optimizer steps done, asked when the group is scored; some rewards change with it.

    Raises:
        PoisonPromptError: the engines refuse the prompt.
        RolloutError: no rollout worker is left.
        RewardError: the reward fails as `rewards.on_error` does not allow.
    """
    while True:
        summary, body = await rollouts.rollout(request)
        try:
            return ScoredGroup(body, summary, await rewards.score(body, summary, steps_taken()))
        except RolloutError:  # the body was lost with its node before anyone read it
            request = replace(request, attempt=summary.attempt + 1, gang=None)
