"""Rows -> training rows and held-out rows, with counts of the rows left out, by reason.

rows ── hold out ── subset ── pass rate ── evaluation sets ── too long ── equal to a held-out prompt ──► train
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.progress import track

from actors.prompts.decontamination import Contaminated
from actors.prompts.filters import RowFilters, numbers
from actors.prompts.rendering import PromptMaker
from actors.rows.permutation import permutation
from actors.rows.rows import Rows
from actors.rows.sources import ROUNDING, PartCount
from actors.rows.stream import RowStream
from actors.rows.views import require_column
from configs.contracts.errors import DataError
from configs.schema.data import DataSection
from configs.schema.sources import SourceSection

SUBSET_STREAM = 2**64 - 1
"""Random stream that draws held-out rows and the training subset; streams 0, 1, ... shuffle the epochs."""

_TOKENISED_AT_ONCE = 512
_PROGRESS_FROM_ROWS = 5_000


@dataclass(frozen=True)
class PromptCounts:
    """Numbers of rows of a data set: used, and left out by reason."""

    trained: int
    held_out: int
    too_long: int
    """Left out because they have more than `data.max_prompt_length` tokens, training and held-out together."""
    also_held_out: int
    """Left out of training because a held-out prompt has the same text."""
    longest_tokens: int
    """Length of the longest prompt that is used."""
    rows: int = 0
    """Training rows before filtering; for a stream, the rows read so far."""
    outside_pass_rate: int = 0
    """Left out of training because their pass rate is not between `data.min_pass_rate` and `data.max_pass_rate`."""
    not_sampled: int = 0
    """Neither held out nor among the `data.train_samples`."""
    held_out_too_long: int = 0
    """The held-out rows among `too_long`."""
    contaminated: Mapping[str, int] = field(default_factory=dict)
    """Evaluation set of `data.decontaminate` -> rows left out of training for it."""

    def __add__(self, other: PromptCounts) -> PromptCounts:
        names = {*self.contaminated, *other.contaminated}
        summed = ("trained", "held_out", "too_long", "also_held_out", "rows", "outside_pass_rate", "not_sampled", "held_out_too_long")
        return PromptCounts(
            **{name: getattr(self, name) + getattr(other, name) for name in summed},
            longest_tokens=max(self.longest_tokens, other.longest_tokens),
            contaminated={name: self.contaminated.get(name, 0) + other.contaminated.get(name, 0) for name in sorted(names)},
        )

    def __str__(self) -> str:
        said = f"{self.trained} prompts to train on, {self.held_out} held out, {self.too_long} left out as too long"
        if self.outside_pass_rate:
            said += f", {self.outside_pass_rate} for their pass rate"
        if any(self.contaminated.values()):
            said += f", {sum(self.contaminated.values())} for words of an evaluation set"
        return said


@dataclass
class Fitting:
    """Rows that are short enough and pass the filters."""

    digests: dict[int, bytes] = field(default_factory=dict)
    """Row number -> digest of the rendered text, in the order given."""
    tokens: list[int] = field(default_factory=list)
    """Length of each in tokens, in the same order."""
    too_long: int = 0
    shortest_too_long: float = math.inf

    @property
    def longest_tokens(self) -> int:
        return max(self.tokens, default=0)


@dataclass(frozen=True)
class Selection:
    """The training rows and the held-out rows of a run."""

    train: np.ndarray
    """int64 [prompts], row numbers, ascending."""
    digests: tuple[bytes, ...]
    """Digests of the rendered texts of `train`."""
    tokens: np.ndarray
    """int32 [prompts], lengths of `train` in tokens."""
    held_out: tuple[int, ...]
    """Row numbers in the held-out data."""
    counts: PromptCounts
    contaminated: tuple[Contaminated, ...]
    """The first rows that were left out because they share words with an evaluation set."""
    parts: tuple[PartCount, ...]


def select(data: DataSection, rows: Rows, eval_rows: Rows, parts: tuple[PartCount, ...], maker: PromptMaker, seed: int) -> Selection:
    """Choose the training rows and the held-out rows.

    Args:
        eval_rows: the rows of `data.eval_path`; `rows` itself if rows are held out of it.

    Raises:
        DataError: more rows are wanted than exist, or none is left.
    """
    train, held_out = split_rows(data, rows, eval_rows, seed)
    filters = RowFilters.of(data, rows)
    held_out_fitting = fit(eval_rows, held_out, maker, data, "held-out")
    fitting = fit(rows, train, maker, data, "training", filters)
    require_some(held_out_fitting, len(held_out), data, "held-out")
    require_some(fitting, len(train), data, "training", filters)
    known = set(held_out_fitting.digests.values())
    kept = {index: digest for index, digest in fitting.digests.items() if digest not in known}
    if not kept:
        raise DataError(f"every prompt of {data.source} is also held out, so that none is left to train on; use another data.eval_path")
    tokens = [tokens for digest, tokens in zip(fitting.digests.values(), fitting.tokens, strict=True) if digest not in known]
    counts = PromptCounts(
        trained=len(kept),
        held_out=len(held_out_fitting.digests),
        too_long=fitting.too_long + held_out_fitting.too_long,
        also_held_out=len(fitting.digests) - len(kept),
        longest_tokens=max(fitting.longest_tokens, held_out_fitting.longest_tokens),
        rows=len(rows),
        outside_pass_rate=filters.outside_pass_rate,
        not_sampled=len(rows) - len(train) - (len(held_out) if eval_rows is rows else 0),
        held_out_too_long=held_out_fitting.too_long,
        contaminated=dict(filters.contaminated),
    )
    return Selection(
        train=np.fromiter(kept, dtype=np.int64),
        digests=tuple(kept.values()),
        tokens=np.array(tokens, dtype=np.int32),
        held_out=tuple(list(held_out_fitting.digests)[: data.eval_samples]),
        counts=counts,
        contaminated=tuple(filters.examples),
        parts=parts,
    )


def curriculum(data: DataSection, rows: Rows, train: np.ndarray, seed: int) -> np.ndarray:
    """Order `train` by `data.curriculum_column`: positions in `train`, int64. Rows with equal values keep the order of the first shuffled epoch.

    Raises:
        DataError: there is no such column, or a row has no number in it.
    """
    column = str(data.curriculum_column)
    require_column(rows, column, "data.curriculum_column")
    remedy = "give every row a number there (`rollcast data pass-rate` measures pass rates), or remove data.curriculum_column"
    values = numbers(rows, column, train.tolist(), remedy)
    first = permutation(len(train), seed, 0) if data.shuffle else np.arange(len(train))
    return first[np.argsort(-values[first] if data.curriculum_descending else values[first], kind="stable")]


def fit(rows: Rows, indices: np.ndarray, maker: PromptMaker, data: DataSection, purpose: str, filters: RowFilters | None = None) -> Fitting:
    """Apply the filters and the length limit to rows; `purpose` is shown with the progress."""
    fitting = Fitting()
    batches = np.array_split(indices, max(1, math.ceil(len(indices) / _TOKENISED_AT_ONCE)))
    quiet, console = len(indices) < _PROGRESS_FROM_ROWS, Console(emoji=False, stderr=True)
    for batch in track(batches, f"tokenising {purpose} prompts", console=console, transient=True, disable=quiet):
        for index, text, tokens in _measured(rows, batch.tolist(), maker, filters):
            if tokens > data.max_prompt_length:
                fitting.too_long += 1
                fitting.shortest_too_long = min(fitting.shortest_too_long, tokens)
                continue
            fitting.digests[index] = hashlib.blake2b(text.encode(), digest_size=16).digest()
            fitting.tokens.append(tokens)
    return fitting


def _measured(rows: Rows, indices: list[int], maker: PromptMaker, filters: RowFilters | None) -> Iterator[tuple[int, str, int]]:
    """Yield row number, rendered text and length in tokens of the rows that pass the filters."""
    values = rows.values(maker.column, indices)
    kept = filters.kept(rows, indices, values) if filters else [True] * len(indices)
    staying = [(index, value) for index, value, stays in zip(indices, values, kept, strict=True) if stays]
    if not staying:
        return
    numbers = [index for index, _ in staying]
    texts = maker.texts(rows, numbers, [value for _, value in staying])
    for index, text, token_ids in zip(numbers, texts, maker.renderer.tokenise(texts), strict=True):
        yield index, text, len(token_ids)


def columns_read(data: DataSection, maker: PromptMaker) -> frozenset[str]:
    """The columns that prompts, their filters and their order read."""
    rates = {data.pass_rate_column} if data.filters_by_pass_rate else set()
    return maker.columns_read | frozenset(data.columns) | rates | ({data.curriculum_column} if data.curriculum_column else set())


def split_rows(data: SourceSection, rows: Rows, eval_rows: Rows, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on, and to hold out: the same for prompts and for demonstrations.

    Args:
        eval_rows: the rows of `data.eval_path`; `rows` itself if rows are held out of it.

    Raises:
        DataError: more rows are wanted than exist, or none is left.
    """
    split_seed = data.mixture.seed if data.mixture and data.mixture.test_split_size is not None else seed
    order = permutation(len(rows), split_seed, SUBSET_STREAM)
    if data.held_out_size is not None:
        used = order if data.train_samples == -1 else order[: data.train_samples]  # a share of the rows used, as in MedicalGPT
        held_out, train = np.split(used, [held_out_rows(data, len(used))])
        missing = max(data.train_samples - len(rows), 0 if len(train) else 1)
        key = "test_split_size"
    else:
        key = "data.eval_samples"
        if eval_rows is rows:
            held_out, order = np.split(order, [min(data.eval_samples, len(order))])
        else:
            held_out = permutation(len(eval_rows), seed, SUBSET_STREAM)[: data.eval_samples]
        train = order if data.train_samples == -1 else order[: data.train_samples]
        missing = max(data.train_samples, 1) - len(train)
    if missing > 0:
        held = f" of which {len(held_out)} are held out ({key})" if eval_rows is rows and len(held_out) else ""
        raise DataError(
            f"{data.source} has {len(rows)} rows,{held} and {max(data.train_samples, 1)} are wanted for training; "
            f"lower data.train_samples or {key}"
        )
    return np.sort(train), held_out


