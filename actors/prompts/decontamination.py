"""Decontamination: leave out training rows that share 8 consecutive words with an evaluation set, as Open-R1 does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import track

from actors.chat.messages import is_listed, messages_of
from actors.rows.named_sets import load_named_or_path

NGRAM_WORDS = 8

SHOWN = 3
"""Number of left-out rows that are kept as examples."""

_PUNCTUATION = re.compile(r"[^\w\s]|_")
_READ_AT_ONCE = 512


@dataclass(frozen=True)
class Contaminated:
    """A row that was left out, and the words that it shares with an evaluation set."""

    location: str
    evaluation_set: str
    ngram: str


@dataclass
class Decontamination:
    """Finds prompts that share eight consecutive words with a prompt of an evaluation set.

    Text is compared in lower case and without punctuation, and split into words at white space. Prompts of fewer than eight
    words are never left out.
    """

    sets_of: dict[str, str]
    """n-gram -> the first evaluation set that has it."""
    counts: Counter[str] = field(default_factory=Counter)
    """Evaluation set -> number of rows left out for it."""
    examples: list[Contaminated] = field(default_factory=list)

    @classmethod
    def against(cls, specs: Sequence[str]) -> Decontamination:
        """Read evaluation sets.

        Args:
            specs: names, paths or path@split, as `load_named_or_path` takes them.

        Raises:
            DataError: one of them cannot be read.
        """
        sets_of: dict[str, str] = {}
        for spec in track(specs, "reading evaluation sets", console=Console(emoji=False, stderr=True), transient=True):
            for text in _prompts(spec):
                for ngram in ngrams(text):
                    sets_of.setdefault(ngram, spec)
        return cls(sets_of, Counter(dict.fromkeys(specs, 0)))

    def fresh(self) -> Decontamination:
        """A copy with the same evaluation sets and counts of zero."""
        return Decontamination(self.sets_of, Counter(dict.fromkeys(self.counts, 0)))

    def refuses(self, prompt: object, location: str) -> bool:
        """Look for shared words in a prompt (text or chat messages); True, and counted, if it is to be left out."""
        found = next((ngram for ngram in ngrams(prompt_text(prompt)) if ngram in self.sets_of), None)
        if found is None:
            return False
        evaluation_set = self.sets_of[found]
        self.counts[evaluation_set] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(Contaminated(location, evaluation_set, found))
        return True


def ngrams(text: str) -> Iterator[str]:
    """All runs of eight consecutive words: `"A b, c…"` -> `"a b c d e f g h"`, ...; none of a shorter text."""
    words = _PUNCTUATION.sub("", text.lower()).split()
    return (" ".join(words[start : start + NGRAM_WORDS]) for start in range(len(words) - NGRAM_WORDS + 1))


def prompt_text(prompt: object) -> str:
    """The text of a prompt, or of the user's messages in it."""
    if isinstance(prompt, str) and not is_listed(prompt):
        return prompt
    try:
        return "\n".join(message["content"] for message in messages_of(prompt) if message["role"] == "user")
    except ValueError:  # the rendering of the prompt says what is wrong with it
        return ""


def _prompts(spec: str) -> Iterable[str]:
    rows, column = load_named_or_path(spec)
    for first in range(0, len(rows), _READ_AT_ONCE):
        yield from map(prompt_text, rows.values(column, range(first, min(first + _READ_AT_ONCE, len(rows)))))
