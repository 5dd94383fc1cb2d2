"""Evaluate a model on a data set, with the engines and graders of training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from actors.prompts.eval_sets import EvalSet
from cluster.evaluation.final_answer import final_answer
from cluster.evaluation.measurement import RIGHT, Answers, Evaluation, Sampled, measure
from cluster.evaluation.plan import ANSWER_JUDGES, EvaluationPlan
from cluster.loop.roles import Rewards, Rollouts
from cluster.loop.sampling import sample_and_score
from cluster.output.completions import group_rows, table_of
from configs.contracts.errors import DataError, PoisonPromptError
from configs.contracts.records import RolloutGroup, RolloutRequest, Scores
from configs.contracts.tasks import gather_or_cancel

RIGHT_ANSWER = "\0right"
"""The vote of every right completion. The reward found each equal to the gold, so all of them give the same answer, however they write it."""


async def evaluate(
    rollouts: Rollouts, rewards: Rewards, asked: EvalSet, plan: EvaluationPlan, step: int, on_done: Callable[[], None] = lambda: None
) -> Answers:
    """Sample and score completions of every prompt, with the adapter that the engines have.

    Args:
        step: optimizer steps done; some rewards change with it.
        on_done: called after every prompt.

    Raises:
        DataError: the engines refuse every prompt.
        RolloutError: no rollout worker is left.
        RewardError: rewards fail more often than `rewards.on_error` and `rewards.max_error_rate` allow.
    """
    requests = [RolloutRequest(prompt, plan.sampling, seed=plan.seed) for prompt in asked.prompts]
    if plan.prompts_at_once is None:
        requests = rollouts.assign(requests)
    limit = asyncio.Semaphore(plan.prompts_at_once or len(requests))

    async def sample(request: RolloutRequest) -> Sampled | None:
        async with limit:
            try:
                return await _sample(rollouts, rewards, request, plan.judge, step)
            except PoisonPromptError:
                return None
            finally:
                on_done()

    found = await gather_or_cancel(sample(request) for request in requests)
    sampled = [each for each in found if each is not None]
    refused = len(found) - len(sampled)
    if not sampled:
        raise DataError(f"the engines refuse all {refused} prompts of {asked.name}: see the logs of the rollout workers")
    return Answers(measure(asked.name, sampled, plan, too_long=asked.too_long, refused=refused), sampled)


def read_evaluation(file: Path, say: Callable[[str], None]) -> Evaluation | None:
    """Read an evaluation that a run has written. None where there is none, or where the file is damaged, which is said."""
    try:
        return Evaluation.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        say(f"{file} is damaged, and is measured again")
        return None


def write_answers(answers: Answers, file: Path) -> Path:
    """Write one Parquet file with a row for each completion.

    Its columns are those of a run's completions/, and `eval/answer` (the answer it votes for) and `eval/value` (the judge's value).
    """
    import pyarrow.parquet as pq

    file.parent.mkdir(exist_ok=True)
    pq.write_table(table_of(answer_rows(answers)), file)
    return file


def answer_rows(answers: Answers) -> list[dict[str, object]]:
    """Make the rows that `write_answers` writes."""
    return [row for each in answers.sampled for row in _rows(each, answers.evaluation)]


def _rows(sampled: Sampled, evaluation: Evaluation) -> list[dict[str, object]]:
    rows = group_rows(evaluation.min_policy_version, sampled.scores, sampled.body)
    values_G = sampled.values_G(evaluation.judge) or (None,) * len(rows)
    answers_G = [
        final_answer(text) if answer == RIGHT_ANSWER else answer
        for answer, text in zip(sampled.answers_G, sampled.body.texts_G, strict=True)
    ]
    return [row | {"eval/answer": answer, "eval/value": value} for row, answer, value in zip(rows, answers_G, values_G, strict=True)]


async def _sample(rollouts: Rollouts, rewards: Rewards, request: RolloutRequest, judge: str, step: int) -> Sampled:
    scored = await sample_and_score(rollouts, rewards, request, lambda: step)
    body = RolloutGroup(await scored.body)
    return Sampled(request.prompt, scored.summary, body, scored.scores, _votes(body, scored.scores, judge))


def _votes(body: RolloutGroup, scores: Scores, judge: str) -> tuple[str | None, ...]:
    """Find the answer that each completion votes for; None for a completion without one."""
    if judge not in ANSWER_JUDGES:
        return (None,) * len(body)
    column = scores.columns[judge]
    return tuple(
        RIGHT_ANSWER if value is not None and value >= RIGHT else final_answer(text) if outcome == "scored" else None
        for text, value, outcome in zip(body.texts_G, column.values_G, column.outcomes_G, strict=True)
    )
