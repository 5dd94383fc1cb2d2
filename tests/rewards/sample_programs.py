"""Completions that hold programs."""

from __future__ import annotations

from typing import Any

from rewards import load
from rewards.convention.group_input import GroupInput

SUM = {
    "python": "print(sum(map(int, input().split())))",
    "cpp": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b; }",
}
"""Prints the sum of the numbers of a line."""


def fenced(code: str, language: str = "python") -> str:
    """A completion whose answer is this program."""
    return f"<think>\nLet me write it.\n</think>\n<answer>\n```{language}\n{code}\n```\n</answer>"


def grade(name: str, text: str, row: dict[str, Any], **params: Any) -> tuple[float | None, str]:
    """Value and outcome of a completion under a reward."""
    return tuple(load(name, **params).grade(GroupInput("", [text], [], row, 0), 0))  # type: ignore[attr-defined]
