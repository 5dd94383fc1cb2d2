"""Axes of charts: ranges, round ticks, and short texts for numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LOG_FROM_RATIO = 100.0
"""A metric of scale `log` gets a logarithmic axis if its values span at least this ratio."""

OUTLIER_RATIO = 8.0
"""The spikes of a `spiky` metric are cut off at the frame if all values span over this many times the range of the central 98 %."""

Scale = Literal["plain", "share", "log", "spiky"]
"""`share`: from 0 to 1, in per cent. `log`: logarithmic if the values span orders of magnitude. `spiky`: rare spikes are cut off."""


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto positions from `start` to `end`. Values beyond are drawn at the frame."""

    low: float
    high: float
    start: float
    end: float
    scale: Scale = "plain"

    @classmethod
    def spanning(cls, low: float, high: float, start: float, end: float) -> Axis:
        """Make an axis over a range, and widen the range if it is a single value."""
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            low, high = (low - abs(low) / 2, high + abs(high) / 2) if low or high else (0.0, 1.0)
        return cls(low, high, start, end)

    def at(self, values: np.ndarray | float) -> np.ndarray:
        low, high = self.low, self.high
        if self.scale == "log":
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        return self.start + (self.end - self.start) * np.clip((np.asarray(values, float) - low) / (high - low), 0.0, 1.0)

    def ticks(self, most: int) -> list[float]:
        """Return at most `most` round values."""
        if self.scale == "log":
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return [10.0**power for power in powers[:: max(1, math.ceil(len(powers) / most))]]
        size = next(step for step in _round_steps((self.high - self.low) / most) if (self.high - self.low) / step <= most - 0.5)
        first = math.ceil(self.low / size - 1e-9)
        return [tick * size for tick in range(first, math.floor(self.high / size + 1e-9) + 1)]


def _round_steps(least: float) -> Iterable[float]:
    power = math.floor(math.log10(least))
    while True:
        yield from (factor * 10.0**power for factor in (1, 2, 5))
        power += 1


def wants_log(finite: np.ndarray) -> bool:
    """Return True when nearly all values are positive and they span orders of magnitude."""
    positive = finite[finite > 0]
    return len(positive) > 0.8 * len(finite) and float(positive.max() / positive.min()) >= LOG_FROM_RATIO


def decades(positive: np.ndarray) -> tuple[float, float]:
    """Find the powers of ten around positive values: `[2, 300]` gives (1, 1000)."""
    return 10.0 ** math.floor(math.log10(positive.min())), 10.0 ** math.ceil(math.log10(positive.max()))


def robust_range(finite: np.ndarray) -> tuple[float, float]:
    """Find the range of the values without rare spikes."""
    low, high = float(finite.min()), float(finite.max())
    inner_low, inner_high = (float(value) for value in np.quantile(finite, [0.01, 0.99]))
    if inner_high > inner_low and high - low > OUTLIER_RATIO * (inner_high - inner_low):
        margin = inner_high - inner_low
        return max(low, inner_low - margin), min(high, inner_high + margin)
    return low, high


def tick_texts(ticks: Sequence[float], scale: Scale) -> list[str]:
    """Write the ticks with just enough digits to tell them apart."""
    texts = [[short(tick, scale, digits) for tick in ticks] for digits in range(3, 9)]
    return next((distinct for distinct in texts if len(set(distinct)) == len(ticks)), texts[-1])


def short(value: float, scale: Scale = "plain", digits: int = 3) -> str:
    """Write a number briefly, as at an axis: `1.2k`, `0.034`, `5e-7`, `40%`."""
    if not math.isfinite(value):
        return str(value)
    if scale == "share":
        return f"{value:.1%}" if 0 < abs(value) < 0.0995 or 0.9005 < abs(value) < 1 else f"{value:.0%}"
    if abs(value) >= 1e15 or (value and abs(value) < 1e-3):
        return re.sub(r"(\.0)?e([+-])0?", r"e\2", f"{value:.1e}").replace("e+", "e")
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.{digits}g}{unit}"
    return f"{value:.{digits}g}"
