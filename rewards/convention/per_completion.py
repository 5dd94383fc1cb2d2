"""Rewards that judge one completion at a time. All built-ins are of this kind.

A grader calls such a reward once for each completion, under a deadline for each, so that a hang costs one completion only. It can also be
called like any other reward function, with lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.contracts.errors import RewardError
from rewards.convention.group_input import Columns, Completion, GroupInput, completion_text

if TYPE_CHECKING:
    from configs.contracts.records import Outcome
    from rewards.answers.golds import Reading

ARGUMENTS = frozenset({"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"})
"""Arguments of the calling convention that are not columns of the data set."""


class Grade(NamedTuple):
    """Value and outcome of one completion: `Grade(1.0, "scored")`, or `Grade(None, "unparsable_gold")` if the reward does not apply."""

    value: float | None
    outcome: Outcome


def choose_gold_column(reward: str, named: str | None, columns: Collection[str]) -> str:
    """Choose the one of these columns that holds the gold answer: the one that is named, or else `solution` or `answer`.

    Raises:
        RewardError: the data lacks it.
    """
    candidates = (named,) if named else ("solution", "answer")
    for name in candidates:
        if name in columns:
            return name
    raise RewardError(
        f"{reward} needs the column {' or '.join(candidates)}, but the data has {', '.join(sorted(columns)) or 'no columns'}; "
        f"set gold_column in its params"
    )


class PerCompletionReward(ABC):
    """A reward that judges one completion. It may look at the text, the tokens, the row of the data, and the group's other completions."""

    __name__: str

    needs_token_ids = False
    """True if `grade` reads `group.token_ids_G`. They are sent only then, as they cost time."""

    can_hang = False
    """True if grading a completion may never end. Direct calls, outside a run, then use a process that can be killed."""

    @abstractmethod
    def grade(self, group: GroupInput, index: int) -> Grade:
        """Judge completion `index` of the group."""

    gold_probe = ""
    """A completion without an answer. A reward with a gold gives it the outcome `unparsable_gold` exactly if the gold cannot be read."""

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        """Choose the columns that hold the gold; none for a reward without a gold."""
        return ()

    def columns_read(self, columns: Columns) -> Collection[str]:
        """Name the columns that the reward may read, of a row with these columns."""
        return self.gold_columns(columns)

    def gold_reading(self, columns: Columns) -> Reading | None:
        """Read the gold of a row as the reward does; None for a reward that compares with no answer. This may take for ever."""
        return None

    def gold_as_answer(self, columns: Columns) -> str:
        """Write the gold of a row as a completion that must be right; "" without such a form, or if the gold says nothing. This may never end."""
        return ""

    def judge(self, name: str, params: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
        """Name the built-in, and its parameters, that decides whether an answer is right: for most rewards itself.

        Args:
            name, params: those of this reward.
        """
        return name, params

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise RewardError, naming these columns, if the reward needs another one."""
        return

    def check_row(self, columns: Columns) -> None:
        """Raise RewardError, naming the value, if a value of this row is of a wrong type."""
        return

    def preload(self) -> None:
        """Import and build beforehand what takes long, so that processes forked afterwards have it."""
        return

    def check_host(self) -> None:
        """Raise ConfigError or RewardError, with the remedy, if this machine cannot run the reward.

        The driver calls it before anything starts, and every grader calls it too.
        """
        return

    def deadline_s(self, columns: Columns) -> float:
        """The most wall seconds that the reward's own limits allow for one completion; 0.0 if it has no limits of its own.

        The deadline is the larger of this and `rewards.timeout_s`.
        """
        return 0.0

    def __call__(self, completions: Sequence[Completion], **columns: Any) -> list[float | None]:
        """Judge the completions of one prompt by TRL's convention: every column is a list as long as `completions`; one value for each."""
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
    """A reward that looks only at the text of the completion and the row of the data."""

    def grade(self, group: GroupInput, index: int) -> Grade:
        return self.grade_text(group.texts_G[index], group.columns)

    @abstractmethod
    def grade_text(self, text: str, columns: Columns) -> Grade:
        """Judge the text of one completion."""
