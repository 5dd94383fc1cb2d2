"""Quantities in prose: numbers with units among other words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rewards.answers.golds import Reading
from rewards.answers.numbers import PlainNumber, equal_numbers, read_number
from rewards.answers.units import converted

_QUANTITY = re.compile(r"(?<![\w.,])([-+]?\d[\d,]*(?:\.\d+)?)\s*([A-Za-zµμ°%/]+(?:\^?[23])?|[\u3400-\u9fff]{1,3})")


def states(prose: str, gold: Reading) -> bool | None:
    """Tell whether prose states the quantity of a gold with a unit; None if it states no quantity that says so, or the gold has no unit.

    The last quantity counts whose unit is the gold's or converts to it. Without one, the gold's number with another unit is another quantity.
    """
    if gold.number is None or not gold.number.unit:
        return None
    stated = list(_quantities(prose))
    comparable = [number for number in stated if converted(1.0, number.unit, gold.number.unit) is not None]
    if comparable:
        return equal_numbers(gold.number, comparable[-1])
    return False if any(number.value == gold.number.value for number in stated) else None


def _quantities(prose: str) -> Iterator[PlainNumber]:
    for found in _QUANTITY.finditer(prose):
        number = read_number(f"{found[1].rstrip(',')} {found[2]}")
        if number is not None and number.unit:
            yield number
