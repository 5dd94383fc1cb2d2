"""How a model is evaluated: beside its training every so many steps, and by `rollcast evaluate` and `rollcast compare`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from configs.schema.section import NonNegativeFloat, NonNegativeInt, PositiveInt, Section


class EvaluationSection(Section):
    """What is asked, and how often. `data.eval_samples` says how many prompts are held out."""

    steps: NonNegativeInt = 0
    """Evaluate after every so many optimizer steps, on the rollout workers, which go on sampling for training; 0 never. The held-out prompts
    are answered greedily before and after training in any case."""
    data: tuple[str, ...] = ()
    """What to evaluate on: names (math_500, aime_2024, aime_2025, gsm8k) and paths or hub ids, with `@split`; none given: the held-out prompts."""
    num_generations: PositiveInt = 1
    """Completions sampled for each prompt."""
    temperature: NonNegativeFloat | None = None
    """0 is greedy. None given: greedy for one completion, and `actors.temperature` for several."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """None given: `actors.top_p`."""
    pass_at: tuple[PositiveInt, ...] = ()
    """Give pass@k for these k; none given: for `num_generations`, where that is more than 1."""
    max_prompts: PositiveInt | None = None
    """Use so many prompts of each set, a seeded subset; none given: all."""
    seed: int | None = None
    """Of sampling, of the subset of prompts and of the bootstrap; none given: the run's."""
    reward: str | None = None
    """The reward that says how right a completion is, right from 1. None given: the first that judges answers or programs (accuracy,
    reasoning_accuracy, code, binary_code, ioi_code, cf_code); where there is none, the weighted sum of all, without pass@k and maj@k."""

    @model_validator(mode="after")
    def _completions_differ_and_suffice(self) -> EvaluationSection:
        if self.num_generations > 1 and self.temperature == 0:
            raise ValueError(
                f"temperature 0 with num_generations {self.num_generations}: greedy completions of a prompt are all the same; "
                "set num_generations: 1, or a temperature above 0"
            )
        if max(self.pass_at, default=1) > self.num_generations:
            raise ValueError(
                f"pass_at {max(self.pass_at)} is more than num_generations {self.num_generations}: pass@k is estimated from at least k completions; "
                f"set num_generations to {max(self.pass_at)} or more"
            )
        repeated = sorted({name for name in self.data if self.data.count(name) > 1})
        if repeated:
            raise ValueError(f"data lists {', '.join(repeated)} twice; list each set once")
        return self

    @property
    def ks(self) -> tuple[int, ...]:
        """The k of every pass@k that is given, in order."""
        return tuple(sorted(set(self.pass_at or ((self.num_generations,) if self.num_generations > 1 else ()))))
