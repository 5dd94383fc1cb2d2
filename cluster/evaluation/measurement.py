"""Accuracy, pass@k and majority vote of a model, computed from its scored completions. Pure; docs/evaluation.md defines each measure.

Every completion counts. A completion whose answer cannot be read, or whose reward failed (timeout, crash, invalid value), counts as 0, and
`outcomes` says how many did. A prompt is left out only if the judge does not apply to it: its gold cannot be read, or the reward skips it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pydantic import BaseModel

from cluster.evaluation.plan import ANSWER_JUDGES, WEIGHTED_SUM, EvaluationPlan
from cluster.evaluation.statistics import majority_at_k, mean_interval, pass_at_k
from configs.contracts.records import FAILED_OUTCOMES, GroupSummary, Outcome, Prompt, RolloutGroup, Scores

RIGHT = 1.0
"""A completion is right if its judge gives it this value or more."""

WRONG_OUTCOMES: frozenset[Outcome] = frozenset((*FAILED_OUTCOMES, "unparsable_answer"))
"""A completion with one of these outcomes counts as 0, even if it has no value."""


@dataclass(frozen=True)
class Sampled:
    """The scored completions of one prompt."""

    prompt: Prompt
    summary: GroupSummary
    body: RolloutGroup
    scores: Scores
    answers_G: tuple[str | None, ...]
    """The answer that each completion votes for; None for a completion without one."""

    def values_G(self, judge: str) -> tuple[float, ...] | None:
        """Return the judge's value of each completion; None unless the judge applies to every completion."""
        if judge == WEIGHTED_SUM:
            rewards_G = self.scores.rewards_G
            return None if None in rewards_G else tuple(float(reward or 0.0) for reward in rewards_G)
        column = self.scores.columns[judge]
        counted = [
            0.0 if value is None and outcome in WRONG_OUTCOMES else value
            for value, outcome in zip(column.values_G, column.outcomes_G, strict=True)
        ]
        return None if None in counted else tuple(float(value or 0.0) for value in counted)


class Estimate(BaseModel):
    """A mean over prompts with its 95 % interval."""

    value: float
    low: float
    high: float


class Evaluation(BaseModel):
    """Measures of one model on one data set, averaged over prompts; written to `summary.json`."""

    name: str = "held_out"
    judge: str = WEIGHTED_SUM
    """The reward that `accuracy`, `pass_at` and `majority` are computed from; `reward` means the weighted sum of all rewards."""
    num_generations: int = 1
    temperature: float = 0.0
    prompts: int
    """Prompts that the means are taken over."""
    too_long: int = 0
    """Prompts left out because they are longer than `data.max_prompt_length`."""
    refused: int = 0
    """Prompts left out because the engines refuse them."""
    unjudged: int = 0
    """Prompts left out because the judge does not apply: it cannot read their gold answer, or skips them."""
    accuracy: float | None
    """avg@k: the judge's value, averaged over the completions of each prompt, then over prompts; None where no prompt counts. An accuracy
    only if `is_accuracy`; otherwise the mean of another reward."""
    interval: tuple[float, float] | None = None
    """95 % interval of `accuracy`."""
    pass_at: dict[int, Estimate] = {}
    """k -> pass@k."""
    majority: Estimate | None = None
    """maj@n, of n completions of each prompt."""
    rewards: dict[str, float]
    """Mean of each reward over the completions that it applies to."""
    outcomes: dict[str, dict[str, int]] = {}
    """Number of completions, by reward and outcome."""
    mean_length: float = 0.0
    """Mean tokens of a completion."""
    truncated: float = 0.0
    """Fraction of completions that ended at the length limit."""
    min_policy_version: int = 0
    max_policy_version: int = 0
    """Least and largest policy version that sampled any token; equal if no new adapter arrived meanwhile."""

    @property
    def is_accuracy(self) -> bool:
        return self.judge in ANSWER_JUDGES

    @property
    def measure(self) -> str:
        """The measure that `accuracy` is the mean of, in words: `accuracy`, or `reward (code)`, or `reward (format, tag_count)` for their weighted sum."""
        if self.is_accuracy:
            return "accuracy"
        return f"reward ({', '.join(self.outcomes) if self.judge == WEIGHTED_SUM else self.judge})"

    @property
    def version(self) -> str:
        """Write the policy versions as text: `3`, or `3 to 5`."""
        low, high = self.min_policy_version, self.max_policy_version
        return str(low) if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Answers:
    """A model's completions of a data set, and the measures computed from them."""

    evaluation: Evaluation
    sampled: Sequence[Sampled]


