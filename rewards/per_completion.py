"""Rewards that judge one completion at a time: the form of all built-ins that do not compare the members of a group.

A grader runs such a reward completion by completion, each under its own deadline, so that a hang costs one completion
only. Called like any other reward function, it takes and returns lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cluster.records import Outcome

ARGUMENTS = frozenset({"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"})
"""Keywords that every reward gets besides the columns of the data set."""


class Grade(NamedTuple):
    """What a reward says of one completion: `Grade(1.0, "scored")`, or `Grade(None, "unparsable_gold")` where it does not apply."""

    value: float | None
    outcome: Outcome


def completion_text(completion: str | Sequence[Mapping[str, str]]) -> str:
    """The text of a completion, which is plain text or chat messages whose last one is the assistant's."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


class PerCompletionReward(ABC):
    """A reward that needs one completion and the columns of its row."""

    __name__: str

    @abstractmethod
    def grade(self, text: str, columns: Mapping[str, Any]) -> Grade:
        """Judge the text of one completion; `columns` are the values of its row in the data set."""

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """TRL's convention: one value for each completion; every column is a list as long as `completions`."""
        rows = {name: column for name, column in columns.items() if name not in ARGUMENTS}
        for name, column in rows.items():
            if len(column) != len(completions):
                raise ValueError(
                    f"column {name!r} has {len(column)} values for {len(completions)} completions; repeat it once for each completion"
                )
        return [
            self.grade(completion_text(completion), {name: column[i] for name, column in rows.items()}).value
            for i, completion in enumerate(completions)
        ]
