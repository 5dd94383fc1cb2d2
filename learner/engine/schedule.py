"""Learning rate as a function of the optimizer steps done, equal to transformers' schedulers. It has no state to save."""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.schema.learner import TrainingSection


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning-rate schedule under transformers' name `kind`. `min_rate` is the floor's share of `peak`."""

    kind: str
    peak: float
    warmup_steps: int
    total_steps: int
    min_rate: float = 0.0

    @classmethod
    def of(cls, learner: TrainingSection, total_steps: int) -> Schedule:
        """Make the schedule of a run. `warmup_steps` wins over `warmup_ratio`, which is rounded up (`TrainingArguments.get_warmup_steps`)."""
        warmup = learner.warmup_steps if learner.warmup_steps is not None else math.ceil(total_steps * learner.warmup_ratio)
        floor = learner.min_lr_rate if learner.lr_scheduler_type == "cosine_with_min_lr" else 0.0
        return cls(learner.lr_scheduler_type, learner.learning_rate, warmup, total_steps, floor)

    def learning_rate(self, steps_done: int) -> float:
        """Rate of the step after `steps_done` steps."""
        if self.kind == "constant":
            return self.peak
        if steps_done < self.warmup_steps:
            return self.peak * steps_done / max(1, self.warmup_steps)
        if self.kind == "constant_with_warmup":
            return self.peak
        left = 1.0 - (steps_done - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        share = left if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
        return self.peak * max(0.0, share * (1.0 - self.min_rate) + self.min_rate)
