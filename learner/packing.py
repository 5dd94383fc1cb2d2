"""Pack the completions of a step into micro-batches without padding them one by one. Numpy only: the driver imports this file.

The prompt of a group is computed once. A *block* is a prompt followed by several of its completions; each completion sees the prompt and
itself, not its siblings. Blocks share rows, and rows of similar length form a micro-batch of at most `token_budget` tokens, as wide as its
longest row. The last token of a completion predicts nothing, so it takes no place in a row.

Example: prompt p0 p1 p2 with completions a0 a1 a2 a3 and b0 b1 b2, then prompt q0 q1 with completion c0 c1 c2 c3 c4, in a row of 16 tokens.

    index in the row   0  1  2    3  4  5    6  7    8  9   10 11 12 13   14 15
    token             p0 p1 p2 | a0 a1 a2 | b0 b1 | q0 q1 | c0 c1 c2 c3 |  .  .
    position           0  1  2    3  4  5    3  4    0  1    2  3  4  5    0  0
    segment            0  0  0    1  1  1    2  2    3  3    4  4  4  4   -1 -1
    prompt's segment   0  0  0    0  0  0    0  0    3  3    3  3  3  3   -1 -1

    source_N       2  3  4  5    2  6  7    9 10 11 12 13      the token whose hidden state predicts
    target_ids_N  a0 a1 a2 a3   b0 b1 b2   c0 c1 c2 c3 c4      the token that is predicted

Index 2, the end of the shared prompt, predicts the first token of both a and b. Positions go on from the prompt in every completion, as if
it stood alone behind it. A token sees earlier tokens of its own segment and of its prompt's segment (`learner.model.attention`).

An advantage stays one number per completion on its way through here: `advantages_PG` (by prompt and completion) becomes
`TrainedCompletion.advantage`, then `advantages_C` (by completion of a micro-batch).

Dimensions: `_P` prompts, `_G` completions of a group, `_B` rows, `_T` tokens of a row or of a sequence, `_N` predicted completion tokens,
`_C` completions of a micro-batch.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from configs.contracts.records import RolloutGroup

ROW_ALIGNMENT = 8
"""Row widths are multiples of this: attention kernels want an aligned mask."""

MAX_WIDTH_STEPS = 12
"""Number of row widths that are tried for one step."""

MIN_ROW_FILL = 0.9
"""A row shorter than this share of the micro-batch's width begins another, narrower micro-batch, if this one has enough positions."""

ENOUGH_POSITIONS = 4096
"""This many positions keep a device busy, so a micro-batch that has them need not be filled up with short rows."""

FLEX_ATTENTION = "flex_attention"
"""The name that transformers gives to the attention that skips blocks in which no token sees another."""

ATTENTION_WIDTH_PER_HIDDEN = 6.0
"""Row width, in hidden sizes, at which attention costs as much as the linear layers: 12 H^2 against 2 T H multiplications a token.
The optimum is flat: on a CPU core, steps of the quickstart at 2 to 16 hidden sizes took the same time within a tenth."""


def attention_width(hidden_size: int, attn_implementation: str) -> float:
    """Row width in tokens at which attention costs as much as all else; infinite under FlexAttention, where wide rows cost nothing extra."""
    return math.inf if attn_implementation == FLEX_ATTENTION else ATTENTION_WIDTH_PER_HIDDEN * hidden_size


@dataclass(frozen=True, slots=True)
class TrainedCompletion:
    """One completion to learn from."""

    token_ids_T: np.ndarray
    logprobs_T: np.ndarray
    """Log-probabilities under the policy that sampled it, in nats."""
    advantage: float
    """Factor of its policy gradient."""
    index: int = 0
    """Its number among all completions that the caller packs, repeated in `MicroBatch.index_C`."""


@dataclass(frozen=True, slots=True)
class TrainedGroup:
    """A prompt and the completions of it that are trained on."""

    prompt_ids_T: np.ndarray
    completions: tuple[TrainedCompletion, ...]

    @property
    def tokens(self) -> int:
        """Tokens to compute when the prompt is computed once."""
        return len(self.prompt_ids_T) + sum(len(completion.token_ids_T) - 1 for completion in self.completions)


