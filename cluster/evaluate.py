"""Held-out accuracy: greedy completions through the same engines and graders as training."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import BaseModel

from cluster.loop import Rewards, Rollouts
from cluster.records import Prompt, RolloutRequest, Sampling, Scores


class Evaluation(BaseModel):
    """Means over the held-out prompts. `accuracy` is the accuracy reward, or the whole reward where that is not configured."""

    accuracy: float
    rewards: dict[str, float]
    prompts: int


async def evaluate(rollouts: Rollouts, rewards: Rewards, prompts: Sequence[Prompt], max_completion_length: int, step: int) -> Evaluation:
    """Sample one greedy completion for each prompt under the current adapter, and score it."""
    sampling = Sampling(num_generations=1, max_completion_length=max_completion_length, temperature=0.0)

    async def one(request: RolloutRequest) -> Scores:
        summary, body = await rollouts.rollout(request)
        return await rewards.score(body, summary, step)

    requests = rollouts.assign([RolloutRequest(prompt, sampling) for prompt in prompts])
    scores = await asyncio.gather(*map(one, requests))
    means = {name: _mean([score.columns[name].values_G[0] for score in scores]) for name in scores[0].columns}
    overall = _mean([score.rewards_G[0] for score in scores])
    return Evaluation(accuracy=means.get("accuracy", overall), rewards=means, prompts=len(prompts))


def _mean(values: Sequence[float | None]) -> float:
    applying = [value for value in values if value is not None]
    return sum(applying) / len(applying) if applying else 0.0
