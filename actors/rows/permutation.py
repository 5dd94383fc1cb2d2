"""Shuffles that are the same on every platform and under every version of numpy."""

from __future__ import annotations

import numpy as np


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """Shuffle 0 .. count-1: int64 [count]. Each `stream` of a seed gives another shuffle.

    The order of raw Philox words is used because numpy guarantees that those never change, which it does not for its shuffles.
    """
    words = np.random.Philox(key=np.array([seed % 2**64, stream], dtype=np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")
