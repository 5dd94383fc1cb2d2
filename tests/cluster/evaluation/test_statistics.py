"""Estimators against enumeration of everything that could be drawn, in exact fractions; intervals against the distributions they estimate."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from cluster.evaluation.statistics import Interval, majority_at_k, mean_interval, paired_difference, pass_at_k, wilson


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_correct_completion(n: int) -> None:
    """Rounding of at most 8 factors near 1: 1e-14."""
    for c, k in product(range(n + 1), range(1, n + 1)):
        subsets = list(combinations([True] * c + [False] * (n - c), k))
        assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, subsets)), len(subsets))), abs=1e-14)


def test_pass_at_k_neither_overflows_nor_loses_digits() -> None:
    """Binomials of 10,000 have 3,000 digits; 200 factors, each rounded once, are good to 1e-13."""
    exact = 1 - Fraction(comb(10_000 - 200, 100), comb(10_000, 100))
    assert pass_at_k(10_000, 200, 100) == pytest.approx(float(exact), rel=1e-13)


def test_pass_at_k_is_unbiased_where_the_usual_estimate_is_not() -> None:
    """Over all 2^6 outcomes of 6 completions with p = 0.3: the mean is 1 - (1 - p)^k, and that of 1 - (1 - c / n)^k is not."""
    n, k, p = 6, 3, Fraction(3, 10)
    outcomes = [(c, comb(n, c) * p**c * (1 - p) ** (n - c)) for c in range(n + 1)]
    assert sum(float(weight) * pass_at_k(n, c, k) for c, weight in outcomes) == pytest.approx(float(1 - (1 - p) ** k), abs=1e-14)
    plugged_in = sum(float(weight) * (1 - (1 - c / n) ** k) for c, weight in outcomes)
    assert abs(plugged_in - float(1 - (1 - p) ** k)) > 0.02


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1)])
def test_what_cannot_be_estimated_is_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="k must be 1 to 4"):
        pass_at_k(n, c, k)


def test_the_majority_is_what_drawing_from_its_definition_gives() -> None:
    """Every assignment of up to 5 votes to three answers and none, of which "a" is right; ties drawn evenly."""
    for size in range(1, 6):
        for answers in product(("a", "b", "c", None), repeat=size):
            votes = Counter(answer for answer in answers if answer is not None)
            most = [answer for answer in votes if votes[answer] == max(votes.values())]
            expected = Fraction(sum(answer == "a" for answer in most), len(most)) if most else Fraction(0)
            assert majority_at_k(answers, [float(answer == "a") for answer in answers]) == pytest.approx(float(expected), abs=1e-15)


def test_an_answer_judged_differently_counts_by_its_share() -> None:
    assert majority_at_k(["x", "x", "y"], [1.0, 0.0, 0.0]) == 0.5


def test_wilson_is_where_the_score_test_is_at_its_limit() -> None:
    """Its bounds p are those at which |share - p| is 1.96 standard errors *of p*."""
    low, high = wilson(0.3, 40)
    for bound in (low, high):
        assert abs(0.3 - bound) / np.sqrt(bound * (1 - bound) / 40) == pytest.approx(1.959964, abs=1e-9)
    assert wilson(0.0, 30).low == 0.0 and 0.05 < wilson(0.0, 30).high < 0.2


def test_shares_get_wilsons_interval_and_means_a_bootstrap() -> None:
    assert mean_interval([1.0, 0.0, 1.0], seed=0) == wilson(2 / 3, 3)
    assert mean_interval([1.0] * 20, seed=0).low < 0.9, "twenty of twenty do not make it certain"
    assert mean_interval([0.5, 0.0, 1.0], seed=0) != wilson(0.5, 3)


def test_the_bootstrap_is_the_exact_one_up_to_the_error_of_its_draws() -> None:
    """All 6^6 resamples of 6 values. A percentile of 10,000 draws has a standard error of 0.004 here; the 5 % one lies 0.05 away."""
    values = [0.0, 0.1, 0.35, 0.5, 0.8, 1.0]
    exact = np.percentile([np.mean(drawn) for drawn in product(values, repeat=6)], (2.5, 97.5))
    assert mean_interval(values, seed=3) == pytest.approx(exact, abs=0.016)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """60 prompts of 4 completions, whose chances differ: 95 % of 300 intervals, two standard errors (2.5 %) and what the percentile bootstrap
    lacks at this size (1 %) allowed. Counting completions as if they were prompts would hold it in fewer than 90 %."""
    random, held, naive = np.random.default_rng(0), 0, 0
    for trial in range(300):
        chances = random.beta(0.5, 0.5, 60)
        values = random.binomial(4, chances) / 4
        low, high = mean_interval(values.tolist(), seed=trial)
        held += low <= 0.5 <= high
        narrow = wilson(float(values.mean()), 240)
        naive += narrow.low <= 0.5 <= narrow.high
    assert held / 300 > 0.95 - 0.025 - 0.01
    assert naive / 300 < 0.9


def test_pairing_takes_the_prompts_difficulty_out() -> None:
    random = np.random.default_rng(1)
    hard = random.random(400) * 0.9
    better = (hard + 0.05).tolist()
    found = paired_difference(better, hard.tolist(), seed=0)
    assert found.mean == pytest.approx(0.05) and (found.better, found.worse) == (400, 0)
    assert found.interval == pytest.approx(Interval(0.05, 0.05), abs=1e-12)
    own = mean_interval(better, seed=0)
    assert own.high - own.low > 0.04, "unpaired, it would drown"


def test_a_difference_has_a_sign_and_an_interval_around_it() -> None:
    found = paired_difference([1, 0, 1, 1, 0.5], [0, 0, 1, 0, 1.0], seed=0)
    assert found.mean == pytest.approx(0.3) and (found.better, found.worse) == (2, 1)
    assert found.interval.low < 0 < 0.3 < found.interval.high
    swapped = paired_difference([0, 0, 1, 0, 1.0], [1, 0, 1, 1, 0.5], seed=0)
    assert swapped.interval == pytest.approx((-found.interval.high, -found.interval.low), abs=0.11)


def test_equal_seeds_give_equal_intervals_however_many_prompts() -> None:
    values = (np.arange(3000) % 7 / 7).tolist()
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5) != mean_interval(values, seed=6)
