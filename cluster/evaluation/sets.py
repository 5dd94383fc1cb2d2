"""The sets of prompts that a model is evaluated on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actors.prompts.eval_sets import EvalSet, load_eval_sets
from actors.prompts.source import PromptSource
from actors.prompts.streamed import open_prompts
from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from rewards import validate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def open_sets(config: RunConfig, tokenizer: PreTrainedTokenizerBase, folder: Path, prompts: PromptSource | None = None) -> list[EvalSet]:
    """Open the data sets of `evaluation.data`, or else the run's held-out prompts, and check that they have the columns that rewards need.

    Args:
        folder: for the index of the run's own data, if they must be opened here.
        prompts: the run's own prompts, if they are open already.

    Raises:
        ConfigError: no prompts are held out, or a data set lacks a column that a reward needs.
        DataError: a data set cannot be used.
    """
    asked = config.evaluation
    if asked.data:
        seed = config.seed if asked.seed is None else asked.seed
        sets = load_eval_sets(asked.data, config.data, tokenizer, max_prompts=asked.max_prompts, seed=seed)
    else:
        own = open_prompts(config.data, tokenizer, seed=config.seed, folder=folder) if prompts is None else prompts
        sets = [held_out_set(own, asked.max_prompts)]
    rewards = config.rewards_resolved
    for each in sets:
        validate(rewards, each.prompts[0].columns)
    return sets


def held_out_set(prompts: PromptSource, max_prompts: int | None = None) -> EvalSet:
    """Take the prompts that a run holds out, at most `max_prompts` of them.

    Raises:
        ConfigError: the run holds none out.
    """
    held_out = prompts.eval_prompts()
    if not held_out:
        raise ConfigError("data.eval_samples is 0, so no prompts are held out: name data sets by --data (evaluation.data)")
    return EvalSet("held_out", held_out[:max_prompts])
