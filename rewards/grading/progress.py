"""The steps of grading one group, and how many are done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from configs.contracts.records import Outcome
from rewards.convention.group_input import GroupInput
from rewards.grading.calling import GradeReport
from rewards.grading.messages import Graded


class Step(NamedTuple):
    """A piece of work with a deadline of its own: `Step(reward=0, completion=3)`. If `completion` is None, it is the whole group."""

    reward: int
    completion: int | None


@dataclass
class Progress:
    """The steps of a group, and the reports of those that are done."""

    group: GroupInput
    steps: list[Step]
    reports: list[GradeReport]
    timeout_s: float
    """Deadline for one completion."""
    done: int = 0

    def expects(self, answer: Graded, first: int) -> bool:
        """Tell whether this is an answer to the next step: its number, counted from step `first`, and as many values as completions."""
        alone = self.steps[self.done].completion is not None
        return answer["step"] == self.done - first and len(answer["values"]) == (1 if alone else len(self.group.texts_G))

    def record(self, report: GradeReport) -> None:
        """Store the report of the next step."""
        step = self.steps[self.done]
        self.done += 1
        if step.completion is None:
            self.reports[step.reward] = report
            return
        whole = self.reports[step.reward]
        whole.values += report.values
        whole.outcomes += report.outcomes
        whole.error = whole.error or report.error

    def fail(self, outcome: Outcome, error: str) -> None:
        step = self.steps[self.done]
        self.record(GradeReport.failed(outcome, len(self.group.texts_G) if step.completion is None else 1, error))
