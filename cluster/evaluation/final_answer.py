"""Extract the final answer of a completion as text; a majority vote counts equal answers."""

from __future__ import annotations

import re
import unicodedata

_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_TEXT_COMMAND = re.compile(r"\\(?:text|mbox|mathrm)\s*\{([^}]*)\}")
_SPACING = re.compile(r"\\[,;:! ]|\\left(?![a-zA-Z])|\\right(?![a-zA-Z])|[$\s]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_answer(text: str) -> str:
    """Extract the answer of a completion, in one spelling.

    The answer is the content of the last `\\boxed{}`, or else of the first `<answer>` tag, or else what follows the last `####`, or else the
    last number of the text, or else the whole text. `\\text`, spaces, dollars, commas between thousands and a final full stop are removed,
    and letters are made lower case.

    Example: `final_answer("so $x = \\\\boxed{1,024}$.") == "1024"`.
    """
    return _one_spelling(_last_box(text) or _tagged(text) or _marked(text) or _last_number(text) or text)


def _last_box(text: str) -> str:
    start = text.rfind("\\boxed{") + len("\\boxed{")
    if start < len("\\boxed{"):
        return ""
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return ""


def _tagged(text: str) -> str:
    found = _ANSWER_TAG.search(text)
    return found[1] if found else ""


def _marked(text: str) -> str:
    return text.rpartition("####")[2] if "####" in text else ""


def _last_number(text: str) -> str:
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else ""


def _one_spelling(answer: str) -> str:
    plain = _TEXT_COMMAND.sub(r"\1", unicodedata.normalize("NFKC", answer))
    plain = _SPACING.sub("", plain).replace("{,}", "").replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").lower()
    return _THOUSANDS.sub("", plain).rstrip(".,")
