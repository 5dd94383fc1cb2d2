"""Rewards for the length of completions: length, cosine, soft_overlong_punishment."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

from configs.contracts.errors import ConfigError
from rewards.answers.golds import GoldKind, Reading
from rewards.convention.group_input import Columns, GroupInput
from rewards.convention.parameters import finite_number, one_of, whole_number
from rewards.convention.per_completion import Grade, PerCompletionReward
from rewards.functions.math_answer import Accuracy, AnswerStyle

Unit = Literal["characters", "tokens"]


class _JudgedLength(PerCompletionReward):
    """A reward for the length that depends on whether the answer is right. Accuracy decides that.

    A completion without an answer is wrong, as in Open-R1; its outcome is `unparsable_answer`. An unreadable gold gives None.
    """

    can_hang = True

    def __init__(self, unit: Unit, answer_style: AnswerStyle, gold_column: str | None, gold_kind: GoldKind) -> None:
        one_of(self.__name__, "unit", unit, get_args(Unit))
        one_of(self.__name__, "answer_style", answer_style, get_args(AnswerStyle))
        one_of(self.__name__, "gold_kind", gold_kind, get_args(GoldKind))
        self.needs_token_ids = unit == "tokens"
        self._accuracy = Accuracy(answer_style, gold_column, gold_kind=gold_kind)
        self._judge: dict[str, object] = {"answer_style": answer_style, "gold_column": gold_column, "gold_kind": gold_kind}
        self._accuracy.__name__ = self.__name__  # so that errors name the reward that the user listed

    def gold_columns(self, columns: Columns) -> tuple[str, ...]:
        return self._accuracy.gold_columns(columns)

    def gold_reading(self, columns: Columns) -> Reading | None:
        return self._accuracy.gold_reading(columns)

    def gold_as_answer(self, columns: Columns) -> str:
        return self._accuracy.gold_as_answer(columns)

    def judge(self, name: str, params: Mapping[str, object]) -> tuple[str, Mapping[str, object]]:
        return "accuracy", self._judge

    def check_columns(self, columns: Collection[str]) -> None:
        self._accuracy.check_columns(columns)

    def check_row(self, columns: Columns) -> None:
        self._accuracy.check_row(columns)

    def preload(self) -> None:
        self._accuracy.preload()

    def grade(self, group: GroupInput, index: int) -> Grade:
        judged = self._accuracy.grade(group, index)
        if judged.value is None:
            return judged
        lengths_G = [len(symbols) for symbols in (group.token_ids_G if self.needs_token_ids else group.texts_G)]
        return Grade(self._value(judged.value == 1.0, lengths_G, index), judged.outcome)

    @abstractmethod
    def _value(self, right: bool, lengths_G: Sequence[int], index: int) -> float:
        """Compute the reward of completion `index` from the lengths of the group's completions."""


class Length(_JudgedLength):
    """Prefer short completions of a group to long ones: Kimi k1.5 (arXiv 2501.12599), section 2.3.3. Open-R1's `len_reward`.

    lambda = 0.5 - (len - min) / (max - min), where min and max are over all completions of the group, right and wrong. A right answer gets
    lambda, a wrong one min(0, lambda). If all are equally long, the reward is 0.

    Args:
        unit: unit of a length: `characters` of the text (Open-R1), or `tokens`.
        answer_style, gold_column, gold_kind: how the answer is judged, as in `accuracy`.

    Raises:
        ConfigError: a parameter has an unknown value.
        RewardError: when called, a row lacks the gold column.
    """

    __name__ = "length"

    def __init__(
        self,
        unit: Unit = "characters",
        answer_style: AnswerStyle = "latex",
        gold_column: str | None = None,
        gold_kind: GoldKind = "auto",
    ) -> None:
        super().__init__(unit, answer_style, gold_column, gold_kind)

    def _value(self, right: bool, lengths_G: Sequence[int], index: int) -> float:
        shortest, longest = min(lengths_G), max(lengths_G)
        if shortest == longest:
            return 0.0
        share = 0.5 - (lengths_G[index] - shortest) / (longest - shortest)
        return share if right else min(0.0, share)