@dataclass(frozen=True, slots=True)
class Denominators:
    """Counts of the whole step, over all ranks and micro-batches, that the loss is divided by. Each is at least 1.

    Completions without an advantage or without tokens are not counted. As in TRL, completions masked for being truncated count in
    `num_completions` but not in `num_tokens`.
    """

    num_completions: int
    num_tokens: int
    max_completion_length: int

    @classmethod
    def of(
        cls,
        lengths_PG: Iterable[Sequence[int]],
        advantages_PG: Iterable[Sequence[float | None]],
        masked_PG: Iterable[Sequence[bool]],
        max_completion_length: int,
    ) -> Denominators:
        """Count the completions that `trained_group` keeps: those with an advantage and at least one token.

        Args:
            masked_PG: True for completions that are left out of the loss.
        """
        counted = [
            (length, masked)
            for group in zip(lengths_PG, advantages_PG, masked_PG, strict=True)
            for length, advantage, masked in zip(*group, strict=True)
            if advantage is not None and length > 0
        ]
        return cls(max(1, len(counted)), max(1, sum(length for length, masked in counted if not masked)), max_completion_length)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of packed blocks, and the predictions to make from them. An empty micro-batch has N = C = 0 and one row of padding."""

    token_ids_BT: np.ndarray
    position_ids_BT: np.ndarray
    segment_ids_BT: np.ndarray
    """Number of the prompt or completion that a token belongs to, counted from 0 in every row; -1 for padding."""
    prompt_segments_BT: np.ndarray
    """Segment of the prompt that a token may look back at; for a token of a prompt, its own segment."""
    source_N: np.ndarray
    """Index, in the rows flattened to [B*T], of the token whose hidden state predicts."""
    target_ids_N: np.ndarray
    completion_N: np.ndarray
    """Number of the completion that a prediction belongs to, 0..C-1."""
    behaviour_logprobs_N: np.ndarray
    advantages_C: np.ndarray
    lengths_C: np.ndarray
    index_C: np.ndarray
    """`TrainedCompletion.index` of each completion."""

    @property
    def tokens(self) -> int:
        """Number of tokens, padding left out."""
        return int((self.segment_ids_BT >= 0).sum())

    @property
    def fill(self) -> float:
        """Share of the positions that hold tokens instead of padding."""
        return self.tokens / self.segment_ids_BT.size


def trained_group(group: RolloutGroup, advantages_G: Sequence[float | None], *, first_index: int = 0) -> TrainedGroup:
    """Select the completions of `group` that have an advantage and at least one token; completion g gets the number `first_index` + g.

    Raises:
        ValueError: a completion's tokens and log-probabilities differ in number, or the group has an empty prompt.
    """
    if len(advantages_G) != len(group):
        raise ValueError(f"group {group.prompt_id} has {len(group)} completions but {len(advantages_G)} advantages")
    if len(group.prompt_token_ids) == 0:
        raise ValueError(f"group {group.prompt_id} has an empty prompt: nothing predicts the first token of its completions")
    completions = []
    for index, advantage in enumerate(advantages_G):
        token_ids_T, logprobs_T = group.token_ids_T(index), group.logprobs_T(index)
        if len(token_ids_T) != len(logprobs_T):
            raise ValueError(
                f"completion {index} of group {group.prompt_id} has {len(token_ids_T)} tokens but {len(logprobs_T)} log-probabilities"
            )
        if advantage is not None and len(token_ids_T):
            completions.append(TrainedCompletion(token_ids_T, logprobs_T, advantage, first_index + index))
    return TrainedGroup(group.prompt_token_ids, tuple(completions))


def balance(costs: Sequence[int], ranks: int) -> list[list[int]]:
    """Split items over ranks so that the largest load is small: costliest first, each to the least loaded rank (LPT, Graham 1969).

    Example: `balance([5, 4, 3, 3], 2) == [[0, 3], [1, 2]]`, with loads 8 and 7.
    Returns: for each rank the indices of its items, ascending. Deterministic.
    """
    loads = [0] * ranks
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min(range(ranks), key=lambda r: (loads[r], r))
        loads[rank] += costs[index]
        parts[rank].append(index)
    return [sorted(part) for part in parts]


def pack(groups: Sequence[TrainedGroup], *, token_budget: int, attention_width: float) -> list[MicroBatch]:
    """Pack groups into micro-batches of at most `token_budget` tokens, padding included.

    Args:
        token_budget: largest number of rows times width of one micro-batch.
        attention_width: row width at which attention, whose cost grows with the width squared, costs as much as the rest of the model.

    Returns: at least one micro-batch, which is empty if there is nothing to train. Deterministic.

    Raises:
        ValueError: one sequence alone is longer than the budget.
    """
    return [_materialise(rows, _width(rows)) for rows in _planned(groups, token_budget, attention_width)]


class BatchShape(NamedTuple):
    """Size of a micro-batch."""

    rows: int
    width: int
    predictions: int


def batch_shapes(groups: Sequence[TrainedGroup], *, token_budget: int, attention_width: float) -> list[BatchShape]:
    """Sizes of the micro-batches that `pack` makes of the same arguments, without making them."""
    return [
        BatchShape(len(rows), _width(rows), sum(len(c.token_ids_T) for row in rows for block in row.blocks for c in block.completions))
        for rows in _planned(groups, token_budget, attention_width)
    ]


@dataclass(frozen=True, slots=True)
class _Block:
    """A prompt with some of its completions, and the tokens that they take in a row."""

    prompt_ids_T: np.ndarray
    completions: list[TrainedCompletion]
    tokens: int


@dataclass(slots=True)
class _Row:
    blocks: list[_Block] = field(default_factory=list)
    tokens: int = 0


def _planned(groups: Sequence[TrainedGroup], token_budget: int, attention_width: float) -> list[list[_Row]]:
    """The rows of each micro-batch. Several row widths are tried, and the cheapest plan is kept.

    A wide row repeats a prompt less often but pays more for attention. With a prompt of 100 tokens and completions of 51 (50 places each):
    two rows of 200 compute 400 tokens for four completions, one row of 300 computes 300 but has 300^2 instead of 2 x 200^2 attention pairs.
    """
    groups = [group for group in groups if group.completions]
    if not groups:
        return [[_Row()]]
    candidates = (_micro_batches(_rows_of(groups, width), token_budget) for width in _widths(groups, token_budget))
    return min(candidates, key=lambda batches: sum(_cost(rows, attention_width) for rows in batches))


def _aligned(tokens: int) -> int:
    """`tokens` rounded up to the next multiple of `ROW_ALIGNMENT`."""
    return -(-tokens // ROW_ALIGNMENT) * ROW_ALIGNMENT


def _width(rows: Sequence[_Row]) -> int:
    return max(ROW_ALIGNMENT, _aligned(max(row.tokens for row in rows)))


def _cost(rows: Sequence[_Row], attention_width: float) -> float:
    """Cost of a micro-batch, in tokens: linear layers for every position, and attention in proportion to the width."""
    width = _width(rows)
    return len(rows) * width * (1 + width / attention_width)


def _micro_batches(rows: Sequence[_Row], token_budget: int) -> list[list[_Row]]:
    """Group rows into micro-batches. Longest rows come first, so that the rows of one micro-batch have similar lengths.

    Example: rows of 100, 96 and 40 tokens under a budget of 208 become [100, 96], 2 rows of 104 places, and [40], 1 row of 40."""
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: -row.tokens):
        if batches:
            width = _width(batches[-1])
            positions = len(batches[-1]) * width
            wasteful = positions >= ENOUGH_POSITIONS and row.tokens < MIN_ROW_FILL * width
            if positions + width <= token_budget and not wasteful:
                batches[-1].append(row)
                continue
        batches.append([row])
    return batches


def _widths(groups: Sequence[TrainedGroup], token_budget: int) -> list[int]:
    """Row widths to try, in equal ratios: from the longest sequence up to four times it, or to the longest whole group if that is more."""
    longest = max(len(group.prompt_ids_T) + max(len(c.token_ids_T) for c in group.completions) - 1 for group in groups)
    if _aligned(longest) > token_budget:
        raise ValueError(f"a sequence of {longest} tokens does not fit into the token budget of {token_budget}; raise learner.token_budget")
    widest = max(4 * longest, max(group.tokens for group in groups))
    steps = np.geomspace(longest, widest, MAX_WIDTH_STEPS)
    return sorted({width for step in steps if (width := _aligned(int(step + 0.5))) <= token_budget} | {_aligned(longest)})


def _rows_of(groups: Sequence[TrainedGroup], width: int) -> list[_Row]:
    """Put blocks into rows of at most `width` tokens by best-fit decreasing: largest first, each into the fullest row that can hold it.
    Example: blocks of 9, 8, 7 and 6 tokens in rows of 16 become [9, 7] and [8, 6]."""
    blocks = [block for group in groups for block in _blocks_of(group, width)]
    rows: list[_Row] = []
    open_rows: list[tuple[int, int]] = []  # (free tokens, index), ascending
    for block in sorted(blocks, key=lambda block: -block.tokens):
        at = bisect_left(open_rows, (block.tokens, -1))
        if at == len(open_rows):
            rows.append(_Row())
            free, index = width, len(rows) - 1
        else:
            free, index = open_rows.pop(at)
        rows[index].blocks.append(block)
        rows[index].tokens += block.tokens
        insort(open_rows, (free - block.tokens, index))
    return rows


def _blocks_of(group: TrainedGroup, width: int) -> list[_Block]:
    """Split a group into few blocks of at most `width` tokens by first-fit decreasing. Each block repeats the prompt.

    Example: a prompt of 100 tokens with completions of 51, 41 and 31 (50, 40 and 30 places) in rows of 200 leaves 100 places: blocks
    [51, 41], 190 tokens, and [31], 130 tokens."""
    room = width - len(group.prompt_ids_T)
    bins: list[list[TrainedCompletion]] = []
    free: list[int] = []
    for completion in sorted(group.completions, key=lambda completion: -len(completion.token_ids_T)):
        size = len(completion.token_ids_T) - 1
        at = next((i for i, left in enumerate(free) if left >= size), None)
        if at is None:
            bins.append([])
            free.append(room)
            at = len(bins) - 1
        bins[at].append(completion)
        free[at] -= size
    return [_Block(group.prompt_ids_T, completions, width - left) for completions, left in zip(bins, free, strict=True)]


def _materialise(rows: Sequence[_Row], width: int) -> MicroBatch:
    """The arrays of a micro-batch; predictions are in the order of the completions."""
    grid = _Grid.empty(len(rows), width)
    sources: list[np.ndarray] = []
    completions: list[TrainedCompletion] = []
    for b, row in enumerate(rows):
        start, segment = 0, 0
        for block in row.blocks:
            sources += grid.write_block(block, b, start, segment)
            completions += block.completions
            start, segment = start + block.tokens, segment + 1 + len(block.completions)
    lengths_C = np.array([len(c.token_ids_T) for c in completions], np.int64)
    return MicroBatch(
        token_ids_BT=grid.token_ids_BT,
        position_ids_BT=grid.position_ids_BT,
        segment_ids_BT=grid.segment_ids_BT,
        prompt_segments_BT=grid.prompt_segments_BT,
        source_N=np.concatenate([np.empty(0, np.int64), *sources]),
        target_ids_N=np.concatenate([np.empty(0, np.int64), *(c.token_ids_T for c in completions)]).astype(np.int64),
        completion_N=np.repeat(np.arange(len(completions)), lengths_C),
        behaviour_logprobs_N=np.concatenate([np.empty(0, np.float32), *(c.logprobs_T for c in completions)]).astype(np.float32),
        advantages_C=np.array([c.advantage for c in completions], np.float32),
        lengths_C=lengths_C,
        index_C=np.array([c.index for c in completions], np.int64),
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """The [B, T] arrays of a micro-batch while blocks are written into them."""

    token_ids_BT: np.ndarray
    position_ids_BT: np.ndarray
    segment_ids_BT: np.ndarray
    prompt_segments_BT: np.ndarray

    @classmethod
    def empty(cls, rows: int, width: int) -> _Grid:
        shape = (rows, width)
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1, np.int32), np.full(shape, -1, np.int32))

    def write_block(self, block: _Block, b: int, start: int, segment: int) -> list[np.ndarray]:
        """Write a block into row `b` from index `start` on; its prompt is segment `segment`, its completions are the next ones.

        Returns: for each completion the flattened indices of the tokens that predict it. The end of the prompt predicts the first token,
        every kept token predicts the next: for `a` of the drawing above [2, 3, 4, 5], for `b` [2, 6, 7].
        """
        width, prompt_tokens = self.token_ids_BT.shape[1], len(block.prompt_ids_T)
        self._write(block.prompt_ids_T, b, start, position=0, segments=(segment, segment))
        end_of_prompt = b * width + start + prompt_tokens - 1
        at, sources = start + prompt_tokens, []
        for own, completion in enumerate(block.completions, segment + 1):
            kept_T = completion.token_ids_T[:-1]
            self._write(kept_T, b, at, position=prompt_tokens, segments=(own, segment))
            sources.append(np.concatenate([[end_of_prompt], np.arange(len(kept_T)) + b * width + at]))
            at += len(kept_T)
        return sources

    def _write(self, ids_T: np.ndarray, b: int, start: int, *, position: int, segments: tuple[int, int]) -> None:
        """Write one segment, whose first token has `position`; `segments` are its own and its prompt's."""
        here = slice(start, start + len(ids_T))
        self.token_ids_BT[b, here] = ids_T
        self.position_ids_BT[b, here] = np.arange(position, position + len(ids_T))
        self.segment_ids_BT[b, here], self.prompt_segments_BT[b, here] = segments
