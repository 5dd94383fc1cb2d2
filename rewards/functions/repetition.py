"""Rewards against repetition: repetition_penalty and fluency. Both measure the share of unique n-grams."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, get_args

from configs.contracts.errors import ConfigError
from rewards.convention.group_input import GroupInput
from rewards.convention.parameters import finite_number, one_of, whole_number
from rewards.convention.per_completion import Grade, PerCompletionReward
from rewards.functions.segmenter import require_jieba, segmenter

Language = Literal["en", "zh", "tokens"]


class _NGramReward(PerCompletionReward):
    """The common part of both rewards: the n-grams of a completion."""

    def __init__(self, ngram_size: int, language: Language) -> None:
        whole_number(self.__name__, "ngram_size", ngram_size, least=1)
        one_of(self.__name__, "language", language, get_args(Language))
        if language == "zh":
            require_jieba(self.__name__)
        self._ngram_size = ngram_size
        self._language = language
        self.needs_token_ids = language == "tokens"

    def preload(self) -> None:
        if self._language == "zh":
            segmenter()

    def unique_share(self, group: GroupInput, index: int) -> float:
        """unique / total over the n-grams of completion `index`: 1.0 if none repeats, or if there are fewer than n words."""
        words = self._words(group, index)
        total = len(words) - self._ngram_size + 1
        if total < 1:
            return 1.0
        ngrams = zip(*(words[start:] for start in range(self._ngram_size)), strict=False)
        return len(set(ngrams)) / total

    def _words(self, group: GroupInput, index: int) -> Sequence[Hashable]:
        if self._language == "tokens":
            return group.token_ids_G[index]
        text = group.texts_G[index]
        return text.lower().split() if self._language == "en" else list(segmenter().cut(text))


class RepetitionPenalty(_NGramReward):
    """max_penalty (1 - unique / total) over the n-grams of a completion; 0.0 if it has fewer than n words.

    Yeo et al., arXiv 2502.03373, in Open-R1's form.

    Args:
        ngram_size: n.
        max_penalty: the value for a text that only repeats itself; not positive.
        language: unit of an n-gram. `en`: words between white space, in lower case. `zh`: jieba's segments, which include white space and
            punctuation. `tokens`: token ids.

    Raises:
        ConfigError: a parameter has an unknown value, `max_penalty` is positive, or jieba is not installed.
    """

    __name__ = "repetition_penalty"

    def __init__(self, ngram_size: int = 3, max_penalty: float = -1.0, language: Language = "en") -> None:
        super().__init__(ngram_size, language)
        finite_number(self.__name__, "max_penalty", max_penalty)
        if max_penalty > 0:
            raise ConfigError(f"{self.__name__}: max_penalty {max_penalty} should not be positive; set it to -1.0, or to 0 for no penalty")
        self._max_penalty = max_penalty

    def grade(self, group: GroupInput, index: int) -> Grade:
        repeated = 1.0 - self.unique_share(group, index)
        return Grade(self._max_penalty * repeated if repeated else 0.0, "scored")  # never -0.0, which would be printed like a penalty


class Fluency(_NGramReward):
    """unique / total over the n-grams of a completion: from almost 0, for a text that repeats itself, to 1. Grammar plays no part.

    1.0 for fewer than n words, also for an empty completion: this reward does not punish short texts.

    Args:
        ngram_size, language: as in `repetition_penalty`.

    Raises:
        ConfigError: a parameter has an unknown value, or jieba is not installed.
    """

    __name__ = "fluency"

    def __init__(self, ngram_size: int = 3, language: Language = "en") -> None:
        super().__init__(ngram_size, language)

    def grade(self, group: GroupInput, index: int) -> Grade:
        return Grade(self.unique_share(group, index), "scored")
