"""Rows of demonstrations -> tokenised sequences, with counts of those that are not used, by reason and by data set.

rows ── chat template ── tokens and the mask of imitation ── leave out what is too long, unanswered or held out ──► samples
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from actors.demonstrations.conversation import Imitation, Message, NoAnswerError, Sample, continued, conversation, imitations, tokenise
from actors.demonstrations.counting import DemonstrationCounts, total
from actors.demonstrations.tool_turns import NoToolsInTemplateError, require_rendered_tools, tools_of
from actors.prompts.rendering import PromptRenderer
from actors.rows.rows import Rows
from actors.rows.views import part_numbers, require_column
from configs.contracts.errors import DataError
from configs.contracts.records import DEMONSTRATION_SCHEMA
from configs.schema.sft import SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = ("system", "system_prompt")
BESIDE = (*SYSTEM, "tools")
"""Columns that belong to the conversation of their row, if there are such."""


@dataclass(frozen=True)
class CountedRows:
    """Rows, and the counts of each data set that they come from."""

    rows: Rows
    part_of: np.ndarray
    """int32 [rows]: number of the data set that holds each row."""
    by_source: Sequence[DemonstrationCounts]

    @classmethod
    def of(cls, rows: Rows) -> CountedRows:
        """The rows, with counts of nothing so far."""
        part_of = part_numbers(rows)
        return cls(rows, part_of, [DemonstrationCounts() for _ in range(int(part_of.max(initial=0)) + 1)])

    @property
    def counts(self) -> DemonstrationCounts:
        """The counts of all data sets together."""
        return total(self.by_source)

    def counts_of(self, index: int) -> DemonstrationCounts:
        """The counts of the data set that holds a row."""
        return self.by_source[self.part_of[index]]


def require_demonstrations(data: SftDataSection, rows: Rows) -> None:
    """Raise DataError, with the key that fits, if the rows lack a column of the demonstrations."""
    for key, column in _columns(data).items():
        require_column(rows, column, f"data.{key}", _hint(key, rows.columns))


def _columns(data: SftDataSection) -> Mapping[str, str]:
    """Key of `data` -> the column that it names, of the columns that hold the demonstrations."""
    if data.messages_column is not None:
        return {"messages_column": data.messages_column}
    return {"prompt_column": data.prompt_column, "completion_column": data.completion_column}


def columns_read(data: SftDataSection, columns: Collection[str]) -> frozenset[str]:
    """Those of the columns of which demonstrations are made."""
    beside = BESIDE if data.messages_column is not None else ()
    return frozenset(_columns(data).values()) | frozenset(beside).intersection(columns)


@dataclass
class SampleMaker:
    """Turn rows into tokenised sequences, and count those that are left out.

    Args:
        data: columns, system prompt and length limit.
        tokenizer: the trained model's, from `load_tokenizer`.
    """

    data: SftDataSection
    tokenizer: PreTrainedTokenizerBase
    unusable: str = ""
    """The first row that is malformed, that the template cannot render or in which the assistant answers nothing, and what is wrong with it."""
    _renderer: PromptRenderer = field(init=False)
    _held_out: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._renderer = PromptRenderer(self.tokenizer, self.data.system_prompt)

    def made(self, counted: CountedRows, indices: Sequence[int], held_out: bool = False) -> list[Sample]:
        """The sequences of some rows that are used. Counts all of these rows: used, or left out, by reason.

        Args:
            held_out: the sequences are not trained on, nor are later ones that equal one of them.

        Raises:
            DataError: there is no chat template for conversations, or no end token.
        """
        for index in indices:
            counted.counts_of(index).rows += 1
        return [sample for index, made in self._samples(counted, indices) if (sample := self._kept(counted, index, made, held_out))]

    def _samples(self, counted: CountedRows, indices: Sequence[int]) -> list[tuple[int, Sample]]:
        """(row number, sequence) of every row that can be rendered."""
        columns = [counted.rows.values(column, indices) for column in _columns(self.data).values()]
        values = list(zip(indices, *columns, strict=True))
        if not self._renderer.conversational:
            plain = [(index, self._plain(counted, index, *value)) for index, *value in values]
            return [(index, sample) for index, sample in plain if sample]
        beside = self._beside(counted.rows, indices)
        rendered = [
            (index, imitation) for index, *value in values for imitation in self._imitations(counted, beside.get(index, {}), index, *value)
        ]
        made = tokenise(self.tokenizer, [imitation for _, imitation in rendered])
        return [(index, sample) for (index, _), sample in zip(rendered, made, strict=True)]

    def _beside(self, rows: Rows, indices: Sequence[int]) -> dict[int, dict[str, object]]:
        """The system message and the tools of each conversation, where the data have columns for them."""
        names = [name for name in BESIDE if name in rows.columns] if self.data.messages_column is not None else []
        columns = [rows.values(name, indices) for name in names]
        return {index: dict(zip(names, found, strict=True)) for index, *found in zip(indices, *columns, strict=True)}

    def _imitations(self, counted: CountedRows, beside: Mapping[str, object], index: int, *value: object) -> list[Imitation]:
        """Render a row. Of thousands from the web a few are cut short or odd: they are counted, and nothing is made of them."""
        try:
            messages, tools, first = self._messages(beside, *value)
        except ValueError as error:
            return self._left_out(counted, index, "malformed", str(error))
        try:
            require_rendered_tools(str(self.tokenizer.chat_template), messages, tools)
            return imitations(self.tokenizer, messages, first, tools)
        except NoAnswerError as error:
            return self._left_out(counted, index, "without_answer", str(error))
        except NoToolsInTemplateError:
            return self._left_out(counted, index, "with_unrendered_tools")
        except ValueError as error:
            return self._left_out(counted, index, "refused_by_template", str(error))

    def _messages(self, beside: Mapping[str, object], *value: object) -> tuple[list[Message], list[Any] | None, int]:
        """The messages of a row, its tools, and the first message that may be imitated.

        Raises:
            ValueError: the row is malformed.
        """
        column, *completion = value
        if completion:
            return continued(self._renderer, column, *completion), None, len(self._renderer.messages(column))
        system = next((text for name in SYSTEM if isinstance(text := beside.get(name), str) and text), self.data.system_prompt)
        return conversation(column, system), tools_of(beside.get("tools")), 1

    def _left_out(self, counted: CountedRows, index: int, reason: str, fault: str = "") -> list[Imitation]:
        """Count a row that is left out.

        Args:
            fault: what is wrong with it, if rows differ in that.
        """
        location = counted.rows.location(index)
        told = f"{location}: column {next(iter(_columns(self.data).values()))!r} {fault}"
        self.unusable = self.unusable or (told if fault else "")
        counted.counts_of(index).note(reason, told if fault and reason != "without_answer" else location)
        return []

    def _plain(self, counted: CountedRows, index: int, *value: object) -> Sample | None:
        """Concatenate prompt and completion, without a chat template; None if the row is malformed."""
        if len(value) == 1:
            raise DataError(
                f"{counted.rows.location(index)}: column {self.data.messages_column!r}: conversations need a chat template and the tokenizer "
                "has none; set model.chat_template"
            )
        if self.tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end token, so that a completion cannot end; set eos_token in its tokenizer_config.json")
        prompt, completion = value
        try:
            if not isinstance(completion, str):
                raise ValueError(f"is followed by the completion {completion!r:.80}; a completion is text")
            prompt_ids = self._renderer.tokenise([self._renderer.text(prompt, self._renderer.messages(prompt))])[0]
        except ValueError as error:
            self._left_out(counted, index, "malformed", str(error))
            return None
        completion_ids = np.asarray(self.tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
        token_ids_T = np.asarray([*prompt_ids, *completion_ids, self.tokenizer.eos_token_id], np.int32)
        return Sample(token_ids_T, np.arange(len(token_ids_T)) >= len(prompt_ids))

    def _kept(self, counted: CountedRows, index: int, sample: Sample, held_out: bool) -> Sample | None:
        """The sequence, cut off where it may be; None if it is left out."""
        counts, limit, location = counted.counts_of(index), self.data.max_length, counted.rows.location(index)
        if len(sample.token_ids_T) > limit:
            counts.note("too_long", location)
            if self.data.too_long != "truncate":
                return None
            sample = Sample(sample.token_ids_T[:limit], sample.trained_T[:limit])
        sample.trained_T[0] = False
        digest = hashlib.blake2b(sample.token_ids_T.tobytes(), digest_size=16).digest()
        if not sample.trained_T.any():
            counts.note("without_answer", location)
            return None
        if digest in self._held_out and not held_out:
            counts.note("also_held_out", location)
            return None
        if held_out:
            self._held_out.add(digest)
        counts.sequences += 1
        counts.tokens += len(sample.token_ids_T)
        counts.trained_tokens += int(sample.trained_T.sum())
        counts.longest_tokens = max(counts.longest_tokens, len(sample.token_ids_T))
        return sample


def record_batch(samples: Sequence[Sample]) -> pa.RecordBatch:
    """The sequences in the format `DEMONSTRATION_SCHEMA`."""
    arrays = [
        pa.array([sample.token_ids_T for sample in samples], DEMONSTRATION_SCHEMA.field("token_ids").type),
        pa.array([sample.trained_T for sample in samples], DEMONSTRATION_SCHEMA.field("trained").type),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=DEMONSTRATION_SCHEMA)


def require_some(data: SftDataSection, counts: DemonstrationCounts, unusable: str) -> None:
    """Raise DataError, with the reasons, if no sequence is left to train on.

    Args:
        unusable: `SampleMaker.unusable`, which is the reason if every row is so.
    """
    if counts.sequences:
        return
    if unusable and counts.without_answer + counts.malformed + counts.refused_by_template == counts.rows:
        raise DataError(unusable)
    raise DataError(
        f"of the {counts.rows} rows of {data.source} none is left to train on: {counts.too_long} have more tokens than data.max_length "
        f"{data.max_length}, {counts.without_answer} have no answer, {counts.with_unrendered_tools} have tools that the chat template does "
        f"not render, {counts.malformed} are malformed, {counts.refused_by_template} cannot be rendered, {counts.also_held_out} are held out "
        "as well; raise the limit or give more rows"
    )


def _hint(key: str, columns: Sequence[str]) -> str:
    """Keys of `data` to set for rows with these columns, which lack the column that `key` names."""
    if talks := next((name for name in ("messages", "conversations") if name in columns), None):
        return f"for whole conversations set data.messages_column: {talks}"
    if key == "messages_column" and {"prompt", "completion"} <= set(columns):
        return "for a prompt and its completion set data.messages_column: null"
    if tuple(columns) == ("text",):
        return "it is unknown which part of a text is to be imitated: split it into a prompt and a completion"
    return ""
