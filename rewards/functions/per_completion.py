"""Rewards that judge one completion at a time: the form of all built-ins.

A grader runs such a reward completion by completion, each under its own deadline, so that a hang costs one completion
only. Called like any other reward function, it takes and returns lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.contracts.errors import RewardError
from rewards.functions.group_input import Columns, Completion, GroupInput, completion_text

if TYPE_CHECKING:
    from configs.contracts.records import Outcome

ARGUMENTS = frozenset({"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"})
"""Keywords that every reward gets besides the columns of the data set."""


class Grade(NamedTuple):
    """The value and outcome that a reward gives to one completion: `Grade(1.0, "scored")`, or `Grade(None, "unparsable_gold")` where it does not apply."""

    value: float | None
    outcome: Outcome


class PerCompletionReward(ABC):
    """A reward that judges one completion, by its text, its tokens, its row of the data, and what its siblings are."""

    __name__: str

    needs_token_ids = False
    """True if `grade` reads `group.token_ids_G`, which cost time to send."""

    can_hang = False
    """True if grading one completion may never end. Outside a run, too, it is then done in a process that can be killed."""

    @abstractmethod
    def grade(self, group: GroupInput, index: int) -> Grade:
        """Judge completion `index` of the group."""

    gold_probe = ""
    """A completion without an answer: a reward with a gold says `unparsable_gold` of it exactly where the gold cannot be read."""

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        """Which of these columns say what is right; none for a reward that compares with nothing."""
        return ()

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise RewardError, naming what there is, where data with these columns cannot be judged."""
        return

    def check_row(self, columns: Columns) -> None:
        """Raise RewardError, naming the value, if no completion can be judged by this row."""
        return

    def preload(self) -> None:
        """Import and build what grading needs and what takes long, so that a process forked afterwards need not."""
        return

    def check_host(self) -> None:
        """Raise ConfigError or RewardError, with the remedy, where this machine cannot run the reward.

        Asked by the driver before anything starts, and by every grader.
        """
        return

    def deadline_s(self, columns: Columns) -> float:
        """Wall seconds that judging one completion may take by limits of the reward's own; 0.0 where it has none.

        The deadline is then the larger of this and `rewards.timeout_s`.
        """
        return 0.0

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """TRL's convention, for the completions of one prompt: one value for each; every column is a list as long as `completions`."""
        rows = {name: column for name, column in columns.items() if name not in ARGUMENTS}
        token_ids_G = columns.get("completion_ids")
        given = rows if token_ids_G is None else {**rows, "completion_ids": token_ids_G}
        for name, column in given.items():
            if len(column) != len(completions):
                raise ValueError(
                    f"column {name!r} has {len(column)} values for {len(completions)} completions; repeat it once for each completion"
                )
        if self.needs_token_ids and token_ids_G is None:
            raise RewardError(f"{self.__name__} counts tokens: pass completion_ids, a list of token ids for each completion")
        texts_G = [completion_text(completion) for completion in completions]
        return [
            self.grade(GroupInput("", texts_G, token_ids_G or [], {name: column[i] for name, column in rows.items()}, 0), i).value
            for i in range(len(completions))
        ]


class TextReward(PerCompletionReward):
    """A reward that needs the text of one completion and its row of the data, and nothing else."""

    def grade(self, group: GroupInput, index: int) -> Grade:
        return self.grade_text(group.texts_G[index], group.columns)

    @abstractmethod
    def grade_text(self, text: str, columns: Columns) -> Grade:
        """Judge a text; `columns` are the values of its row in the data set."""
