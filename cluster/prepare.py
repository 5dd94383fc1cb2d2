"""Before Ray starts: the model and the data that `builtin:` names stand for, an adapter to merge, the tokenizer, and the prompts."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from actors.eval_sets import EvalSet, load_eval_sets
from actors.prompts import PromptSource
from actors.rendering import load_tokenizer
from actors.streaming import PromptStream, open_prompts
from cluster.errors import ConfigError
from cluster.logs import redirect_output
from cluster.merge import MergeSource, merge_adapter
from cluster.progress import RunDisplay
from cluster.run_dir import RunDirectory
from cluster.starting_adapter import doubt_about_base
from configs.schema import BASE_MODEL, BUILTIN, DEQUANTISED_MODEL, MERGED_MODEL, WARM_MODEL, RewardsSection, RunConfig
from configs.sft import SftConfig
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
    """The model as it was given or made, with the adapter that is merged into it."""
    model_path: str
    """The model that GRPO starts from: `base_path`, or what the warm start makes of it."""
    served_path: str
    """The model that the engines load: `model_path`, or what the learner's quantisation makes of it."""
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptSource | PromptStream
    eval_sets: Sequence[EvalSet]
    """What is evaluated while the run trains."""

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
        with whole_folder(self.model_path) as unfinished:
            await learner.warm_start(self.base_path, rows, unfinished, display.warm_start)

    async def write_served_model(self, learner: LearnerGroup) -> None:
        """Write the weights that a started learner computes with; the folder appears whole or not at all."""
        with whole_folder(self.served_path) as unfinished:
            await learner.save_dequantised(unfinished)


@contextmanager
def whole_folder(path: str) -> Iterator[Path]:
    """A folder to write that takes its name when it is complete."""
    unfinished = Path(f"{path}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    yield unfinished
    os.rename(unfinished, path)


def prepare(config: RunConfig, directory: RunDirectory, display: RunDisplay) -> Prepared:
    """Make or find the model, load tokenizer and data.

    Raises:
        ConfigError: an unknown `builtin:` model, one that is quantised already, or a quantisation that cannot be had here.
        DataError: data or tokenizer cannot be used.
    """
    base_path = prepare_model(config, directory, display)
    with display.phase("reading data"):
        model = config.model
        tokenizer = load_tokenizer(base_path, model.chat_template, model.trust_remote_code, model.revision, model.eos_token)
        require_plain_weights(base_path, model.revision)
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
    return Prepared(config, base_path, model_path, served_path, tokenizer, prompts, training_sets(config, tokenizer, prompts))


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


def training_sets(config: RunConfig, tokenizer: PreTrainedTokenizerBase, source: PromptSource | PromptStream) -> list[EvalSet]:
    """What is evaluated while the run trains; nothing where `evaluation.steps` is 0."""
    asked = config.evaluation
    if not asked.steps:
        return []
    seed = config.seed if asked.seed is None else asked.seed
    if not asked.data:
        return [held_out_set(source, asked.max_prompts)]
    return load_eval_sets(asked.data, config.data, tokenizer, max_prompts=asked.max_prompts, seed=seed)


def held_out_set(source: PromptSource | PromptStream, max_prompts: int | None = None) -> EvalSet:
    """The prompts that a run holds out.

    Raises:
        ConfigError: it holds none out.
    """
    prompts = source.eval_prompts()
    if not prompts:
        raise ConfigError("data.eval_samples is 0, so that no prompts are held out: name data sets by --data (evaluation.data)")
    return EvalSet("held_out", prompts[:max_prompts])


def model_to_serve(config: RunConfig, folder: Path, logs: Path) -> str:
    """The model that the engines load to evaluate a run: what the run in `folder` has made of its base model, if it has made anything.

    A `builtin:` model that is not there is made.
    """
    made = [folder / DEQUANTISED_MODEL] * (config.model.serve_quantized == "dequantized")
    made += [folder / WARM_MODEL] * (config.learner.warm_start is not None)
    made += [folder / MERGED_MODEL] * config.model.merge_adapter
    there = next((path for path in made if path.exists()), None)
    if there is not None or not config.model.path.startswith(BUILTIN):
        return str(there or config.model.path)
    return make_builtin_model(config.model.path, folder, logs, config.seed)


def prepare_model(config: RunConfig | SftConfig, directory: RunDirectory, display: RunDisplay) -> str:
    """Make or find the base, and merge the adapter into it that is to be merged; what an earlier start of the run made is used again.

    Raises:
        ConfigError: an unknown `builtin:` model, a quantisation that cannot be had here, or an adapter that does not fit.
    """
    model = config.model
    require_bitsandbytes(model.quantization)
    path = model.path
    if path.startswith(BUILTIN):
        with display.phase(f"making {path}"):
            path = make_builtin_model(path, directory.path, directory.logs, config.seed)
    if model.adapter is not None and (doubt := doubt_about_base(Path(model.adapter), path)) is not None:
        display.say(doubt)
    if not model.merge_adapter:
        return path
    merged = directory.path / MERGED_MODEL
    if not merged.exists():
        assert model.adapter is not None
        source = MergeSource(Path(model.adapter), path, merged, model.revision, model.trust_remote_code)
        with display.phase(f"merging {model.adapter} into {model.path}"):
            _, outcome = merge_adapter(source, dtype=model.dtype)
        display.say(f"{outcome.modules} modules merged; log-probabilities differ by {outcome.mean_difference:.2g} nats on average")
    return str(merged)


def require_plain_weights(path: str, revision: str | None) -> None:
    """Refuse a model whose weights are quantised where it is published, by what its config.json says.

    Args:
        path: local folder or hub id, whose tokenizer could be loaded.
        revision: branch, tag or commit on the hub.

    Raises:
        ConfigError: they are.
    """
    from huggingface_hub import hf_hub_download

    folder = Path(path).expanduser()
    try:
        file = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(path, "config.json", revision=revision))
        quantised = json.loads(file.read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError):
        return  # the engines and the learner say what is wrong with it
    if quantised:
        raise ConfigError(
            f"model.path {path} is quantised already ({quantised.get('quant_method', 'quantization_config')} in its config.json), and a run "
            "quantises plain weights itself, so that engines and learner can agree; give the original model, and for QLoRA set "
            "model.quantization to nf4"
        )


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


def make_builtin_model(name: str, where: Path, logs: Path, seed: int) -> str:
    """Make a `builtin:` model in `where`, unless it is there already, and return its folder.

    Raises:
        ConfigError: there is no such model.
    """
    if name != TINY_MODEL:
        raise ConfigError(f"model.path {name} is not known: the only model that is made on the spot is {TINY_MODEL}")
    folder = where / BASE_MODEL
    if not (folder / "config.json").exists():
        from learner.tiny_model import create_tiny_model

        # In a process of its own, so that the driver holds no model.
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=redirect_output, initargs=(logs / "prepare.log",)) as process:
            process.submit(create_tiny_model, folder, seed).result()
    return str(folder)