class Cosine(_JudgedLength):
    """A cosine of the length. Short right answers get most, short wrong ones least. Yeo et al., arXiv 2502.03373; Open-R1.

    value = end + (start - end) (1 + cos(pi progress)) / 2, where progress = min(len / max_len, 1):

                    start (length 0)      end (max_len and more)
    right answer    max_value_correct     min_value_correct
    wrong answer    min_value_wrong       max_value_wrong

    A minimum may be greater than its maximum, as in the defaults of Open-R1's script (0.0 and -0.5); the slope is then reversed.

    Args:
        min_value_wrong, max_value_wrong, min_value_correct, max_value_correct: see the table.
        max_len: length, in characters or tokens, from which on the value is constant.
        unit: unit of a length: `characters` of the text (Open-R1), or `tokens`.
        answer_style, gold_column, gold_kind: how the answer is judged, as in `accuracy`.

    Raises:
        ConfigError: a parameter has an unknown value.
        RewardError: when called, a row lacks the gold column.
    """

    __name__ = "cosine"

    def __init__(
        self,
        min_value_wrong: float = -1.0,
        max_value_wrong: float = -0.5,
        min_value_correct: float = 0.5,
        max_value_correct: float = 1.0,
        max_len: int = 1000,
        unit: Unit = "characters",
        answer_style: AnswerStyle = "latex",
        gold_column: str | None = None,
        gold_kind: GoldKind = "auto",
    ) -> None:
        super().__init__(unit, answer_style, gold_column, gold_kind)
        bounds = {
            "min_value_wrong": min_value_wrong,
            "max_value_wrong": max_value_wrong,
            "min_value_correct": min_value_correct,
            "max_value_correct": max_value_correct,
        }
        for parameter, value in bounds.items():
            finite_number(self.__name__, parameter, value)
        whole_number(self.__name__, "max_len", max_len, least=1)
        self._of_right = (min_value_correct, max_value_correct)
        self._of_wrong = (max_value_wrong, min_value_wrong)
        self._max_len = max_len

    def _value(self, right: bool, lengths_G: Sequence[int], index: int) -> float:
        at_max_len, at_zero = self._of_right if right else self._of_wrong
        progress = min(lengths_G[index] / self._max_len, 1.0)
        return at_max_len + (at_zero - at_max_len) * (1.0 + math.cos(math.pi * progress)) / 2.0


class SoftOverlongPunishment(PerCompletionReward):
    """Punish completions that come near the length limit: DAPO (arXiv 2503.14476), equation 13, in tokens.

    up to L_max - L_cache      0
    up to L_max                (L_max - L_cache - len) / L_cache, which falls to -1
    above L_max                -1

    With L_cache 0 there is no slope: the value is 0 up to L_max.

    Args:
        max_completion_len: L_max. Default in a run: `actors.max_completion_length`.
        soft_punish_cache: L_cache. Default: a quarter of L_max, rounded down.

    Raises:
        ConfigError: a parameter is not a whole number, or L_cache is more than L_max; when called outside a run, if L_max is not given.
    """

    __name__ = "soft_overlong_punishment"
    needs_token_ids = True

    def __init__(self, max_completion_len: int | None = None, soft_punish_cache: int | None = None) -> None:
        if max_completion_len is not None:
            whole_number(self.__name__, "max_completion_len", max_completion_len, least=1)
        if soft_punish_cache is not None:
            whole_number(self.__name__, "soft_punish_cache", soft_punish_cache, least=0)
        if max_completion_len is not None and soft_punish_cache is not None and soft_punish_cache > max_completion_len:
            raise ConfigError(
                f"{self.__name__}: soft_punish_cache {soft_punish_cache} is more than max_completion_len {max_completion_len}, of which "
                f"it is the last part; lower it, or leave it out for a quarter"
            )
        self._max_len = max_completion_len
        self._cache = soft_punish_cache

    def grade(self, group: GroupInput, index: int) -> Grade:
        if self._max_len is None:
            raise ConfigError(
                f"{self.__name__}: max_completion_len is not set, and only a run takes it from actors.max_completion_length; set it, as "
                f"in load({self.__name__!r}, max_completion_len=2048)"
            )
        cache = self._max_len // 4 if self._cache is None else self._cache
        return Grade(_overlong(len(group.token_ids_G[index]), self._max_len, cache), "scored")


def _overlong(length: int, max_len: int, cache: int) -> float:
    free = max_len - cache
    if length <= free:
        return 0.0
    return (free - length) / cache if length <= max_len else -1.0