def held_out_of_stream(data: SourceSection, stream: RowStream, apart: Rows | None, seed: int) -> tuple[Rows, np.ndarray, int]:
    """The held-out data, the row numbers held out of them, and the first row of the stream to train on.

    Args:
        apart: the rows of `data.eval_path`; None to hold out the first rows of the stream.
    """
    if apart is None:
        first_rows = stream.read(0, data.eval_samples)
        return first_rows, np.arange(len(first_rows)), len(first_rows)
    return apart, permutation(len(apart), seed, SUBSET_STREAM)[: data.eval_samples], 0


def held_out_rows(data: SourceSection, rows: int) -> int:
    """Number of rows that `test_split_size` holds out. A share is rounded up, as in scikit-learn and `datasets`."""
    size = data.held_out_size or 0
    return min(rows, math.ceil(rows * size - ROUNDING) if isinstance(size, float) else size)


def require_some(fitting: Fitting, count: int, data: DataSection, purpose: str, filters: RowFilters | None = None) -> None:
    """Raise DataError, with the reasons, if none of `count` rows fits; zero rows are accepted."""
    if not count or fitting.digests:
        return
    if fitting.too_long == count:
        raise DataError(
            f"every one of the {count} {purpose} prompts is longer than data.max_prompt_length {data.max_prompt_length}; "
            f"the shortest has {int(fitting.shortest_too_long)} tokens: raise the limit to at least that"
        )
    assert filters is not None
    raise DataError(
        f"none of the {count} {purpose} rows is left: {filters.outside_pass_rate} have a pass rate that is not between data.min_pass_rate and "
        f"data.max_pass_rate, {sum(filters.contaminated.values())} share words with data.decontaminate, {fitting.too_long} are longer than "
        "data.max_prompt_length; relax one of these"
    )
