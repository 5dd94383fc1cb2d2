"""Packing: nothing lost, nothing twice, nothing over budget, deterministic, and well filled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.records import RolloutGroup
from learner.packing import Denominators, MicroBatch, TrainedCompletion, TrainedGroup, balance, pack, trained_group
from tests.learner.rollouts import scored_groups, trained_groups


def sequences_in(batch: MicroBatch) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """(prompt, completion, advantage) of every completion, read back from the rows by following sources and segments."""
    flat_ids, flat_segments, flat_prompts = batch.token_ids_BT.ravel(), batch.segment_ids_BT.ravel(), batch.prompt_segments_BT.ravel()
    width = batch.token_ids_BT.shape[1]
    found = []
    ends = np.cumsum(batch.lengths_C)
    for index, (start, end) in enumerate(zip(ends - batch.lengths_C, ends, strict=True)):
        sources = batch.source_N[start:end]
        row = slice(int(sources[0]) // width * width, (int(sources[0]) // width + 1) * width)
        prompt_segment = flat_prompts[sources[0]]
        prompt = flat_ids[row][flat_segments[row] == prompt_segment]
        completion = batch.target_ids_N[start:end]
        assert flat_segments[sources[0]] == prompt_segment and (flat_prompts[sources] == prompt_segment).all()
        assert (flat_ids[sources[1:]] == completion[:-1]).all(), "each token is predicted from the token before it"
        assert (batch.position_ids_BT.ravel()[sources] == len(prompt) - 1 + np.arange(len(sources))).all()
        assert (batch.completion_N[start:end] == index).all()
        found.append((tuple(prompt.tolist()), tuple(completion.tolist()), float(batch.advantages_C[index])))
    return found


def expected_of(groups: list[TrainedGroup]) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
    return [
        (tuple(group.prompt_ids_T.tolist()), tuple(c.token_ids_T.tolist()), float(np.float32(c.advantage)))
        for group in groups
        for c in group.completions
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6), st.sampled_from([40, 64, 200, 5000]), st.sampled_from([1.0, 100.0, 1e9])
)
def test_every_completion_is_packed_once_behind_its_prompt(
    seed: int, prompts: int, generations: int, budget: int, attention_width: float
) -> None:
    groups = trained_groups(seed, prompts=prompts, generations=generations)
    batches = pack(groups, token_budget=budget, attention_width=attention_width)
    assert sorted(sequence for batch in batches for sequence in sequences_in(batch)) == sorted(expected_of(groups))
    assert all(batch.token_ids_BT.size <= budget for batch in batches)
    again = pack(groups, token_budget=budget, attention_width=attention_width)
    assert all(
        np.array_equal(a.token_ids_BT, b.token_ids_BT) and np.array_equal(a.source_N, b.source_N)
        for a, b in zip(batches, again, strict=True)
    )


def test_the_prompt_of_a_group_is_computed_once_unless_attention_forbids() -> None:
    completion = TrainedCompletion(np.arange(33), np.zeros(33, np.float32), 1.0)
    groups = [TrainedGroup(np.arange(8), (completion,) * 8) for _ in range(2)]
    (wide,) = pack(groups, token_budget=10_000, attention_width=1e9)
    (narrow,) = pack(groups, token_budget=10_000, attention_width=1.0)
    assert wide.tokens == sum(group.tokens for group in groups) == 2 * (8 + 8 * 32)
    assert narrow.tokens == 16 * (8 + 32) and narrow.token_ids_BT.shape == (16, 40)


def test_rows_of_a_large_batch_are_well_filled() -> None:
    """0.89 at the width that is cheapest; wider rows would reach 0.95 but cost more in attention."""
    batches = pack(trained_groups(3, prompts=16, generations=8, longest=200), token_budget=16_384, attention_width=800.0)
    assert sum(batch.tokens for batch in batches) / sum(batch.token_ids_BT.size for batch in batches) > 0.85


def test_rows_of_unlike_length_go_to_micro_batches_of_unlike_width() -> None:
    """Two rows of 4,096 tokens keep a device busy, so those of 2,200 need not be padded to that; two of 64 do not."""

    def batches_of(lengths: list[int]) -> list[tuple[int, ...]]:
        completions = [TrainedCompletion(np.arange(length + 1 - 8), np.zeros(length + 1 - 8, np.float32), 1.0) for length in lengths]
        groups = [TrainedGroup(np.arange(8), (completion,)) for completion in completions]
        return [batch.token_ids_BT.shape for batch in pack(groups, token_budget=16_384, attention_width=1.0)]

    assert batches_of([4096, 2200, 4096, 2200]) == [(2, 4096), (2, 2200)]
    assert batches_of([64, 40, 64, 40]) == [(4, 64)]
    assert batches_of([4096, 3900]) == [(2, 4096)], "nearly as long"


def test_nothing_to_train_makes_one_empty_micro_batch() -> None:
    (batch,) = pack([TrainedGroup(np.array([1, 2]), ())], token_budget=100, attention_width=1.0)
    assert len(batch.source_N) == len(batch.advantages_C) == batch.tokens == 0 and batch.token_ids_BT.shape[0] == 1


def test_a_sequence_over_the_budget_is_refused() -> None:
    completion = TrainedCompletion(np.arange(50), np.zeros(50, np.float32), 1.0)
    with pytest.raises(ValueError, match="51 tokens does not fit into the token budget of 40"):
        pack([TrainedGroup(np.array([1, 2]), (completion,))], token_budget=40, attention_width=1.0)


def test_completions_without_an_advantage_are_left_out_and_not_counted() -> None:
    scored = scored_groups(2, lambda table: table)[0]
    group = trained_group(RolloutGroup(scored.body), [None, 0.5, None, -0.5])
    lengths_G = scored.summary.completion_tokens_G
    assert [c.advantage for c in group.completions] == [0.5, -0.5]
    numbered = trained_group(RolloutGroup(scored.body), [None, 0.5, None, -0.5], first_index=8)
    (batch,) = pack([numbered], token_budget=4096, attention_width=1.0)
    assert dict(zip(batch.index_C.tolist(), batch.advantages_C.tolist(), strict=True)) == {9: 0.5, 11: -0.5}
    advantages_PG, nothing = [[None, 0.5, None, -0.5]], [[False] * 4]
    assert Denominators.of([lengths_G], advantages_PG, nothing, 24) == Denominators(2, lengths_G[1] + lengths_G[3], 24)
    assert Denominators.of([lengths_G], advantages_PG, [[True, True, False, False]], 24) == Denominators(2, lengths_G[3], 24)
    assert Denominators.of([lengths_G], [[None] * 4], nothing, 24) == Denominators(1, 1, 24)
    with pytest.raises(ValueError, match="4 completions but 1 advantages"):
        trained_group(RolloutGroup(scored.body), [1.0])


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 8))
def test_balance_gives_every_item_to_one_rank_within_the_bound_of_graham(costs: list[int], ranks: int) -> None:
    parts = balance(costs, ranks)
    assert sorted(index for part in parts for index in part) == list(range(len(costs)))
    if costs:
        # LPT never exceeds 4/3 of the best split, which is at least the mean and the largest item; and m + 1 items force two on one rank.
        ordered = sorted(costs, reverse=True)
        two_together = ordered[ranks - 1] + ordered[ranks] if len(costs) > ranks else 0
        best = max(sum(costs) / ranks, ordered[0], two_together)
        assert max(sum(costs[i] for i in part) for part in parts) <= 4 / 3 * best + 1e-9 or len(costs) > 2 * ranks
