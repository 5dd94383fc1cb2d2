"""Groups -> packed micro-batches.

The prompt of a group is computed once: a *block* is a prompt followed by several of its completions, each of which sees the
prompt and itself but not its siblings. Blocks are packed into rows of at most one width, rows of like length into micro-batches of at
most `token_budget` tokens, each as wide as its longest row. A completion's last token predicts nothing, so it takes no place in a row.

    row:      [ p p p | a a a | b b ][ q q | c c c c ] . .
    position:   0 1 2   3 4 5   3 4    0 1   2 3 4 5   0 0
    predicts:       a0+b0, a1..      b1..    c0 ..            (N predictions, gathered by index)

Dimensions: `_B` rows, `_T` tokens of a row or of a sequence, `_N` predicted completion tokens, `_C` completions of a micro-batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from configs.contracts.records import RolloutGroup

ROW_ALIGNMENT = 8
"""Row widths are multiples of this: attention kernels want an aligned mask."""

MAX_WIDTH_STEPS = 12

MIN_ROW_FILL = 0.9
"""A row that would fill less of the micro-batch's width than this begins another, narrower one, if there is enough in this one."""

ENOUGH_POSITIONS = 4096
"""So many positions keep a device busy: a micro-batch that has them need not be filled up with short rows."""


@dataclass(frozen=True, slots=True)
class TrainedCompletion:
    """One completion to learn from. `logprobs_T` are the behaviour policy's, in nats; `advantage` multiplies its policy gradient."""

    token_ids_T: np.ndarray
    logprobs_T: np.ndarray
    advantage: float
    index: int = 0
    """Its number among all that the caller packs, by which it is known again in `MicroBatch.index_C`."""


@dataclass(frozen=True, slots=True)
class TrainedGroup:
    """A prompt and those of its completions that are trained on."""

    prompt_ids_T: np.ndarray
    completions: tuple[TrainedCompletion, ...]

    @property
    def tokens(self) -> int:
        """Tokens that must be computed when the prompt is computed once."""
        return len(self.prompt_ids_T) + sum(len(completion.token_ids_T) - 1 for completion in self.completions)


@dataclass(frozen=True, slots=True)
class Denominators:
    """Counts of the whole step over all ranks and micro-batches; completions that are left out do not count. None is less than 1.

    As in TRL, completions masked for being truncated count in `num_completions` but not in `num_tokens`.
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
        """Count the completions that have an advantage and at least one token, as `trained_group` keeps them; `masked_PG` are left out of
        the loss all the same."""
        counted = [
            (length, masked)
            for group in zip(lengths_PG, advantages_PG, masked_PG, strict=True)
            for length, advantage, masked in zip(*group, strict=True)
            if advantage is not None and length > 0
        ]
        return cls(max(1, len(counted)), max(1, sum(length for length, masked in counted if not masked)), max_completion_length)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of packed blocks, and what is to be predicted from them. An empty one has N = C = 0 and one row of padding."""

    token_ids_BT: np.ndarray
    position_ids_BT: np.ndarray
    segment_ids_BT: np.ndarray
    """Every prompt and every completion of a row is a segment; padding is -1."""
    prompt_segments_BT: np.ndarray
    """Segment of the prompt that a token may look back at; a prompt's own for its tokens."""
    source_N: np.ndarray
    """Index into the flattened [B*T] rows of the token whose hidden state predicts."""
    target_ids_N: np.ndarray
    completion_N: np.ndarray
    """Which completion of this micro-batch a prediction belongs to, 0..C-1."""
    behaviour_logprobs_N: np.ndarray
    advantages_C: np.ndarray
    lengths_C: np.ndarray
    index_C: np.ndarray
    """`TrainedCompletion.index`."""

    @property
    def tokens(self) -> int:
        """Tokens that are no padding."""
        return int((self.segment_ids_BT >= 0).sum())

    @property
    def fill(self) -> float:
        """Share of the rows that is no padding."""
        return self.tokens / self.segment_ids_BT.size


