"""Metric values that can be reduced correctly, and busy time.

A mean of means is wrong when the parts differ in size: a rank with 10 tokens would count as much as one with 1,000. So a
`Mean` carries its weight until the last reduction, and only then becomes a float.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Mean:
    """A weighted mean that has not been divided yet: `Mean(total=6.0, weight=3.0)` is 2.0. Over nothing, it has no value."""

    total: float
    weight: float

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight else None


@dataclass(frozen=True, slots=True)
class Sum:
    """A count or an amount."""

    value: float

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.value + other.value)


@dataclass(frozen=True, slots=True)
class Max:
    """The largest of the parts."""

    value: float

    def __add__(self, other: Max) -> Max:
        return Max(max(self.value, other.value))


@dataclass(frozen=True, slots=True)
class Min:
    """The smallest of the parts."""

    value: float

    def __add__(self, other: Min) -> Min:
        return Min(min(self.value, other.value))


Metric = Mean | Sum | Max | Min


def merge(parts: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Combine metrics of the same name from ranks or micro-batches; a name may be missing in some parts."""
    merged: dict[str, Metric] = {}
    for part in parts:
        for name, metric in part.items():
            merged[name] = merged[name] + metric if name in merged else metric  # type: ignore[operator]
    return merged


def values(metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The floats to log. A mean over nothing is left out: a 0 would pass for a measurement."""
    found = ((name, metric.value) for name, metric in metrics.items())
    return {name: float(value) for name, value in found if value is not None}


@dataclass
class BusyClock:
    """The time for which something was busy. Several tasks may overlap; overlapping time counts once.

    Example: two overlapping `with clock.busy():` blocks of 1 s, started 0.5 s apart, add 1.5 s.
    """

    busy_s: float = 0.0
    _running: int = field(default=0, repr=False)
    _since: float = field(default=0.0, repr=False)

    @contextmanager
    def busy(self) -> Iterator[None]:
        if self._running == 0:
            self._since = time.monotonic()
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if self._running == 0:
                self.busy_s += time.monotonic() - self._since

    def total_s(self) -> float:
        """Busy seconds so far, including running blocks."""
        return self.busy_s + (time.monotonic() - self._since if self._running else 0.0)
