"""Prepare a fine-tuning before Ray starts: make or find the model, load the tokenizer, and write the demonstrations as tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.prompts.demonstrations import DemonstrationFile, DemonstrationSource
from actors.prompts.rendering import load_tokenizer
from cluster.models.adapter_base import Base, record_of
from cluster.models.base import prepare_model
from cluster.models.base_record import BaseRecord
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from configs.contracts.errors import ConfigError
from configs.schema.sft import SftConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PreparedSft:
    """The model to train, and the demonstrations as tokens on disk."""

    model_path: str
    tokenizer: PreTrainedTokenizerBase
    train: DemonstrationFile
    held_out: DemonstrationFile

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
            "data of the digest": self.train.digest,
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
        return None if learner.max_steps > 0 else math.ceil(learner.num_train_epochs * self.train.counts.sequences)


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
        train, held_out = DemonstrationSource(config.data, tokenizer, config.seed, directory.path / "data").write()
    _say_counts(train, held_out, config, display)
    if config.data.eval_samples and not held_out.counts.sequences:
        raise ConfigError(f"none of the {held_out.counts.rows} held-out rows is within data.max_length {config.data.max_length}; raise it")
    return PreparedSft(model_path, tokenizer, train, held_out)


def _say_counts(train: DemonstrationFile, held_out: DemonstrationFile, config: SftConfig, display: RunDisplay) -> None:
    counts = train.counts
    display.say(
        f"{counts.sequences:,} sequences to train on, {held_out.counts.sequences:,} held out; {counts.tokens:,} tokens, of which "
        f"{counts.trained_tokens / counts.tokens:.0%} are imitated; the longest has {counts.longest_tokens:,}"
    )
    done = "cut off at" if config.data.too_long == "truncate" else "left out, being over"
    facts = {
        f"{done} data.max_length {config.data.max_length}": counts.too_long + held_out.counts.too_long,
        "left out, with nothing to imitate within data.max_length": counts.without_answer + held_out.counts.without_answer,
        "left out, with tools that the chat template does not render": counts.with_unrendered_tools + held_out.counts.with_unrendered_tools,
        "not trained on, being held out as well": counts.also_held_out,
    }
    for fact, number in facts.items():
        if number:
            display.say(f"{number:,} {'rows' if 'tools' in fact else 'sequences'} {fact}")
    if counts.sequences > counts.rows:
        display.say("a row makes several sequences where the chat template drops what the assistant said in earlier turns")
