"""Section `evaluation`: evaluation during training, and by `rollcast evaluate` and `rollcast compare`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from configs.schema.section import NonNegativeFloat, NonNegativeInt, PositiveInt, Section


class EvaluationSection(Section):
    """The evaluated data sets, the sampling, and the interval. `data.eval_samples` sets the number of held-out prompts."""

    steps: NonNegativeInt = 0
    """Number of optimizer steps between evaluations on the rollout workers, which go on sampling for training; 0 means none. The held-out
    prompts are always answered greedily before and after training."""
    data: tuple[str, ...] = ()
    """Data sets: names (math_500, aime_2024, aime_2025, gsm8k), paths or hub ids, with `@split`. Default: the held-out prompts."""
    num_generations: PositiveInt = 1
    """Number of completions sampled for each prompt."""
    temperature: NonNegativeFloat | None = None
    """Sampling temperature; 0 is greedy. Default: greedy for one completion, `actors.temperature` for several."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Default: `actors.top_p`."""
    pass_at: tuple[PositiveInt, ...] = ()
    """Values of k for pass@k. Default: `num_generations`, if it is more than 1."""
    max_prompts: PositiveInt | None = None
    """Number of prompts of each data set, a seeded subset. Default: all."""
    seed: int | None = None
    """Seed of the sampling, the subset of prompts and the bootstrap. Default: the run's."""
    reward: str | None = None
    """Reward that counts a completion as right if it is at least 1. Default: the first of the run's rewards that judges answers or programs
    (accuracy, reasoning_accuracy, code, binary_code, ioi_code, cf_code); without one, the weighted sum of all, and no pass@k or maj@k."""

    @model_validator(mode="after")
    def _completions_differ_and_suffice(self) -> EvaluationSection:
        if self.num_generations > 1 and self.temperature == 0:
            raise ValueError(
                f"temperature 0 with num_generations {self.num_generations}: greedy completions of a prompt are all equal; "
                "set num_generations: 1, or a temperature above 0"
            )
        if max(self.pass_at, default=1) > self.num_generations:
            raise ValueError(
                f"pass_at {max(self.pass_at)} is more than num_generations {self.num_generations}: pass@k is estimated from "
                f"at least k completions; set num_generations to {max(self.pass_at)} or more"
            )
        repeated = sorted({name for name in self.data if self.data.count(name) > 1})
        if repeated:
            raise ValueError(f"data lists {', '.join(repeated)} twice; list each set once")
        return self

    @property
    def ks(self) -> tuple[int, ...]:
        """The values of k for pass@k, in ascending order."""
        return tuple(sorted(set(self.pass_at or ((self.num_generations,) if self.num_generations > 1 else ()))))
