"""Shuffles that are the same on every platform and under every version of numpy."""

from __future__ import annotations

import numpy as np


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """0 .. count-1 shuffled: int64 [count]. Each `stream` of a seed is another shuffle.

    Sorting raw Philox words: numpy promises those, unlike its shuffles, to stay the same for ever.
    """
    words = np.random.Philox(key=np.array([seed % 2**64, stream], dtype=np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")
