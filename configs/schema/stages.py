"""`stages`: settings over those of the run, for parts of it that are run one after another.

    stages:
      - {name: gentle, learner: {beta: 0.001}, data: {train_samples: 1000}}
      - {name: strict, learner: {beta: 0.01, learning_rate: 5.0e-7}}

A stage begins with the adapter of the one before, with a fresh optimizer and schedule. What it does not set is as above `stages`. All train one
adapter on one model, so a stage sets nothing of `model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from configs.schema.section import Section

Settings = dict[str, Any]


def stage_folder(number: int, name: str) -> str:
    """Where in `out_dir` a stage runs; the first has the number 1."""
    return f"{number}-{name}"


class StageSection(Section):
    """One stage."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """It names the stage's folder in `out_dir`: 1-NAME, 2-NAME, ..."""
    data: Settings = {}
    """Settings over those of the section `data`, as are the others."""
    actors: Settings = {}
    rewards: Settings = {}
    learner: Settings = {}
    cluster: Settings = {}
    evaluation: Settings = {}
    seed: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _trains_the_adapter_of_the_run(cls, given: Any) -> Any:
        if isinstance(given, dict) and "model" in given:
            raise ValueError("a stage sets `model`, but all stages train one adapter on one model; set it above `stages`")
        return given

    def over(self, tree: Mapping[str, Any]) -> Settings:
        """The settings of a run with those of this stage over them."""
        settings = self.model_dump(exclude={"name"} if self.seed is not None else {"name", "seed"}, exclude_unset=True)
        return _over(tree, settings)


def _over(tree: Mapping[str, Any], settings: Mapping[str, Any]) -> Settings:
    """Sections are merged key by key; all else is replaced."""
    merged = dict(tree)
    for key, value in settings.items():
        before = merged.get(key)
        merged[key] = _over(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return merged
