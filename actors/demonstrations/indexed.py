"""Rows of demonstrations -> tokenised sequences on disk, for supervised fine-tuning.

    rows ── mix, hold out, subset ── `actors.demonstrations.samples` ──► Arrow files

Ranks memory-map the files, so a data set may be larger than the memory of a node or Ray's object store. Data too large to write down are
streamed: `actors.demonstrations.streamed`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from actors.demonstrations.counting import DemonstrationCounts, SourceCounts
from actors.demonstrations.samples import CountedRows, SampleMaker, record_batch, require_demonstrations, require_some
from actors.prompts.selection import split_rows
from actors.rows.files import JsonValue
from actors.rows.rows import Rows
from actors.rows.sources import notices, open_held_out, open_rows
from actors.rows.unused import first_values
from configs.contracts.records import DEMONSTRATION_SCHEMA
from configs.schema.sft import SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENISED_AT_ONCE = 512
_PROGRESS_FROM_ROWS = 5_000


@dataclass(frozen=True)
class DemonstrationFile:
    """Sequences in the format `DEMONSTRATION_SCHEMA`."""

    path: Path
    counts: DemonstrationCounts
    digest: str
    """Hash of all tokens and of the masks of imitation."""


@dataclass(frozen=True)
class Demonstrations:
    """The demonstrations of a run, on disk."""

    train: DemonstrationFile
    held_out: DemonstrationFile
    """At most `data.eval_samples` rows, possibly none."""
    sources: tuple[SourceCounts, ...]
    """The data sets of a mixture; empty without one."""
    first_values: Mapping[str, JsonValue]
    """Every column of the data with its first value."""
    notices: tuple[str, ...]
    """Sentences on what was left out or changed when the rows were read."""
    not_evaluated: DemonstrationCounts
    """The counts of the rows that `test_split_size` holds out beyond `data.eval_samples`."""

    @property
    def counts(self) -> DemonstrationCounts:
        """The counts of the rows to train on."""
        return self.train.counts

    @property
    def digest(self) -> str:
        """A digest that tells these demonstrations from others."""
        return self.train.digest


@dataclass
class DemonstrationSource:
    """The demonstrations of a run; call `write` once.

    Args:
        data: location of the rows, and how they are chosen and rendered.
        tokenizer: the trained model's, from `load_tokenizer`.
        seed: the run's seed.
        folder: for the files.
    """

    data: SftDataSection
    tokenizer: PreTrainedTokenizerBase
    seed: int
    folder: Path

    def write(self) -> Demonstrations:
        """Write the training file and the held-out file, which may be empty.

        Raises:
            DataError: the data are missing or empty, or nothing is left to train on.
        """
        data, maker = self.data, SampleMaker(self.data, self.tokenizer)
        rows, parts = open_rows(data, self.folder, self.seed)
        require_demonstrations(data, rows)
        apart = open_apart(data, self.folder, self.seed)
        eval_rows = rows if apart is None else apart
        train, held_out = split_rows(data, rows, eval_rows, self.seed % 2**64)
        self.folder.mkdir(parents=True, exist_ok=True)
        evaluated, more, trained = CountedRows.of(eval_rows), CountedRows.of(eval_rows), CountedRows.of(rows)
        eval_file = write_file(self.folder / "eval.arrow", maker, evaluated, held_out[: data.eval_samples], held_out=True)
        for batch in _batches(held_out[data.eval_samples :]):
            maker.made(more, batch, held_out=True)
        train_file = write_file(self.folder / "train.arrow", maker, trained, train)
        require_some(data, train_file.counts, maker.unusable)
        held = [one + other for one, other in zip(evaluated.by_source, more.by_source, strict=True)]
        if apart is not None:
            held = [DemonstrationCounts() for _ in parts]
        counts = zip(parts, trained.by_source, held, strict=True) if parts else ()
        sources = [SourceCounts(part.path, part.rows, part.kept, *both) for part, *both in counts]
        return Demonstrations(
            train_file,
            eval_file,
            tuple(sources),
            first_values(rows),
            (*notices(data, rows), *(() if apart is None else apart.notices)),
            more.counts,
        )


def open_apart(data: SftDataSection, folder: Path, seed: int) -> Rows | None:
    """Open the rows of `data.eval_path`; None if there is none, or nothing is evaluated.

    Raises:
        DataError: the data are missing, malformed, or lack a column.
    """
    if data.eval_path is None or not data.eval_samples:
        return None
    rows = open_held_out(data, folder, seed)
    require_demonstrations(data, rows)
    return rows


def write_file(path: Path, maker: SampleMaker, counted: CountedRows, indices: np.ndarray, held_out: bool = False) -> DemonstrationFile:
    """Write the sequences of some rows. Arguments and errors are those of `SampleMaker.made`."""
    digest = hashlib.blake2b(digest_size=16)
    quiet, console = len(indices) < _PROGRESS_FROM_ROWS, Console(emoji=False, stderr=True)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, DEMONSTRATION_SCHEMA) as writer:
        for batch in track(_batches(indices), f"tokenising {path.stem} rows", console=console, transient=True, disable=quiet):
            made = maker.made(counted, batch, held_out=held_out)
            for sample in made:
                digest.update(sample.token_ids_T.tobytes() + sample.trained_T.tobytes())
            writer.write_batch(record_batch(made))
    return DemonstrationFile(path, counted.counts, digest.hexdigest())


def _batches(indices: np.ndarray) -> list[list[int]]:
    return [indices[start : start + _TOKENISED_AT_ONCE].tolist() for start in range(0, len(indices), _TOKENISED_AT_ONCE)]
