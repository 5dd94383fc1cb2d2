"""Before Ray starts: the model and the data that `builtin:` names stand for, the tokenizer, and the prompts."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.prompts import PromptSource
from actors.rendering import load_tokenizer
from actors.streaming import PromptStream, open_prompts
from cluster.errors import ConfigError
from cluster.logs import redirect_output
from cluster.progress import RunDisplay
from cluster.run_dir import RunDirectory
from configs.schema import BUILTIN, RewardsSection, RunConfig
from learner.quantised import require_bitsandbytes
from rewards.golds import check_golds, require_readable_golds

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from learner.group import LearnerGroup

TRIED_GOLDS = 64
"""Gold answers that are read before anything starts."""

TINY_MODEL = f"{BUILTIN}tiny_qwen2"


@dataclass
class Prepared:
    """What a run trains, and on what."""

    config: RunConfig
    base_path: str
    """The model as it was given, or made."""
    model_path: str
    """The model that GRPO starts from: `base_path`, or what the warm start makes of it."""
    served_path: str
    """The model that the engines load: `model_path`, or what the learner's quantisation makes of it."""
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptSource | PromptStream

    @property
    def needs_warm_start(self) -> bool:
        """Whether the warm start is still to be run; a run that is resumed has its result already."""
        return self.model_path != self.base_path and not Path(self.model_path).exists()

    @property
    def needs_served_model(self) -> bool:
        """Whether the learner is still to write what the engines serve."""
        return self.served_path != self.model_path and not Path(self.served_path).exists()

    @property
    def canary_token_ids(self) -> tuple[int, ...]:
        """A prompt of the data, by which every adapter sync is verified."""
        return self.prompts.canary_prompt().token_ids

    async def run_warm_start(self, learner: LearnerGroup, display: RunDisplay) -> None:
        """Fine-tune the base model on the demonstrations of the training rows; its result appears whole or not at all."""
        settings = self.config.learner.warm_start
        assert settings is not None
        assert isinstance(self.prompts, PromptSource)  # the configuration refuses a warm start on a stream
        rows = self.prompts.demonstrations(settings.demonstration_column)
        with _whole(self.model_path) as unfinished:
            await learner.warm_start(self.base_path, rows, unfinished, display.warm_start)

    async def write_served_model(self, learner: LearnerGroup) -> None:
        """Write the weights that a started learner computes with; the folder appears whole or not at all."""
        with _whole(self.served_path) as unfinished:
            await learner.save_dequantised(unfinished)


@contextmanager
def _whole(path: str) -> Iterator[Path]:
    """A folder to write that takes its name when it is complete."""
    unfinished = Path(f"{path}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    os.rename(unfinished, path)


def prepare(config: RunConfig, directory: RunDirectory, display: RunDisplay) -> Prepared:
    """Make or find the model, load tokenizer and data.

    Raises:
        ConfigError: an unknown `builtin:` model, or a quantisation that cannot be had here.
        DataError: data or tokenizer cannot be used.
    """
    require_bitsandbytes(config.model.quantization)
    base_path = config.model.path
    if base_path.startswith(BUILTIN):
        with display.phase(f"making {base_path}"):
            base_path = _make_builtin_model(base_path, directory, config.seed)
    with display.phase("reading data"):
        model = config.model
        tokenizer = load_tokenizer(base_path, model.chat_template, model.trust_remote_code, model.revision)
        prompts = open_prompts(
            config.data,
            tokenizer,
            seed=config.seed,
            folder=directory.path / "data",
            epochs=None if config.learner.max_steps > 0 else config.learner.num_train_epochs,
            reward_names=[spec.name for spec in config.rewards.functions],
        )
    display.say(f"of the first {prompts.counts.rows} rows: {prompts.counts}" if config.data.streaming else str(prompts.counts))
    model_path = str(directory.path / "model") if config.learner.warm_start else base_path
    served_path = str(directory.path / "model_dequantised") if config.model.serve_quantized == "dequantized" else model_path
    return Prepared(config, base_path, model_path, served_path, tokenizer, prompts)


def try_golds(rewards: RewardsSection, prompts: PromptSource | PromptStream, display: RunDisplay) -> None:
    """Let the rewards read the gold answers of the first prompts.

    Raises:
        DataError: a reward can read none of them.
        RewardError: a reward cannot be loaded.
    """
    with display.phase("reading gold answers"):
        checks = check_golds(rewards, [prompt.columns for prompt in prompts.first_prompts(TRIED_GOLDS)])
    require_readable_golds(checks)
    for check in checks:
        if check.unreadable:
            display.say(
                f"reward {check.reward} cannot read {len(check.unreadable)} of the first {check.checked} gold answers, such as {check.shown[0]}"
            )


def _make_builtin_model(name: str, directory: RunDirectory, seed: int) -> str:
    if name != TINY_MODEL:
        raise ConfigError(f"model.path {name} is not known: the only model that is made on the spot is {TINY_MODEL}")
    folder = directory.path / "base_model"
    if not (folder / "config.json").exists():
        from learner.tiny_model import create_tiny_model

        # In a process of its own, so that the driver never imports torch.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=redirect_output, initargs=(directory.logs / "prepare.log",)) as process:
            process.submit(create_tiny_model, folder, seed).result()
    return str(folder)
