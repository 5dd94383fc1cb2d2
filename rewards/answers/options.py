"""Options of a multiple-choice question: letters, as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rewards.answers.option_letters import read_option
from rewards.answers.spelling import folded, plain

_NAMED = r"(?:(?i:option|choice|answer)|选项?)\s*[:：]?\s*"
_ALONE = re.compile(rf"\**(?:{_NAMED})?(?:[(\[（【]\s*([A-Za-z])\s*[)\]）】]|([A-J])\s*[)）]?|([a-j])[)）])\s*[.:：、。,]?\**")
_WITH_TEXT = re.compile(
    r"\**(?:[(\[（【]\s*([A-Za-z])\s*[)\]）】]\s*[.:：、]?|([A-Ja-j])\s*[)）:：、．]|([A-J])\s*\.(?=\s*[^a-z\s.])(?!\s*[A-Z]\.)|([A-J])(?=\s+[\u3400-\u9fff])|([A-J])\.(?=\s+[a-z]+\s+[a-z]))\**\s*(\S.*)",
    re.DOTALL,
)
_SEVERAL = re.compile(r"[(\[]?[A-H][)\]]?(?:\s*[,、和与及&;/]?\s*(?:and\s+)?[(\[]?[A-H][)\]]?){1,7}\.?")


@dataclass(frozen=True, slots=True)
class Option:
    """One letter, or several in order, and the text beside it."""

    letters: str
    """Upper case, in alphabetical order."""
    label: str = ""
    """The text of the option, folded; "" if it was not given."""

    def __str__(self) -> str:
        return f"{self.letters}: {self.label}" if self.label else self.letters


def gold_option(text: str, in_latex: bool, told: bool = False) -> Option | None:
    """Read a text that is an option and nothing else: `B`, `(b)`, `B.`, `option B`, `B. Pneumonia`, or several: `AC`, `C, A`.

    Args:
        in_latex: several letters in LaTeX are variables.
        told: the text is known to be an option, so that a small letter is one as well.
    """
    text = text.strip()
    if told and len(text) == 1 and text.isalpha():
        return Option(text.upper())
    if alone := _ALONE.fullmatch(text):
        return Option(next(letter for letter in alone.groups() if letter).upper())
    if not in_latex and _SEVERAL.fullmatch(text):
        letters = re.findall(r"[A-H](?![a-z])", text)
        apart = any(sign in text for sign in ",、和与及&;/ ")
        if len(set(letters)) == len(letters) and (apart or sorted(letters) == letters):
            return Option("".join(sorted(letters)))
    if found := _WITH_TEXT.fullmatch(text):
        *letters, label = found.groups()
        return Option(next(letter for letter in letters if letter).upper(), folded(label))
    return None


def said_option(text: str) -> Option | None:
    """Read the option that an answer names: alone, with its text, or in a sentence."""
    if (alone := gold_option(plain(text), in_latex=False)) is not None:
        return alone
    letters = read_option(text)
    return Option(letters) if letters else None