def trained_group(group: RolloutGroup, advantages_G: Sequence[float | None], *, first_index: int = 0) -> TrainedGroup:
    """The completions of `group` that have an advantage and at least one token, numbered from `first_index` by their place in it.

    Raises:
        ValueError: a completion's tokens and log-probabilities differ in number, or the group has no prompt.
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
    """Split items over ranks so that the largest sum is small: costliest first, each to the rank that has least (LPT, Graham 1969).

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
        token_budget: rows times width of one micro-batch.
        attention_width: row width at which attention (which costs width squared) costs as much as all else that is done for a row.

    Returns: at least one micro-batch (an empty one where there is nothing to train). Deterministic.

    Raises:
        ValueError: one sequence alone is longer than the budget.
    """
    groups = [group for group in groups if group.completions]
    if not groups:
        return [_materialise([_Row()], ROW_ALIGNMENT)]
    candidates = (_micro_batches(_rows_of(groups, width), token_budget) for width in _widths(groups, token_budget))
    best = min(candidates, key=lambda batches: sum(_cost(rows, attention_width) for rows in batches))
    return [_materialise(rows, _width(rows)) for rows in best]


@dataclass(frozen=True, slots=True)
class _Block:
    prompt_ids_T: np.ndarray
    completions: list[TrainedCompletion]
    tokens: int


@dataclass(slots=True)
class _Row:
    blocks: list[_Block] = field(default_factory=list)
    tokens: int = 0


def _aligned(tokens: int) -> int:
    return -(-tokens // ROW_ALIGNMENT) * ROW_ALIGNMENT


def _width(rows: Sequence[_Row]) -> int:
    return _aligned(max(row.tokens for row in rows))


def _cost(rows: Sequence[_Row], attention_width: float) -> float:
    width = _width(rows)
    return len(rows) * width * (1 + width / attention_width)


def _micro_batches(rows: Sequence[_Row], token_budget: int) -> list[list[_Row]]:
    """Longest rows first, so that those of one micro-batch are of like length."""
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
    """Row widths worth trying: from the longest sequence to four times that or the longest whole group, in equal ratios."""
    longest = max(len(group.prompt_ids_T) + max(len(c.token_ids_T) for c in group.completions) - 1 for group in groups)
    if _aligned(longest) > token_budget:
        raise ValueError(f"a sequence of {longest} tokens does not fit into the token budget of {token_budget}; raise learner.token_budget")
    widest = max(4 * longest, max(group.tokens for group in groups))
    steps = np.geomspace(longest, widest, MAX_WIDTH_STEPS)
    return sorted({width for step in steps if (width := _aligned(int(step + 0.5))) <= token_budget} | {_aligned(longest)})


def _rows_of(groups: Sequence[TrainedGroup], width: int) -> list[_Row]:
    """Best-fit decreasing: the largest block first, each into the fullest row that still holds it."""
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
    """Split a group into as few blocks of at most `width` tokens as first-fit decreasing finds; each repeats the prompt."""
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
    shape = (len(rows), width)
    token_ids_BT, position_ids_BT = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segment_ids_BT, prompt_segments_BT = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    sources: list[np.ndarray] = []
    completions: list[TrainedCompletion] = []
    for b, row in enumerate(rows):
        start, segment = 0, 0
        for block in row.blocks:
            prompt_tokens, prompt_segment = len(block.prompt_ids_T), segment
            parts = [(block.prompt_ids_T, 0)] + [(c.token_ids_T[:-1], prompt_tokens) for c in block.completions]
            last_of_prompt = b * width + start + prompt_tokens - 1
            for index, (ids_T, position) in enumerate(parts):
                here = slice(start, start + len(ids_T))
                token_ids_BT[b, here] = ids_T
                position_ids_BT[b, here] = np.arange(position, position + len(ids_T))
                segment_ids_BT[b, here] = segment
                prompt_segments_BT[b, here] = prompt_segment
                if index:
                    sources.append(np.concatenate([[last_of_prompt], np.arange(b * width + here.start, b * width + here.stop)]))
                start, segment = here.stop, segment + 1
            completions.extend(block.completions)
    lengths_C = np.array([len(c.token_ids_T) for c in completions], np.int64)
    return MicroBatch(
        token_ids_BT=token_ids_BT,
        position_ids_BT=position_ids_BT,
        segment_ids_BT=segment_ids_BT,
        prompt_segments_BT=prompt_segments_BT,
        source_N=np.concatenate([np.empty(0, np.int64), *sources]),
        target_ids_N=np.concatenate([np.empty(0, np.int64), *(c.token_ids_T for c in completions)]).astype(np.int64),
        completion_N=np.repeat(np.arange(len(completions)), lengths_C),
        behaviour_logprobs_N=np.concatenate([np.empty(0, np.float32), *(c.logprobs_T for c in completions)]).astype(np.float32),
        advantages_C=np.array([c.advantage for c in completions], np.float32),
        lengths_C=lengths_C,
        index_C=np.array([c.index for c in completions], np.int64),
    )
