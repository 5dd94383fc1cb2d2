"""Section `data`: the source of the prompts, their selection and order, and the held-out ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from configs.schema.section import PositiveInt
from configs.schema.sources import SourceSection


class DataSection(SourceSection):
    """The prompts to train on, their order, and the held-out ones."""

    prompt_column: str = "prompt"
    """Column that holds the prompt: a string, or a list of chat messages, as OpenAI or ShareGPT write them. As in every name of a column, dots lead
    into it: `extra_info.question`."""
    system_prompt: str | None = None
    """System message before every prompt that has none of its own, among its messages or in its row's column `system_prompt` or `system`."""
    final_answer: Literal["refuse", "drop", "continue"] = "refuse"
    """Treatment of prompts of chat messages that end with one of the assistant: refuse them, drop that message, or let each completion
    continue it."""
    max_prompt_length: PositiveInt = 512
    """Prompts with more tokens are left out and counted."""
    pass_rate_column: str = "pass_rate"
    """Column of measured pass rates, as `rollcast data pass-rate` writes it, for `min_pass_rate` and `max_pass_rate`."""
    min_pass_rate: float | None = None
    """Train only on rows whose pass rate is above this."""
    max_pass_rate: float | None = None
    """Train only on rows whose pass rate is below this."""
    decontaminate: tuple[str, ...] = ()
    """Evaluation sets (a name such as math_500, a path, or path@split). Rows that share 8 consecutive words with one of their prompts
    are left out."""
    curriculum_column: str | None = None
    """Column of numbers that orders the first epoch, ascending. Later epochs are shuffled; without `shuffle` they have the same order."""
    curriculum_descending: bool = False
    """Order `curriculum_column` from high to low; for pass rates this is from easy to hard."""

    @property
    def named_columns(self) -> tuple[str, ...]:
        rates = (self.pass_rate_column,) if self.filters_by_pass_rate else ()
        return (self.prompt_column, *rates, *((self.curriculum_column,) if self.curriculum_column is not None else ()))

    @property
    def filters_by_pass_rate(self) -> bool:
        return self.min_pass_rate is not None or self.max_pass_rate is not None

    @property
    def needs_all_rows(self) -> Mapping[str, bool]:
        return {**super().needs_all_rows, "curriculum_column": self.curriculum_column is not None}

    def _rules(self) -> list[tuple[object, str]]:
        return [*super()._rules(), *self._order_rules()]

    def _order_rules(self) -> list[tuple[object, str]]:
        low, high = self.min_pass_rate, self.max_pass_rate
        return [
            (
                low is not None and high is not None and low >= high,
                f"min_pass_rate {low} is not below max_pass_rate {high}, and no row lies between them; lower one or raise the other",
            ),
            (
                self.curriculum_descending and self.curriculum_column is None,
                "curriculum_descending without curriculum_column: nothing is ordered; name a column, such as pass_rate",
            ),
        ]
