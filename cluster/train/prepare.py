"""Prepare a run before Ray starts: make or find the model, merge an adapter into it, load the tokenizer and the prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.prompts.eval_sets import EvalSet
from actors.prompts.leaks import leak_warnings
from actors.prompts.rendering import load_tokenizer
from actors.prompts.source import PromptSource
from actors.prompts.streamed import open_prompts
from cluster.evaluation.sets import open_sets
from cluster.models.adapter_base import Base, record_of
from cluster.models.base import prepare_model, whole_folder
from cluster.models.base_record import BaseRecord
from cluster.models.trainable import warnings_of_fit
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from configs.schema.model import DEQUANTISED_MODEL, WARM_MODEL
from configs.schema.rewards import RewardsSection
from configs.schema.run import RunConfig
from rewards.grading.golds import check_golds, gold_sentences, require_readable_golds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from learner.grpo.learner import GrpoLearner

TRIED_GOLDS = 64
"""Gold answers that are read before anything starts."""


@dataclass
class Prepared:
    """The model, the tokenizer and the prompts of a run."""

    config: RunConfig
    base_path: str
    """The model as given or made, after `model.adapter` was merged into it if it is to be."""
    model_path: str
    """The model that GRPO starts from: `base_path`, or what the warm start makes of it."""
    served_path: str
    """The model that the engines load: `model_path`, or what the learner's quantisation makes of it."""
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptSource
    eval_sets: Sequence[EvalSet]
    """Sets of prompts that are evaluated while the run trains."""

    @property
    def needs_warm_start(self) -> bool:
        """True until the warm start has been run. A resumed run has its result already."""
        return self.model_path != self.base_path and not Path(self.model_path).exists()

    @property
    def needs_served_model(self) -> bool:
        """True until the learner has written the model that the engines serve."""
        return self.served_path != self.model_path and not Path(self.served_path).exists()

    @property
    def base_to_train(self) -> Base:
        """The model that adapters are trained on."""
        return Base(self.model_path, self.config.model.revision)

    def base_record(self) -> BaseRecord:
        """Make the record of the base for the run's adapters; once the learner and the engines have loaded it."""
        return record_of(self.base_to_train, self.served_path)

    @property
    def canary_token_ids(self) -> tuple[int, ...]:
        """A prompt of the data, by which every adapter sync is verified."""
        return self.prompts.canary_prompt().token_ids

    async def run_warm_start(self, learner: GrpoLearner, display: RunDisplay) -> None:
        """Fine-tune the base model on the demonstrations of the training rows; its result appears whole or not at all."""
        settings = self.config.learner.warm_start
        assert settings is not None
        rows = self.prompts.demonstrations(settings.demonstration_column)
        with whole_folder(self.model_path) as unfinished:
            await learner.warm_start(self.base_path, rows, unfinished, display.warm_start)

    async def write_served_model(self, learner: GrpoLearner) -> None:
        """Write the weights that a started learner computes with; the folder appears whole or not at all."""
        with whole_folder(self.served_path) as unfinished:
            await learner.save_dequantised(unfinished)


def prepare(config: RunConfig, directory: RunDirectory, display: RunDisplay) -> Prepared:
    """Make or find the model, load tokenizer and data.

    Raises:
        ConfigError: an unknown `builtin:` model, or a quantisation that cannot be had here.
        DataError: data or tokenizer cannot be used.
    """
    base_path = prepare_model(config, directory, display)
    with display.phase("reading data"):
        model = config.model
        tokenizer = load_tokenizer(base_path, model.chat_template, model.trust_remote_code, model.revision, model.eos_token)
        display.say_all([f"WARNING: {sentence}" for sentence in warnings_of_fit(config, tokenizer, base_path)])
        _compare_templates(model.adapter, tokenizer, display)
        _compare_end_tokens(model.adapter, tokenizer, display)
        prompts = open_prompts(
            config.data,
            tokenizer,
            seed=config.seed,
            folder=directory.path / "data",
            epochs=None if config.learner.max_steps > 0 else config.learner.num_train_epochs,
            reward_names=[spec.name for spec in config.rewards.functions],
        )
    display.say(f"of the first {prompts.counts.rows} rows: {prompts.counts}" if config.data.streaming else str(prompts.counts))
    model_path = str(directory.path / WARM_MODEL) if config.learner.warm_start else base_path
    served_path = str(directory.path / DEQUANTISED_MODEL) if config.model.serve_quantized == "dequantized" else model_path
    eval_sets = open_sets(config, tokenizer, directory.path / "data", prompts) if config.evaluation.steps else []
    return Prepared(config, base_path, model_path, served_path, tokenizer, prompts, eval_sets)


def try_golds(rewards: RewardsSection, prompts: PromptSource, display: RunDisplay) -> None:
    """Check that the rewards read the gold answers of the first prompts as they are meant, and say of which kinds they are.

    Raises:
        DataError: a reward can read none of them.
        RewardError: a reward cannot be loaded.
    """
    first = prompts.first_prompts(TRIED_GOLDS)
    with display.phase("reading gold answers"):
        checks = check_golds(rewards, [prompt.columns for prompt in first])
    require_readable_golds(checks)
    display.say_all([f"WARNING: {sentence}" for sentence in leak_warnings(first, {name for check in checks for name in check.columns})])
    for check in checks:
        for sentence in gold_sentences(check):
            display.say(sentence)


def _compare_templates(adapter: str | None, tokenizer: PreTrainedTokenizerBase, display: RunDisplay) -> None:
    """Say when the adapter was trained under another chat template than this run's."""
    file = Path(adapter or "") / "chat_template.jinja"
    if adapter and file.is_file() and file.read_text(encoding="utf-8") != tokenizer.chat_template:
        display.say(f"the adapter was trained with another chat template than this run's; to keep it, set model.chat_template={file}")


def _compare_end_tokens(adapter: str | None, tokenizer: PreTrainedTokenizerBase, display: RunDisplay) -> None:
    """Say when the adapter was trained to end answers with another token than this run's."""
    file = Path(adapter or "") / "tokenizer_config.json"
    trained = json.loads(file.read_text(encoding="utf-8")).get("eos_token") if adapter and file.is_file() else None
    trained = trained.get("content") if isinstance(trained, dict) else trained
    if trained and trained != tokenizer.eos_token:
        display.say(
            f"the adapter was trained to end answers with {trained}, and this run ends them with {tokenizer.eos_token}; to keep it, set "
            f"model.eos_token={trained}"
        )
