"""Text of others on a terminal: no control character remains, and cuts fall between words."""

from __future__ import annotations

import sys

import pytest

from cluster.output.printable import beginning, end, printable


def test_only_line_ends_tabs_and_blanks_stay_of_what_cannot_be_seen() -> None:
    """Also of C1, whose U+009B starts an escape sequence, and of the marks that turn the direction of writing."""
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    left = {character for character in printable(everything) if not character.isprintable()}
    assert {"\n", "\t", "\u3000", "\xa0"} <= left and all(character in "\n\t\u200c\u200d" or character.isspace() for character in left)
    assert len(printable(everything)) == len(everything)
    assert printable("\x1b[0m\x7f\r\n") == "␛[0m␡␍\n"
    assert printable("می\u200cخواهم 👩\u200d⚕️") == "می\u200cخواهم 👩\u200d⚕️"
    assert printable("\u200e\u200f\u202a\u202e\u2066\u2069") == "······"
    assert printable("中文，全角 空　格 🙂") == "中文，全角 空　格 🙂"


@pytest.mark.parametrize(
    ("text", "length", "begins", "ends"),
    [
        ("one two three", 20, "one two three", "one two three"),
        ("one two three", 9, "one two", "two three"),
        ("one two three", 8, "one two", "three"),
        ("one two three", 7, "one two", "three"),
        ("abcdefgh", 5, "abcde", "defgh"),
        ("天地玄黄宇宙洪荒", 5, "天地玄黄宇", "黄宇宙洪荒"),
    ],
)
def test_cuts_fall_between_words(text: str, length: int, begins: str, ends: str) -> None:
    assert (beginning(text, length), end(text, length)) == (begins, ends)