def measure(name: str, sampled: Sequence[Sampled], plan: EvaluationPlan, *, too_long: int = 0, refused: int = 0) -> Evaluation:
    """Compute the measures of one data set.

    Args:
        name: of the data set.
        sampled: the prompts, each with the same number of completions; at least one.
        too_long, refused: prompts that were left out, see `Evaluation`.
    """
    judge, seed = plan.judge, plan.seed
    judged = [(one, values_G) for one in sampled if (values_G := one.values_G(judge)) is not None]
    means_P = [fmean(values_G) for _, values_G in judged]
    G = len(sampled[0].scores.rewards_G)
    with_majority = judge in ANSWER_JUDGES and G > 1
    lengths = [length for one in sampled for length in one.summary.completion_tokens_G]
    truncated = [cut for one in sampled for cut in one.summary.truncated_G]
    return Evaluation(
        name=name,
        judge=judge,
        num_generations=G,
        temperature=plan.sampling.temperature,
        prompts=len(judged),
        too_long=too_long,
        refused=refused,
        unjudged=len(sampled) - len(judged),
        accuracy=fmean(means_P) if means_P else None,
        interval=mean_interval(means_P, seed) if means_P else None,
        pass_at={k: _estimate([_passed(values_G, k) for _, values_G in judged], seed) for k in plan.ks if judged and judge != WEIGHTED_SUM},
        majority=_estimate([_voted(one, values_G) for one, values_G in judged], seed) if with_majority and judged else None,
        rewards=_reward_means(sampled),
        outcomes=_outcomes(sampled),
        mean_length=fmean(lengths),
        truncated=fmean(truncated),
        min_policy_version=min(one.summary.min_policy_version for one in sampled),
        max_policy_version=max(one.summary.max_policy_version for one in sampled),
    )


def metrics_of(evaluation: Evaluation) -> dict[str, float]:
    """Make the metrics of an evaluation, with the names of docs/metrics.md."""
    mean = "accuracy" if evaluation.is_accuracy else "reward"
    found: dict[str, float] = {} if evaluation.accuracy is None else {mean: evaluation.accuracy}
    if evaluation.interval is not None:
        found |= {f"{mean}_low": evaluation.interval[0], f"{mean}_high": evaluation.interval[1]}
    found |= {f"pass@{k}": estimate.value for k, estimate in evaluation.pass_at.items()}
    if evaluation.majority is not None:
        found[f"maj@{evaluation.num_generations}"] = evaluation.majority.value
    found |= {f"rewards/{name}/mean": value for name, value in evaluation.rewards.items()}
    found |= {"mean_length": evaluation.mean_length, "clipped_ratio": evaluation.truncated, "prompts": evaluation.prompts}
    found |= {"min_policy_version": evaluation.min_policy_version, "max_policy_version": evaluation.max_policy_version}
    return {f"eval/{evaluation.name}/{name}": float(value) for name, value in found.items()}


def _passed(values_G: Sequence[float], k: int) -> float:
    return pass_at_k(len(values_G), sum(value >= RIGHT for value in values_G), k)


def _voted(one: Sampled, values_G: Sequence[float]) -> float:
    return majority_at_k(one.answers_G, [float(value >= RIGHT) for value in values_G])


def _estimate(values_P: Sequence[float], seed: int) -> Estimate:
    low, high = mean_interval(values_P, seed)
    return Estimate(value=fmean(values_P), low=low, high=high)


def _reward_means(sampled: Sequence[Sampled]) -> dict[str, float]:
    values = {name: [value for one in sampled for value in one.scores.columns[name].values_G] for name in sampled[0].scores.columns}
    applying = {name: [value for value in column if value is not None] for name, column in values.items()}
    return {name: fmean(column) for name, column in applying.items() if column}


def _outcomes(sampled: Sequence[Sampled]) -> dict[str, dict[str, int]]:
    names: Mapping[str, object] = sampled[0].scores.columns
    counts = {name: Counter(outcome for one in sampled for outcome in one.scores.columns[name].outcomes_G) for name in names}
    return {name: dict(counter.most_common()) for name, counter in counts.items()}
