"""Ask a data set of the rollout workers, through the same engines and graders as training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.prompts.eval_sets import EvalSet
from cluster.evaluation.final_answer import final_answer
from cluster.evaluation.measurement import ANSWER_JUDGES, RIGHT, WEIGHTED_SUM, Answers, Evaluation, Sampled, judge_of, measure
from cluster.loop.roles import Rewards, Rollouts
from cluster.output.completions import group_rows, table_of
from configs.contracts.errors import ConfigError, DataError, PoisonPromptError, RolloutError
from configs.contracts.records import RolloutGroup, RolloutRequest, Sampling, Scores
from configs.schema.run import RunConfig

RIGHT_ANSWER = "\0right"
"""What right completions vote for: the reward has found them equal to the gold, and so to one another, however they are written."""

CACHE_SALT = "evaluation"


@dataclass(frozen=True)
class EvaluationPlan:
    """How data sets are asked."""

    sampling: Sampling
    judge: str
    ks: tuple[int, ...]
    seed: int

    @classmethod
    def of(cls, config: RunConfig) -> EvaluationPlan:
        """What a run's `evaluation` section says.

        Raises:
            ConfigError: pass@k is asked for, and no reward says what passes.
        """
        asked, actors = config.evaluation, config.actors
        if asked.pass_at and judge_of(config) == WEIGHTED_SUM:
            labels = ", ".join(spec.label for spec in config.rewards.functions)
            raise ConfigError(
                f"evaluation.pass_at with the rewards {labels}: none is known to say what is right; name one as evaluation.reward"
            )
        temperature = asked.temperature if asked.temperature is not None else actors.temperature if asked.num_generations > 1 else 0.0
        sampling = Sampling(
            num_generations=asked.num_generations,
            max_completion_length=actors.max_completion_length,
            temperature=temperature,
            top_p=actors.top_p if asked.top_p is None else asked.top_p,
            top_k=actors.top_k,
            cache_salt=CACHE_SALT,
        )
        return cls(sampling, judge_of(config), asked.ks, config.seed if asked.seed is None else asked.seed)

    @classmethod
    def greedy(cls, config: RunConfig) -> EvaluationPlan:
        """One greedy completion a prompt, whatever the section says: before and after training."""
        sampling = Sampling(1, config.actors.max_completion_length, temperature=0.0, cache_salt=CACHE_SALT)
        return cls(sampling, judge_of(config), (), config.seed)


async def evaluate(
    rollouts: Rollouts,
    rewards: Rewards,
    asked: EvalSet,
    plan: EvaluationPlan,
    step: int,
    *,
    at_once: int | None = None,
    on_done: Callable[[], None] = lambda: None,
) -> Answers:
    """Sample and score completions of every prompt, under the adapter that the engines have.

    Args:
        step: optimizer steps done, which some rewards want to know.
        at_once: prompts in hand at a time, beside other work. None takes all together, on engines that do nothing else: then the same
            prompts and seed give the same completions on the CPU, bit for bit.
        on_done: called after every prompt.

    Raises:
        DataError: the engines refuse every prompt.
        RolloutError: no worker is left.
        RewardError: rewards fail as `rewards.on_error` and `rewards.max_error_rate` do not allow.
    """
    requests = [RolloutRequest(prompt, plan.sampling, seed=plan.seed) for prompt in asked.prompts]
    if at_once is None:
        requests = rollouts.assign(requests)
    places = asyncio.Semaphore(at_once or len(requests))

    async def one(request: RolloutRequest) -> Sampled | None:
        async with places:
            try:
                return await _sample(rollouts, rewards, request, plan.judge, step)
            except PoisonPromptError:
                return None
            finally:
                on_done()

    found = await _all(one(request) for request in requests)
    sampled = [each for each in found if each is not None]
    refused = len(found) - len(sampled)
    if not sampled:
        raise DataError(f"the engines refuse all {refused} prompts of {asked.name}; see the logs of the rollout workers")
    measured = measure(
        asked.name, sampled, plan.judge, ks=plan.ks, temperature=plan.sampling.temperature, seed=plan.seed,
        too_long=asked.too_long, refused=refused,
    )  # fmt: skip
    return Answers(measured, sampled)


def write_answers(answers: Answers, file: Path) -> Path:
    """One Parquet file: a row a completion, as in a run's completions/, with `eval/answer` (what it voted for) and `eval/value` (what its judge gave)."""
    import pyarrow.parquet as pq

    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(answer_rows(answers)), file)
    return file


def answer_rows(answers: Answers) -> list[dict[str, Any]]:
    """A row a completion."""
    return [row for one in answers.sampled for row in _rows(one, answers.evaluation)]


def _rows(one: Sampled, evaluation: Evaluation) -> list[dict[str, Any]]:
    rows = group_rows(evaluation.min_policy_version, one.scores, one.body)
    values_G = one.values_G(evaluation.judge) or (None,) * len(rows)
    answers_G = [
        final_answer(text) if answer == RIGHT_ANSWER else answer for answer, text in zip(one.answers_G, one.body.texts_G, strict=True)
    ]
    return [row | {"eval/answer": answer, "eval/value": value} for row, answer, value in zip(rows, answers_G, values_G, strict=True)]


async def _sample(rollouts: Rollouts, rewards: Rewards, request: RolloutRequest, judge: str, step: int) -> Sampled:
    while True:
        summary, body = await rollouts.rollout(request)
        try:
            scores = await rewards.score(body, summary, step)
        except RolloutError:  # the body was lost with its node before anyone read it
            request = RolloutRequest(request.prompt, request.sampling, summary.attempt + 1, request.seed)
            continue
        group = RolloutGroup(await _opened(body))
        return Sampled(request.prompt, summary, group, scores, _answers(group, scores, judge))


def _answers(group: RolloutGroup, scores: Scores, judge: str) -> tuple[str | None, ...]:
    if judge not in ANSWER_JUDGES:
        return (None,) * len(group)
    column = scores.columns[judge]
    return tuple(
        RIGHT_ANSWER if value is not None and value >= RIGHT else final_answer(text) if outcome == "scored" else None
        for text, value, outcome in zip(group.texts_G, column.values_G, column.outcomes_G, strict=True)
    )


async def _opened(body: Any) -> Any:
    return await body


async def _all(coroutines: Any) -> list[Any]:
    """Await all; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
