"""Rollout group to scores: reward functions, killable graders, and the pool of reward workers.

In a notebook: `rewards.load("accuracy")(completions=["\\\\boxed{4}"], solution=["4"])` is `[1.0]`.
"""

from __future__ import annotations

from rewards.functions.registry import validate
from rewards.grading.direct import load

__all__ = ["load", "validate"]
