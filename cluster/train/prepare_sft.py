"""Prepare a fine-tuning before Ray starts: make or find the model, load the tokenizer, and write the demonstrations as tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.demonstrations.counting import DemonstrationCounts, SourceCounts, left_out, of_each_source
from actors.demonstrations.indexed import DemonstrationFile, Demonstrations, DemonstrationSource
from actors.demonstrations.streamed import StreamedDemonstrations
from actors.prompts.rendering import load_tokenizer
from cluster.inspection.unused import unused_by_fine_tuning
from cluster.models.adapter_base import Base, record_of
from cluster.models.base import prepare_model
from cluster.models.base_record import BaseRecord
from cluster.models.trainable import warnings_of_fit
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from configs.contracts.errors import ConfigError
from configs.schema.sft import SftConfig, SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedSft:
    """The model to train, and the demonstrations as tokens on disk."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    demonstrations: Demonstrations | StreamedDemonstrations
    """On disk, or under `data.streaming` read as they are needed."""

    @property
    def held_out(self) -> DemonstrationFile:
        return self.demonstrations.held_out

    @property
    def train_file(self) -> Path | None:
        """The demonstrations on disk; None for a stream."""
        return self.demonstrations.train.path if isinstance(self.demonstrations, Demonstrations) else None

    @property
    def sources(self) -> tuple[SourceCounts, ...]:
        """The data sets of a mixture; empty without one."""
        return self.demonstrations.sources if isinstance(self.demonstrations, Demonstrations) else ()

    def total_steps(self, config: SftConfig) -> int:
        """Count the steps of the whole run. The last batch of an epoch may be smaller, and is a step too."""
        learner = config.learner
        return learner.max_steps if learner.max_steps > 0 else math.ceil((self.row_limit(config) or 0) / learner.train_batch_size)

    def identity(self, config: SftConfig) -> dict[str, object]:
        """Collect the settings that must be the same when a run goes on."""
        return {
            **config.model.identity,
            "learner.use_peft": config.learner.use_peft,
            "learner.train_batch_size": config.learner.train_batch_size,
            "seed": config.seed,
            "data of the digest": self.demonstrations.digest,
        }

    def base_to_train(self, config: SftConfig) -> Base:
        """The model that an adapter is trained on."""
        return Base(self.model_path, config.model.revision)

    def base_record(self, config: SftConfig) -> BaseRecord:
        """Make the record of the base for the run's adapters; once the ranks have loaded it."""
        return record_of(self.base_to_train(config), self.model_path)

    def row_limit(self, config: SftConfig) -> int | None:
        """Count the sequences to train on in all; None if the number of steps is given."""
        learner = config.learner
        return None if learner.max_steps > 0 else math.ceil(learner.num_train_epochs * self.demonstrations.counts.sequences)


def prepare_sft(config: SftConfig, directory: RunDirectory, display: RunDisplay) -> PreparedSft:
    """Make or find the model, and write the demonstrations as tokens.

    Raises:
        ConfigError: the model or its adapter cannot be used.
        DataError: data or tokenizer cannot be used.
    """
    model = config.model
    model_path = prepare_model(config, directory, display)
    with display.phase("reading data"):
        tokenizer = load_tokenizer(model_path, model.chat_template, model.trust_remote_code, model.revision, model.eos_token)
        folder = directory.path / "data"
        if config.data.streaming:
            demonstrations = StreamedDemonstrations(config.data, tokenizer, config.seed, folder)
        else:
            demonstrations = DemonstrationSource(config.data, tokenizer, config.seed, folder).write()
    display.say_all([f"WARNING: {sentence}" for sentence in warnings_of_fit(config, tokenizer, model_path)])
    unused, notice = unused_by_fine_tuning(config.data, demonstrations)
    display.say_all(
        [
            *counted(config.data, demonstrations),
            *(f"WARNING: {sentence}" for sentence in (*demonstrations.notices, *unused)),
            *([notice] if notice else []),
        ]
    )
    held_out = demonstrations.held_out.counts
    if config.data.eval_samples and not held_out.sequences:
        raise ConfigError(f"none of the {held_out.rows} held-out rows is used: {'; '.join(left_out(config.data, held_out))}")
    return PreparedSft(model_path, tokenizer, demonstrations)


def counted(data: SftDataSection, demonstrations: Demonstrations | StreamedDemonstrations) -> Iterator[str]:
    """Sentences on the sequences, on the rows that are not used as they are, and on each data set of a mixture."""
    train, held_out, more, sources = demonstrations.counts, demonstrations.held_out.counts, DemonstrationCounts(), ()
    if isinstance(demonstrations, Demonstrations):
        more, sources = demonstrations.not_evaluated, demonstrations.sources
    yield (
        f"of the first {train.rows:,} rows: "
        * data.streaming
        + f"{train.sequences:,} sequences to train on, {held_out.sequences:,} held out; {train.tokens:,} tokens, of which "
        f"{train.trained_tokens / train.tokens:.0%} are imitated; the longest has {train.longest_tokens:,}"
    )
    if more.rows:
        yield f"{more.rows:,} more rows are held out (test_split_size) and not evaluated, as data.eval_samples is {data.eval_samples}"
    yield from left_out(data, train + held_out + more)
    if train.sequences > train.rows:
        yield "a row makes several sequences where the chat template drops what the assistant said in earlier turns"
    yield from of_each_source(data, sources)
