"""Evaluation data sets -> prompts."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.prompts.indexed import EVAL_EPOCH
from actors.prompts.rendering import PromptMaker
from actors.rows.named_sets import NAMED_SETS, load_named_or_path
from actors.rows.rows import Rows
from configs.contracts.errors import DataError
from configs.contracts.records import Prompt, PromptId
from configs.schema.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalSet:
    """The prompts of one data set to evaluate on."""

    name: str
    """Name in the metrics."""
    prompts: Sequence[Prompt]
    """Their ids have a negative epoch that no other set has."""
    too_long: int = 0
    """Prompts left out because they have more than `data.max_prompt_length` tokens."""


def load_eval_sets(
    specs: Sequence[str], data: DataSection, tokenizer: PreTrainedTokenizerBase, *, max_prompts: int | None, seed: int
) -> list[EvalSet]:
    """Open data sets by name or path, and render their prompts as for training.

    Args:
        specs: names or paths, as in `load_named_or_path`.
        data: gives the system prompt, the length limit, and the first prompt column to look for.
        max_prompts: size of the seeded subset taken of each; None takes all.

    Raises:
        DataError: one cannot be read, holds no prompt that is short enough, or two have the same name.
    """
    names = [_name(spec) for spec in specs]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled:
        raise DataError(f"{' and '.join(spec for spec in specs if _name(spec) == doubled)} are both called {doubled}; rename a file")
    maker = PromptMaker.of(data, tokenizer)
    found = []
    for number, spec in enumerate(specs, start=1):
        rows, column = load_named_or_path(spec, data.prompt_column)
        for sentence in rows.notices:
            logger.warning("%s", sentence)
        found.append(_render(spec, rows, replace(maker, column=column), data.max_prompt_length, EVAL_EPOCH - number, max_prompts, seed))
    return found


def _name(spec: str) -> str:
    """`data/my set.jsonl` -> `my_set`, `openai/gsm8k@train` -> `gsm8k_train`; a name of `NAMED_SETS` stays."""
    if spec in NAMED_SETS:
        return spec
    path = Path(spec)
    name = path.stem if path.exists() else path.name
    return re.sub(r"[^\w.-]+", "_", name)


def _render(spec: str, rows: Rows, maker: PromptMaker, longest: int, epoch: int, max_prompts: int | None, seed: int) -> EvalSet:
    indices = range(len(rows))
    taken = sorted(random.Random(seed).sample(indices, max_prompts)) if max_prompts and max_prompts < len(rows) else indices
    prompts = [maker.prompt(PromptId(epoch, index), rows.row(index), rows.location(index)) for index in taken]
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) <= longest]
    if not fitting:
        shortest = min(len(prompt.token_ids) for prompt in prompts)
        raise DataError(
            f"every one of the {len(prompts)} prompts of {spec} is longer than data.max_prompt_length {longest}; the shortest has {shortest} tokens: "
            "raise the limit to at least that"
        )
    return EvalSet(_name(spec), fitting, len(prompts) - len(fitting))
