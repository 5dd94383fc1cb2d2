"""Section `rewards`: the reward functions, and the processes that run them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from configs.schema.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class RewardSpec(Section):
    """One reward: a built-in name or `path/to/file.py:function` or `package.module:function`."""

    name: str
    weight: float = 1.0
    params: dict[str, Any] = {}
    """Keyword arguments that configure the function, as in `spec` files: `{answer_style: answer_tag}`."""

    @property
    def label(self) -> str:
        """Its name in metrics and tables: of `path/to/file.py:function` the function's."""
        return self.name.rpartition(":")[2]


class RewardsSection(Section):
    """The rewards, their weights and limits, and the workers that score."""

    functions: tuple[RewardSpec, ...] = (RewardSpec(name="accuracy"),)
    """Rewards in order; each entry is a name, or {name, weight, params}."""
    aggregation: Literal["sum", "normalize_then_sum"] = "sum"
    """`sum`: advantages come from the weighted sum of the rewards that apply. `normalize_then_sum` (GDPO): from the weighted sum of
    rewards that were each normalised in their group first, and divided by that sum's deviation over the step, whatever
    `learner.scale_rewards` says; a reward of rare or small differences then counts as much as the others."""
    on_error: Literal["exclude", "zero", "fail"] = "exclude"
    """What a completion gets whose reward timed out, crashed or was invalid."""
    max_error_rate: Fraction = 0.5
    """Stop when more than this share of the last `error_window` completions failed."""
    error_window: PositiveInt = 512
    timeout_s: PositiveFloat = 10.0
    """Hard limit on grading one completion with one reward; the grader process is killed."""
    num_workers: PositiveInt = 1
    """Reward workers."""
    graders_per_worker: PositiveInt = 2
    """Grader processes of one worker."""
    cpus_per_worker: NonNegativeFloat = 1.0
    """CPU cores that Ray reserves for one worker."""
    memory_limit_bytes: PositiveInt = 4 << 30
    """Address space that one grader process may use."""
    max_restarts: NonNegativeInt = 5
    """How often reward workers may be replaced in a run before it ends with an error. Graders are replaced without limit."""

    def resolved(self, max_completion_length: int) -> RewardsSection:
        """Fill in the parameters that a reward takes from the run where they are not given.

        Args:
            max_completion_length: most tokens that a completion of the run may have: `actors.max_completion_length`.
        """
        functions = tuple(
            spec.model_copy(update={"params": spec.params | {"max_completion_len": max_completion_length}})
            if spec.name == "soft_overlong_punishment" and spec.params.get("max_completion_len") is None
            else spec
            for spec in self.functions
        )
        return self.model_copy(update={"functions": functions})

    @field_validator("functions", mode="before")
    @classmethod
    def _names_stand_for_themselves(cls, functions: Any) -> Any:
        if isinstance(functions, (list, tuple)):
            return tuple({"name": entry} if isinstance(entry, str) else entry for entry in functions)
        return functions

    @field_validator("functions")
    @classmethod
    def _some_and_distinct(cls, functions: tuple[RewardSpec, ...]) -> tuple[RewardSpec, ...]:
        labels = [spec.label for spec in functions]
        if not labels:
            raise ValueError("no reward is listed; list at least one, such as [accuracy]")
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(repeated)} is listed twice, and metrics are named by it; list each reward once and set its weight, or rename a function"
            )
        return functions
