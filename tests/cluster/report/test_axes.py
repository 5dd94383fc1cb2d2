"""Numbers on their way into a chart: smoothing, ticks, labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from cluster.report.axes import Axis, short, tick_texts
from cluster.report.drawing import smoothed


def test_smoothing_is_the_centred_mean_of_what_is_there() -> None:
    values = np.random.default_rng(0).normal(size=101)
    values[[0, 7, 50, 51, 52, 53, 54]] = np.nan
    found = smoothed(values, 5)
    for index, value in enumerate(values):
        if math.isnan(value):
            assert math.isnan(found[index])
        else:  # sums of five normal numbers, in another order
            assert found[index] == pytest.approx(np.nanmean(values[max(0, index - 2) : index + 3]), abs=1e-12)


@pytest.mark.parametrize("scale", ["plain", "log"])
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (1.0, 10_000.0), (0.97, 0.98), (-3e-9, 5e-9), (1e-12, 3e20), (999, 1001), (99_990, 100_010)]
)
def test_ticks_are_few_and_inside(low: float, high: float, scale: Any) -> None:
    if scale == "log" and low <= 0:
        low = high / 1000
    ticks = Axis(low, high, 0.0, 1.0, scale).ticks(5)
    assert len(ticks) <= 5 and (len(ticks) >= 2 or scale == "log")
    assert all(low - 1e-9 * abs(high) <= tick <= high * (1 + 1e-9) for tick in ticks)
    assert len(set(tick_texts(ticks, scale))) == len(ticks), "distinct where they are read"


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.0, "plain", "0"), (1234.0, "plain", "1.23k"), (999_999.0, "plain", "1M"), (0.03449, "plain", "0.0345"), (-5e-7, "plain", "-5e-7"),
        (1.5e-12, "plain", "1.5e-12"), (3e20, "plain", "3e20"), (0.4, "share", "40%"), (0.995, "share", "99.5%"), (1.0, "share", "100%"),
        (math.inf, "plain", "inf"),
    ],
)  # fmt: skip
def test_numbers_are_short(value: float, scale: Any, text: str) -> None:
    assert short(value, scale) == text
