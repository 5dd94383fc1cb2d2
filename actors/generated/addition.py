"""The data of `builtin:addition`: all sums of two two-digit numbers, with demonstrations that are partly wrong on purpose.

A model that imitates them makes mistakes that GRPO can correct: it writes the right layout most of the time, and often
forgets the carry.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DROPPED_CARRY_SHARE = 0.65
"""Share of demonstrations that never carry; they are right only for sums without a carry."""
SLIP_SHARE = 0.10
"""Share of demonstrations with one wrong digit. The rest are right: enough for GRPO to find the carry within 60 steps."""
DAMAGED_LAYOUT_SHARE = 0.5
"""Share of demonstrations with a damaged layout, by one of `_DAMAGES`, all equally likely."""

_DAMAGES = (*[(line,) for line in (0, 2, 3, 5)] * 2, (0, 1, 2), (3, 4, 5))
"""Lines, of six, that are removed: one tag (8 of 10 entries) or a whole block (2 of 10)."""


def write_addition(folder: Path, seed: int) -> Path:
    """Write all 8,100 sums to `addition.jsonl` in `folder`, one object a line, and return its path.

    Columns: `prompt` ("What is 17+25?"), `solution` ("42"), `demonstration` (a completion to imitate, often faulty).
    The same seed writes the same bytes on every platform.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "addition.jsonl"
    random = np.random.Generator(np.random.Philox(key=seed % 2**64))
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for first in range(10, 100):
            for second in range(10, 100):
                row = {
                    "prompt": f"What is {first}+{second}?",
                    "solution": str(first + second),
                    "demonstration": _demonstration(first, second, random.random(4)),
                }
                file.write(json.dumps(row) + "\n")
    return path


def _demonstration(first: int, second: int, draws_4: np.ndarray) -> str:
    """A completion for `first + second`; the random numbers `draws_4`, in [0, 1), decide on its faults."""
    fault, which_slip, damage, which_damage = draws_4
    thought, answer = _worked_sum(first, second, carries=fault >= DROPPED_CARRY_SHARE)
    if DROPPED_CARRY_SHARE <= fault < DROPPED_CARRY_SHARE + SLIP_SHARE:
        thought, answer = _slip(thought, answer, which_slip)
    lines = ["<think>", thought, "</think>", "<answer>", answer, "</answer>"]
    if damage < DAMAGED_LAYOUT_SHARE:
        lost = _DAMAGES[int(len(_DAMAGES) * which_damage)]
        lines = [line for position, line in enumerate(lines) if position not in lost]
    return "\n".join(lines)


def _worked_sum(first: int, second: int, carries: bool) -> tuple[str, str]:
    """Add units, then tens: `("7+5=12 1+2+1=4", "42")` for 17 and 25; `("7+5=12 1+2+0=3", "32")` without the carry."""
    units = first % 10 + second % 10
    carry = units // 10 if carries else 0
    tens = first // 10 + second // 10 + carry
    return f"{first % 10}+{second % 10}={units} {first // 10}+{second // 10}+{carry}={tens}", f"{tens}{units % 10}"


def _slip(thought: str, answer: str, which: float) -> tuple[str, str]:
    """Change the last digit of the tens' sum, there and in the answer, by 1 to 9."""
    wrong = (int(answer[-2]) + 1 + int(9 * which)) % 10
    return f"{thought[:-1]}{wrong}", f"{answer[:-2]}{wrong}{answer[-1]}"
