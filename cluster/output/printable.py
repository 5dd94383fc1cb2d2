"""Text of a model, of data or of a reward as a terminal may show it: no character of it moves the cursor or starts an escape sequence."""

from __future__ import annotations

import re
import unicodedata

LONGEST_WORD = 60
"""Most characters by which a cut is moved so that it falls between words. Texts without blanks, as in Chinese, are cut anywhere."""

_PICTURES, _DELETE, _PICTURE_OF_DELETE = 0x2400, 0x7F, "\u2421"
"""Unicode has a picture of each ASCII control character: ␛ of the escape."""


_JOINERS = "\u200c\u200d"
"""Without them words of Persian and of Indian scripts are misspelt, and emoji fall apart; they turn no direction of writing."""


def printable(text: str) -> str:
    """Replace control characters, except line ends and tabs, by their pictures, and whatever else cannot be printed by a dot.

    Example:
        >>> printable("\\x1b[31mred\\u202e")
        '␛[31mred·'
    """
    return "".join(character if _is_printed(character) else _picture(character) for character in text)


def beginning(text: str, length: int) -> str:
    """Return at most `length` characters from the beginning, up to the end of a word."""
    begun = text[:length]
    inside_word = not text[length : length + 1].isspace() and len(text) > length
    return (re.sub(rf"(?<=\s)\S{{1,{LONGEST_WORD}}}\Z", "", begun) if inside_word else begun).rstrip()


def end(text: str, length: int) -> str:
    """Return at most `length` characters from the end, from the beginning of a word on."""
    ended = text[-length:]
    inside_word = len(text) > length and not text[-length - 1].isspace()
    return (re.sub(rf"\A\S{{1,{LONGEST_WORD}}}(?=\s)", "", ended) if inside_word else ended).lstrip()


def _is_printed(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or character in _JOINERS or unicodedata.category(character) == "Zs"


def _picture(character: str) -> str:
    if ord(character) < ord(" "):
        return chr(_PICTURES + ord(character))
    return _PICTURE_OF_DELETE if ord(character) == _DELETE else "·"
