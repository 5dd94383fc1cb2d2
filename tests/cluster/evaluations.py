"""Hand-written scored completions, for tests of the measures made from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.evaluation.measurement import Answers, Evaluation, Sampled, measure
from cluster.evaluation.plan import EvaluationPlan
from configs.contracts.records import (
    Completion,
    Grades,
    GroupSummary,
    Prompt,
    PromptId,
    RolloutGroup,
    RolloutRequest,
    Sampling,
    Scores,
    VersionSpan,
)


def sampled(
    index: int,
    values_G: Sequence[float | None],
    *,
    outcomes_G: Sequence[str] | None = None,
    answers_G: Sequence[str | None] | None = None,
    texts_G: Sequence[str] | None = None,
    lengths_G: Sequence[int] | None = None,
    reward: str = "accuracy",
    version: int = 0,
    prompt: str = "a question",
) -> Sampled:
    """Make one prompt whose completions got these values of `reward`."""
    G = len(values_G)
    lengths_G = lengths_G or [3] * G
    texts_G = texts_G or [f"completion {number}" for number in range(G)]
    asked = Prompt(PromptId(-1, index), (1, 2), prompt, {"solution": "42"})
    completions = [
        Completion((5,) * length, (-0.5,) * length, (VersionSpan(version, 0, length),), "length" if length >= 10 else "stop", text)
        for length, text in zip(lengths_G, texts_G, strict=True)
    ]
    body = RolloutGroup.build(RolloutRequest(asked, Sampling(G, 10)), completions)
    truncated = tuple(length >= 10 for length in lengths_G)
    summary = GroupSummary(asked.id, 0, 2, tuple(lengths_G), truncated, version, version, "rollout 0", 0.1)
    outcomes: Any = tuple(outcomes_G or ["scored"] * G)
    column = Grades(tuple(values_G), outcomes)
    scores = Scores(asked.id, 0, tuple(values_G), {reward: column}, 0.01)
    return Sampled(asked, summary, body, scores, tuple(answers_G or texts_G))


def measured(name: str, every: Sequence[Sampled], judge: str = "accuracy", ks: Sequence[int] = (), **left_out: int) -> Evaluation:
    """Measure these completions as if they were sampled at temperature 1."""
    return measure(name, every, EvaluationPlan(Sampling(len(every[0].answers_G), 10), judge, tuple(ks)), **left_out)


def answers(name: str, every: Sequence[Sampled], ks: Sequence[int] = ()) -> Answers:
    return Answers(measured(name, every, ks=ks), every)
