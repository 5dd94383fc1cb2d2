"""Learning rates are those of transformers' schedulers, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from configs.schema.learner import LearnerSection
from learner.engine.schedule import Schedule

TOTAL_STEPS = 37


@pytest.mark.parametrize("warmup", [{}, {"warmup_ratio": 0.1}, {"warmup_ratio": 0.5, "warmup_steps": 5}, {"warmup_steps": 0}])
@pytest.mark.parametrize("kind", ["cosine_with_min_lr", "cosine", "linear", "constant_with_warmup", "constant"])
def test_rates_are_those_of_transformers(kind: Any, warmup: dict[str, Any]) -> None:
    from transformers import TrainingArguments, get_scheduler

    learner = LearnerSection(learning_rate=3e-4, lr_scheduler_type=kind, min_lr_rate=0.2, **warmup)
    ratio_or_steps = warmup.get("warmup_steps", warmup.get("warmup_ratio", 0))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=3e-4)
    scheduler = get_scheduler(
        kind,
        optimizer,
        num_warmup_steps=TrainingArguments(output_dir="unused", warmup_steps=ratio_or_steps, use_cpu=True).get_warmup_steps(TOTAL_STEPS),
        num_training_steps=TOTAL_STEPS,
        scheduler_specific_kwargs={"min_lr_rate": 0.2} if kind == "cosine_with_min_lr" else None,
    )
    schedule = Schedule.of(learner, TOTAL_STEPS)
    for step in range(TOTAL_STEPS + 1):
        assert schedule.learning_rate(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-18)
        optimizer.step()
        scheduler.step()
