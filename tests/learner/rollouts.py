"""Made-up rollouts for the learner's tests: random tokens, plausible log-probabilities, ragged lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from configs.contracts.records import (
    Completion,
    Grades,
    GroupSummary,
    Prompt,
    PromptId,
    RolloutGroup,
    RolloutRequest,
    Sampling,
    ScoredGroup,
    Scores,
    VersionSpan,
)
from configs.schema.run import RunConfig
from learner.packing import TrainedCompletion, TrainedGroup

VOCABULARY = 64
MAX_COMPLETION_LENGTH = 24


def run_config(path: Path, *, model: dict[str, Any] | None = None, actors: dict[str, Any] | None = None, **learner: Any) -> RunConfig:
    """A run on the CPU with the tiny model: 4 prompts x 4 completions a step."""
    return RunConfig.model_validate(
        {
            "model": {"path": str(path), "dtype": "float32", "lora": {"r": 4, "alpha": 8.0}} | (model or {}),
            "data": {"path": "builtin:addition", "max_prompt_length": 16},
            "actors": {"num_generations": 4, "max_completion_length": MAX_COMPLETION_LENGTH, "gpus_per_worker": 0} | (actors or {}),
            "learner": {
                "gpus_per_rank": 0,
                "train_batch_size": 16,
                "token_budget": 256,
                "learning_rate": 1e-2,
                "lr_scheduler_type": "constant",
                "process_group_timeout_s": 30.0,
            }
            | learner,
        }
    )


def trained_groups(seed: int, *, prompts: int = 4, generations: int = 4, longest: int = MAX_COMPLETION_LENGTH) -> list[TrainedGroup]:
    """Random groups as the packer takes them."""
    rng = np.random.default_rng(seed)
    return [
        TrainedGroup(
            rng.integers(1, VOCABULARY, rng.integers(1, 12)).astype(np.int32),
            tuple(_completion(rng, int(rng.integers(1, longest + 1))) for _ in range(generations)),
        )
        for _ in range(prompts)
    ]


def scored_groups(
    seed: int, put: Any, *, prompts: int = 4, generations: int = 4, left_out: int = 1, poison: float | None = None
) -> list[ScoredGroup]:
    """Random groups with their bodies stored by `put`; the first `left_out` completions have no reward, `poison` is one log-probability."""
    rng = np.random.default_rng(seed)
    groups = []
    for index, group in enumerate(trained_groups(seed, prompts=prompts, generations=generations)):
        completions = [
            Completion(
                tuple(map(int, c.token_ids_T)), tuple(map(float, c.logprobs_T)), (VersionSpan(0, 0, len(c.token_ids_T)),), "stop", "text"
            )
            for c in group.completions
        ]
        if poison is not None and index == 0:
            completions[-1] = Completion(
                completions[-1].token_ids, (poison,) * len(completions[-1].token_ids), completions[-1].spans, "stop", ""
            )
        rewards_G = tuple(None if index == 0 and g < left_out else float(rng.integers(0, 3)) for g in range(generations))
        request = RolloutRequest(
            Prompt(PromptId(0, index), tuple(map(int, group.prompt_ids_T)), "prompt"), Sampling(generations, MAX_COMPLETION_LENGTH)
        )
        summary = GroupSummary(
            prompt_id=PromptId(0, index),
            attempt=0,
            prompt_tokens=len(group.prompt_ids_T),
            completion_tokens_G=tuple(len(c.token_ids) for c in completions),
            truncated_G=(False,) * generations,
            min_policy_version=0,
            max_policy_version=0,
            worker="rollout 0",
            generate_s=0.1,
        )
        column = Grades(rewards_G, tuple("skipped" if reward is None else "scored" for reward in rewards_G))
        scores = Scores(PromptId(0, index), 0, rewards_G, {"accuracy": column}, 0.0)
        groups.append(ScoredGroup(put(RolloutGroup.build(request, completions).table), summary, scores))
    return groups


def _completion(rng: np.random.Generator, length: int) -> TrainedCompletion:
    # Log-probabilities about those of the random model, a little off, so that importance weights are neither 1 nor all truncated.
    logprobs_T = rng.normal(-4.5, 0.8, length).astype(np.float32)
    return TrainedCompletion(rng.integers(1, VOCABULARY, length).astype(np.int32), logprobs_T, float(rng.normal()))
