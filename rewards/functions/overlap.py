"""Words of a text, and how far two texts have the same words: token F1, ROUGE-L, and containment."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from rewards.answers.spelling import CJK, SPACE_BESIDE_CJK
from rewards.functions.segmenter import segmenter

Language = Literal["auto", "en", "zh", "characters"]

_CJK = re.compile(f"[{CJK}]")
_TOKEN = re.compile(rf"[{CJK}]|[^{CJK}\s]+")
_ALPHANUMERIC = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NUMBER_SIGN = re.compile(r"(?<=\d)\.(?=\d)|(?<![\w.,)])[-−](?=\.?\d)")
"""The point in 1.5 and the sign of -5: without them these would be the numbers 15 and 5."""


def has_cjk(text: str) -> bool:
    return _CJK.search(text) is not None


def squad_tokens(text: str, language: Language) -> list[str]:
    """The tokens of SQuAD's evaluation script: lower case, no punctuation, no English articles, split at white space.

    In `auto` every CJK character is a token of its own, as in the scripts of CMRC and MLQA. Unlike there, the point and the sign of a number
    stay: 1.5 is not 15.

    Args:
        language: `en`, `auto`; `zh` for jieba's words; `characters` for every character but white space.
    """
    plain = _without_punctuation(unicodedata.normalize("NFKC", text).lower())
    if language == "characters":
        return [character for character in plain if not character.isspace()]
    if language == "zh":
        return [word for word in segmenter().cut(plain) if not word.isspace()]
    if not has_cjk(plain):
        without = _ARTICLE.sub(" ", plain)
        plain = without if without.strip() else plain  # the gold A is an option or a grade
    return plain.split() if language == "en" else _TOKEN.findall(plain)


def rouge_tokens(text: str, language: Language) -> list[str]:
    """The tokens of rouge-score, without its stemmer: runs of letters and digits in lower case. In `auto` CJK characters stand alone.

    Args:
        language: as in `squad_tokens`.
    """
    lower = unicodedata.normalize("NFKC", text).lower()
    if language == "characters":
        return [character for character in lower if character.isalnum()]
    if language == "zh":
        return [word for word in segmenter().cut(lower) if any(character.isalnum() for character in word)]
    return _ALPHANUMERIC.findall(lower) if language == "auto" else re.findall(r"[^\W_]+", lower)


def _without_punctuation(text: str) -> str:
    kept = {found.start(): "." if found[0] == "." else "-" for found in _NUMBER_SIGN.finditer(text)}
    return "".join(kept.get(at, "" if _is_punctuation(character) else character) for at, character in enumerate(text))


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def token_f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    """2 P R / (P + R), where the overlap counts each token as often as both texts have it (Rajpurkar et al., arXiv 1606.05250)."""
    return _f1((Counter(answer) & Counter(gold)).total(), len(answer), len(gold))


def rouge_l(answer: Sequence[str], gold: Sequence[str]) -> float:
    """2 P R / (P + R) of the longest common subsequence (Lin 2004, ROUGE-L with beta 1)."""
    from rapidfuzz.distance import LCSseq

    return _f1(LCSseq.similarity(answer, gold), len(answer), len(gold))


def _f1(common: int, of_answer: int, of_gold: int) -> float:
    return 2.0 * common / (of_answer + of_gold) if common else 0.0


def folded(text: str) -> str:
    """Write a text for comparison: NFKC, case folded, one space between words and none beside CJK characters, no punctuation around it."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    text = SPACE_BESIDE_CJK.sub("", text)
    return text.strip(" .,;:!?。、·\"'“”‘’「」『』《》【】")


def contains(text: str, part: str) -> bool:
    """Tell whether a folded text has a folded part that does not begin or end within a word or a number: no 5 in 15, 1.5 and -5.

    CJK characters have no borders: 肺炎 is in 支气管肺炎.
    """
    before = rf"(?<![^\W_{CJK}])(?<!\d[.,])(?<!(?<!\w)-)" if part[0].isdigit() else rf"(?<![^\W_{CJK}])"
    after = rf"(?![^\W_{CJK}])(?![.,]\d)" if part[-1].isdigit() else rf"(?![^\W_{CJK}])"
    before = "" if not part[0].isalnum() or has_cjk(part[0]) else before
    after = "" if not part[-1].isalnum() or has_cjk(part[-1]) else after
    return re.search(f"{before}{re.escape(part)}{after}", text) is not None
