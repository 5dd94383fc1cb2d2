"""Statistics of evaluations: estimators over the completions of a prompt, and confidence intervals over prompts.

A prompt is the unit of sampling, because completions of one prompt resemble one another. So the values of a prompt are first reduced to one
number, and intervals are computed over those numbers (clustered, as in Miller 2024, arXiv:2411.00640, section 2.2). `_P`: one value a prompt.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Z_95 = 1.959964
"""Quantile of the normal distribution for a two-sided interval of 95 %."""

RESAMPLES = 10_000
"""Resamples of a bootstrap; its own error on the bounds is then about 1 % of the interval's width."""

RESAMPLED_AT_ONCE = 4_000_000
"""Most draws held in memory at a time."""


class Interval(NamedTuple):
    """A confidence interval; both ends are included."""

    low: float
    high: float


class Difference(NamedTuple):
    """The difference between two models on the same prompts."""

    mean: float
    interval: Interval
    """95 %, from a paired bootstrap over prompts."""
    better: int
    """Prompts with a higher value than the reference's."""
    worse: int
    """Prompts with a lower value."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate, without bias, the probability that at least one of k completions is correct, given that c of n are.

    1 - C(n - c, k) / C(n, k), computed as the product of Chen et al. 2021 (arXiv:2107.03374, equation 1 and figure 3), which cannot overflow.

    Raises:
        ValueError: k is not between 1 and n, or c not between 0 and n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {n} completions of which {c} are correct: k must be 1 to {n}, c 0 to {n}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def majority_at_k(answers_G: Sequence[str | None], correct_G: Sequence[float]) -> float:
    """Compute the expected correctness of the answer that most completions give (self-consistency, Wang et al. 2022, arXiv:2203.11171).

    Each completion has one vote; None does not vote. The correctness of an answer is the mean over the completions that give it. If several
    answers have the most votes, the result is their mean: the expectation of drawing one of them at random. Without any vote it is 0.
    """
    classes: dict[str, list[float]] = defaultdict(list)
    for answer, correct in zip(answers_G, correct_G, strict=True):
        if answer is not None:
            classes[answer].append(correct)
    most = max(map(len, classes.values()), default=0)
    winners = [sum(members) / len(members) for members in classes.values() if len(members) == most]
    return sum(winners) / len(winners) if winners else 0.0


def wilson(share: float, count: int) -> Interval:
    """Compute the 95 % score interval of a fraction of `count` prompts (Wilson 1927, JASA 22); valid also near 0 and 1 and for small counts."""
    squared = Z_95 * Z_95
    centre = share + squared / (2 * count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + squared / (4 * count * count))
    scale = 1 + squared / count
    return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def mean_interval(values_P: Sequence[float], seed: int) -> Interval:
    """Compute the 95 % interval of the mean over prompts.

    Values that are all 0 or 1 get Wilson's interval: it is accurate for any number of prompts, and does not shrink to a point if all values
    are equal, as a bootstrap's does. Other values get the percentiles of a bootstrap over prompts (Efron 1979), reproducible by the seed.

    Args:
        values_P: one value a prompt, at least one.
    """
    if all(value in (0.0, 1.0) for value in values_P):
        return wilson(sum(values_P) / len(values_P), len(values_P))
    return _percentiles(np.asarray(values_P, dtype=np.float64), seed)


def paired_difference(values_P: Sequence[float], reference_P: Sequence[float], seed: int) -> Difference:
    """Compute the mean difference to a reference on the same prompts, with the 95 % interval of a bootstrap that draws each prompt with both its values.

    The difficulty of a prompt cancels out, so the interval is much narrower than the two models' own intervals suggest (Miller 2024,
    section 4.2; Koehn 2004, "Statistical significance tests for machine translation evaluation").

    Args:
        values_P, reference_P: one value a prompt, in the same order, at least one.
    """
    differences_P = np.asarray(values_P, dtype=np.float64) - np.asarray(reference_P, dtype=np.float64)
    interval = _percentiles(differences_P, seed)
    return Difference(float(differences_P.mean()), interval, int((differences_P > 0).sum()), int((differences_P < 0).sum()))


def _percentiles(values_P: np.ndarray, seed: int) -> Interval:
    random, means = np.random.default_rng(seed), []
    rows = max(1, RESAMPLED_AT_ONCE // len(values_P))
    for start in range(0, RESAMPLES, rows):
        drawn = random.integers(len(values_P), size=(min(rows, RESAMPLES - start), len(values_P)))
        means.append(values_P[drawn].mean(axis=1))
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return Interval(float(low), float(high))
