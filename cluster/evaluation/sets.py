"""The sets of prompts that a model is evaluated on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actors.prompts.eval_sets import EvalSet, load_eval_sets
from actors.prompts.indexed import PromptSource
from actors.prompts.streamed import PromptStream, open_prompts
from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from rewards import validate
from rewards.functions.registry import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def open_sets(config: RunConfig, tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[EvalSet]:
    """The data sets of `evaluation.data`, else the prompts that the run holds out; each has what the rewards need.

    Raises:
        ConfigError: nothing is held out, or the data lack a column that a reward needs.
        DataError: data cannot be used.
    """
    asked = config.evaluation
    seed = config.seed if asked.seed is None else asked.seed
    if asked.data:
        sets = load_eval_sets(asked.data, config.data, tokenizer, max_prompts=asked.max_prompts, seed=seed)
    else:
        sets = [held_out_set(open_prompts(config.data, tokenizer, seed=config.seed, folder=folder), asked.max_prompts)]
    for each in sets:
        validate(resolve(config.rewards, config.actors.max_completion_length), each.prompts[0].columns)
    return sets
