"""What an evaluation says of a model: estimators over the completions of a prompt, and intervals over prompts.

A prompt is the unit of sampling: completions of one prompt resemble one another, so the values of a prompt are first made one number,
and intervals are taken over those numbers (clustered, as in Miller 2024, arXiv:2411.00640, section 2.2).
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
"""Of a bootstrap: its own error on the bounds is then about 1 % of the interval's width."""

RESAMPLED_AT_ONCE = 4_000_000
"""Draws held in memory."""


class Interval(NamedTuple):
    """Both ends included."""

    low: float
    high: float


class Difference(NamedTuple):
    """How much better a model is than another on the same prompts."""

    mean: float
    interval: Interval
    """95 %, paired bootstrap over prompts."""
    better: int
    """Prompts on which it is better."""
    worse: int


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k completions is correct, unbiased, from n completions of which c are.

    1 - C(n - c, k) / C(n, k), as the product of Chen et al. 2021 (arXiv:2107.03374, equation 1 and figure 3), which never overflows.

    Raises:
        ValueError: k is not between 1 and n, or c not between 0 and n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass@{k} of {n} completions of which {c} are correct: k must be 1 to {n}, c 0 to {n}")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def majority_at_k(answers_G: Sequence[str | None], correct_G: Sequence[float]) -> float:
    """Expected correctness of the answer that most of the completions give (self-consistency, Wang et al. 2022, arXiv:2203.11171).

    Each completion has one vote; None gives none. Where several answers have most votes, one of them is drawn evenly, of which this is
    the expectation. The correctness of an answer is the mean over the completions that give it. Without any vote: 0.
    """
    classes: dict[str, list[float]] = defaultdict(list)
    for answer, correct in zip(answers_G, correct_G, strict=True):
        if answer is not None:
            classes[answer].append(correct)
    most = max(map(len, classes.values()), default=0)
    winners = [sum(members) / len(members) for members in classes.values() if len(members) == most]
    return sum(winners) / len(winners) if winners else 0.0


def wilson(share: float, count: int) -> Interval:
    """The 95 % score interval of a share of `count` (Wilson 1927, JASA 22), which also holds near 0 and 1 and for small counts."""
    squared = Z_95 * Z_95
    centre = share + squared / (2 * count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + squared / (4 * count * count))
    scale = 1 + squared / count
    return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def mean_interval(values_P: Sequence[float], seed: int) -> Interval:
    """95 % interval of the mean over prompts.

    Values that are all 0 or 1 are a share, for which Wilson's interval is exact enough at any size and does not shrink to nothing where
    all are equal, as a bootstrap would. Others: percentiles of a bootstrap over prompts (Efron 1979), the same for the same seed.

    Args:
        values_P: one value a prompt, at least one.
    """
    if all(value in (0.0, 1.0) for value in values_P):
        return wilson(sum(values_P) / len(values_P), len(values_P))
    return _percentiles(np.asarray(values_P, dtype=np.float64), seed)


def paired_difference(values_P: Sequence[float], reference_P: Sequence[float], seed: int) -> Difference:
    """Mean difference to a reference on the same prompts, with its 95 % interval: the bootstrap draws prompts, and each with both values.

    Prompts that are hard for both cancel out, which makes it much narrower than the two models' own intervals suggest (Miller 2024,
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
