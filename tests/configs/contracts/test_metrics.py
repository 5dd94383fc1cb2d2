"""Metric values that are reduced over ranks."""

from __future__ import annotations

from configs.contracts.metrics import Max, Mean, Sum, merge, values


def test_a_mean_over_nothing_is_left_out_and_a_mean_of_zeros_is_not() -> None:
    assert values({"kl": Mean(0.0, 0.0), "reward": Mean(0.0, 8.0), "failures": Sum(0.0), "longest": Max(0.0)}) == {
        "reward": 0.0, "failures": 0.0, "longest": 0.0,
    }  # fmt: skip


def test_a_rank_without_a_part_changes_no_mean() -> None:
    assert values(merge([{"kl": Mean(0.0, 0.0)}, {"kl": Mean(6.0, 3.0)}])) == {"kl": 2.0}
