"""The places where an answer stands in a completion: in a box, between dollars, in a tag, behind `####`, behind "the answer is", or alone."""

from __future__ import annotations

import re

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_DELIMITED = re.compile(
    r"(?<!\\)\$\$((?:\\.|[^$\\])+?)\$\$|(?<!\\)\$((?:\\.|[^$\\\n])+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]",
    re.DOTALL,
)
_MARKED = re.compile(r"####[ \t]*([^\n]*)")
_ANCHOR = re.compile(
    r"(?:final\s+answer|correct\s+answer|answer)(?:\s+(?:is|should\s+be)\b\s*:?|\s*[:=：])|"
    r"(?:最终|正确|最后)?(?:答案|选项|结论|结果)\s*(?:应该|应|就)?(?:是|为|选|[:：])|(?:^|(?<=[\s。，,]))答\s*[:：]",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[。！？\n]|[.!?](?=\s|$)")
_DENIAL = re.compile(r"\b(?:not|cannot|never)\b|n['’]t\b|不是|不等于|并非", re.IGNORECASE)
_CORRECTED = re.compile(r"\bnot\s+\S+,?\s+but\b|不是\s*\S+?[,，]?\s*而是", re.IGNORECASE)
_REASONING_END = "</think>"


def boxes(text: str) -> list[str]:
    """The contents of all balanced `\\boxed{}` and `\\fbox{}`, in order; of nested ones the outer."""
    found, start = [], 0
    while opening := _BOX.search(text, start):
        end = _closing(text, opening.end())
        if end is None:
            break
        found.append(text[opening.end() : end].strip())
        start = end
    return found


def _closing(text: str, start: int) -> int | None:
    """The index of the brace that closes the one before `start`."""
    depth = 1
    for found in re.finditer(r"\\?[{}]", text[start:]):
        depth += {"{": 1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return start + found.end() - 1
    return None


def delimited(text: str) -> list[str]:
    """The contents of all LaTeX between delimiters, in order."""
    return [next(group for group in found.groups() if group is not None).strip() for found in _DELIMITED.finditer(text)]


def whole_delimited(text: str) -> str | None:
    """The content of a text that is one piece of delimited LaTeX; None for another."""
    found = _DELIMITED.fullmatch(text)
    return next(group for group in found.groups() if group is not None).strip() if found else None


def in_latex(text: str) -> str | None:
    """The answer as LaTeX gives it: what all different boxes hold, with commas between; or the last piece between delimiters."""
    if found := boxes(text):
        return ", ".join(dict.fromkeys(found))
    pieces = delimited(text)
    return pieces[-1] if pieces else None


def in_tag(text: str) -> str | None:
    """Take what stands in the first `<answer>` tag behind the reasoning, or, if there is none, in the first of all."""
    found = _TAG.search(after_reasoning(text)) or _TAG.search(text)
    return found[1].strip() if found else None


def marked(text: str) -> list[str]:
    """List what stands behind each `####` to the end of its line (GSM8K), the last one first. A heading of Markdown is among them."""
    return [found.strip() for found in reversed(_MARKED.findall(text)) if found.strip()]


def anchored(text: str) -> str | None:
    """Take what follows the last "the answer is" to the end of its sentence; None if there is none."""
    found = list(_ANCHOR.finditer(text))
    if not found:
        return None
    rest = text[found[-1].end() :].lstrip(" \t*_:：\n\"'“`")
    end = _SENTENCE_END.search(rest)
    return (rest[: end.start()] if end else rest).strip(" \t*_\"'”`") or None


def denied(text: str) -> bool:
    """Tell whether the last sentence with a digit says what the answer is not; of "not 43 but 42" only 42 counts."""
    sentences = [sentence for sentence in re.split(r"(?<=[。！？\n])|(?<=[.!?])\s", text) if any(letter.isdigit() for letter in sentence)]
    return bool(sentences) and _DENIAL.search(_CORRECTED.sub("", sentences[-1])) is not None


def after_reasoning(text: str) -> str:
    """Take what follows the reasoning; the whole text if there is none."""
    return text.rpartition(_REASONING_END)[2].strip() if _REASONING_END in text else text
