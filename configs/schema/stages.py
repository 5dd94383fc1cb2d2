"""Section `stages`: parts of a run that follow one another, each with its own settings over those of the run.

    stages:
      - {name: gentle, learner: {beta: 0.001}, data: {train_samples: 1000}}
      - {name: strict, learner: {beta: 0.01, learning_rate: 5.0e-7}}

A stage starts from the adapter of the stage before, with a fresh optimizer and schedule. A key that it does not set keeps its value from
above `stages`. All stages train one adapter on one model, so a stage cannot set `model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from configs.schema.section import Section

Settings = dict[str, object]
"""Settings of a section; they are checked when the stage's run is made."""


def stage_folder(number: int, name: str) -> str:
    """Name the folder of a stage in `out_dir`; the first stage has the number 1."""
    return f"{number}-{name}"


def last_stage_folder(settings: Mapping[str, object]) -> str | None:
    """Name the folder of the last stage in the content of a `config.yaml`; None for a run without stages."""
    stages = settings.get("stages")
    return stage_folder(len(stages), stages[-1]["name"]) if isinstance(stages, list) and stages else None


class StageSection(Section):
    """One stage of a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Name of the stage; its folder in `out_dir` is 1-NAME, 2-NAME, ..."""
    data: Settings = {}
    """Settings over those of the section `data`. The other sections work alike."""
    actors: Settings = {}
    rewards: Settings = {}
    learner: Settings = {}
    cluster: Settings = {}
    evaluation: Settings = {}
    seed: int | None = None
    """Seed of this stage; none given: the run's."""

    @model_validator(mode="before")
    @classmethod
    def _trains_the_adapter_of_the_run(cls, given: object) -> object:
        if isinstance(given, dict) and "model" in given:
            raise ValueError("a stage sets `model`, but all stages train one adapter on one model; set it above `stages`")
        return given

    def over(self, tree: Mapping[str, object]) -> Settings:
        """Merge the settings of this stage over those of a run."""
        settings = self.model_dump(exclude={"name"} if self.seed is not None else {"name", "seed"}, exclude_unset=True)
        return merged(tree, settings)


def merged(tree: Mapping[str, object], settings: Mapping[str, object]) -> Settings:
    """Merge settings over a tree: sections key by key; any other value is replaced."""
    result = dict(tree)
    for key, value in settings.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result
