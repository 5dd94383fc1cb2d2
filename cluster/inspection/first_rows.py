"""The first rows of a data set, rendered before a run: what it would be refused for, and what is odd about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from actors.demonstrations.counting import left_out
from actors.demonstrations.samples import CountedRows, SampleMaker, require_some
from actors.prompts.leaks import leak_warnings
from actors.prompts.rendering import PromptMaker
from actors.rows.rows import Rows
from configs.contracts.records import PromptId
from configs.schema.data import DataSection
from configs.schema.sft import SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOOKED_AT_ROWS = 64


def of_prompts(data: DataSection, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> list[str]:
    """Render the first prompts; returns warnings.

    Raises:
        DataError: one cannot be rendered.
    """
    maker, indices = PromptMaker.of(data, tokenizer), range(min(LOOKED_AT_ROWS, len(rows)))
    maker.texts(rows, indices, rows.values(data.prompt_column, indices))
    prompts = [maker.prompt(PromptId(0, index), rows.row(index), rows.location(index)) for index in indices]
    return [*maker.notes.sentences(), *leak_warnings(prompts)]


def of_demonstrations(data: SftDataSection, tokenizer: PreTrainedTokenizerBase, rows: Rows) -> list[str]:
    """Render the first demonstrations; returns what would be left out or converted.

    Raises:
        DataError: these are all rows, and none is left.
    """
    maker, counted, indices = SampleMaker(data, tokenizer), CountedRows.of(rows), range(min(LOOKED_AT_ROWS, len(rows)))
    maker.made(counted, indices)
    if len(indices) == len(rows):
        require_some(data, counted.counts, maker.unusable)
    return [f"of the first {len(indices)} rows: {sentence}" for sentence in left_out(data, counted.counts)]
