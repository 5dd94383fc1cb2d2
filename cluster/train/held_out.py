"""The held-out prompts before and after training, as `summary.json` has them."""

from __future__ import annotations

from cluster.evaluation.measurement import Evaluation
from cluster.loop.step_metrics import HeldOutSummary


def held_out_summary(before: Evaluation | None, after: Evaluation | None) -> HeldOutSummary:
    """The held-out measurements, under the name of what they measure."""
    known = after or before
    values = before.accuracy if before else None, after.accuracy if after else None
    accuracies = values if known is not None and known.is_accuracy else (None, None)
    rewards = values if known is not None and not known.is_accuracy else (None, None)
    return {
        "held_out_measure": known.measure if known else None,
        "accuracy_before": accuracies[0],
        "accuracy_after": accuracies[1],
        "reward_before": rewards[0],
        "reward_after": rewards[1],
    }
