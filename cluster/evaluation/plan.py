"""The settings of an evaluation: sampling, the judge, and the pass@k to report."""

from __future__ import annotations

from dataclasses import dataclass

from configs.contracts.errors import ConfigError
from configs.contracts.records import Sampling
from configs.schema.run import RunConfig

ANSWER_JUDGES = ("accuracy", "reasoning_accuracy")
"""Rewards that judge an answer. Only under them can completions vote."""

PROGRAM_JUDGES = ("code", "binary_code", "ioi_code", "cf_code")
"""Rewards that judge a program."""

WEIGHTED_SUM = "reward"
"""The judge of a run without any of these rewards: the weighted sum of its rewards."""

CACHE_SALT = "evaluation"


def judge_of(config: RunConfig) -> str:
    """Choose the reward that says how right a completion is; returns its label, or `WEIGHTED_SUM`."""
    labels = [spec.label for spec in config.rewards.functions]
    known = (name for name in (*ANSWER_JUDGES, *PROGRAM_JUDGES) if name in labels)
    return config.evaluation.reward or next(known, WEIGHTED_SUM)


@dataclass(frozen=True)
class EvaluationPlan:
    """Settings of an evaluation, for any number of data sets."""

    sampling: Sampling
    judge: str
    """Label of the judging reward, from `judge_of`."""
    ks: tuple[int, ...] = ()
    """Values of k for pass@k."""
    seed: int = 0
    """Seed of sampling and of the bootstrap."""
    prompts_at_once: int | None = None
    """Most prompts sampled at a time, to leave room for training. None submits all prompts together, to engines that do nothing else: then
    the same prompts and seed give the same completions on the CPU, bit for bit."""

    @classmethod
    def of(cls, config: RunConfig) -> EvaluationPlan:
        """Read a run's `evaluation` section.

        Raises:
            ConfigError: pass@k is asked for, but no reward decides what passes.
        """
        asked, actors = config.evaluation, config.actors
        if asked.pass_at and judge_of(config) == WEIGHTED_SUM:
            labels = ", ".join(spec.label for spec in config.rewards.functions)
            raise ConfigError(
                f"evaluation.pass_at {list(asked.pass_at)} needs a reward that decides what is right, and none of {labels} is known to: name one "
                "as evaluation.reward"
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
        """Plan one greedy completion of each prompt, whatever the `evaluation` section says: for evaluations before and after training."""
        sampling = Sampling(1, config.actors.max_completion_length, temperature=0.0, cache_salt=CACHE_SALT)
        return cls(sampling, judge_of(config), seed=config.seed)
