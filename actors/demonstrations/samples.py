"""Rows of demonstrations -> tokenised sequences, with counts of those that are not used, by reason and by data set.

rows ── chat template ── tokens and the mask of imitation ── leave out what is too long, unanswered or held out ──► samples
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from actors.chat.messages import Message, messages_of
from actors.chat.templates import REASONING, with_known_reasoning
from actors.chat.tool_calls import Tool
from actors.demonstrations.conversation import Imitation, NoAnswerError, NotRenderedError, Sample, continued, imitations, tokenise
from actors.demonstrations.counting import DemonstrationCounts, total
from actors.prompts.asking import SYSTEM, TOOLS, PromptRenderer, beside_of, columns_beside, given_beside, tools_beside
from actors.rows.rows import Rows
from actors.rows.views import part_numbers, require_column
from configs.contracts.errors import DataError
from configs.contracts.records import DEMONSTRATION_SCHEMA
from configs.schema.sft import SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Talk:
    """A row as messages."""

    messages: list[Message]
    tools: list[Tool] | None = None
    first: int = 1
    """Number of the first message that may be imitated."""
    notes: Sequence[str] = ()
    rendered: str | None = None
    """The prompt, if it carries the marks of the template already."""


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


def columns_of_talk(data: SftDataSection) -> tuple[str, ...]:
    """Name the columns that belong to the prompt or the conversation of a row, where rows have them."""
    if data.messages_column is not None:
        return tuple(name for name in (*SYSTEM, *TOOLS) if name != data.messages_column)
    named = (data.prompt_column, data.completion_column)
    return tuple(name for name in (*columns_beside(data, data.prompt_column), REASONING[0]) if name not in named)


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
    return frozenset(data.columns) | frozenset(_columns(data).values()) | frozenset(columns_of_talk(data)).intersection(columns)


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
        self._renderer = PromptRenderer(self.tokenizer, self.data.system_prompt, "continue")

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
        beside = beside_of(counted.rows, columns_of_talk(self.data), indices)
        if not self._renderer.conversational:
            plain = [(index, self._plain(counted, index, other, *value)) for (index, *value), other in zip(values, beside, strict=True)]
            return [(index, sample) for index, sample in plain if sample]
        rendered = [
            (index, imitation)
            for (index, *value), other in zip(values, beside, strict=True)
            for imitation in self._imitations(counted, other, index, *value)
        ]
        made = tokenise(self.tokenizer, [imitation for _, imitation in rendered])
        return [(index, sample) for (index, _), sample in zip(rendered, made, strict=True)]

    def _imitations(self, counted: CountedRows, beside: Mapping[str, object], index: int, *value: object) -> list[Imitation]:
        """Render a row. Of thousands from the web a few are cut short or odd: they are counted, and nothing is made of them."""
        try:
            talk = self._talk(beside, *value)
        except ValueError as error:
            return self._left_out(counted, index, "malformed", str(error))
        try:
            if talk.rendered is not None:
                found = [self._answered(talk.rendered, talk.messages[talk.first :])]
            else:
                found = imitations(self.tokenizer, talk.messages, talk.first, talk.tools, self._renderer.check)
        except NoAnswerError as error:
            return self._left_out(counted, index, "without_answer", str(error))
        except NotRenderedError as error:
            return self._left_out(counted, index, "not_rendered", str(error))
        except ValueError as error:
            return self._left_out(counted, index, "refused_by_template", str(error))
        of_answers = dict.fromkeys(note for each in found for note in each.notes)
        counted.counts_of(index).remark([*talk.notes, *of_answers], counted.rows.location(index))
        return found

    def _talk(self, beside: Mapping[str, object], *value: object) -> _Talk:
        """The messages of a row, and what belongs to them.

        Raises:
            ValueError: the row is malformed.
        """
        column, *completion = value
        kept = given_beside(beside)
        if not completion:
            notes = ["hold their messages as JSON text, which is read as messages"] if isinstance(column, str) else []
            messages = self._without_ends(messages_of(column), notes)
            messages = self._renderer.with_system(messages, kept, notes)
            return _Talk(self._thought(messages), tools_beside(kept), 1, tuple(dict.fromkeys(notes)))
        reasoning = kept.pop(REASONING[0], None)
        asked = self._renderer.asked(column, kept)
        notes = list(asked.notes)
        messages = self._without_ends(continued(asked, completion[0], reasoning), notes)
        first = 1 if asked.earlier else len(asked.messages)
        return _Talk(self._thought(messages), asked.tools, first, tuple(dict.fromkeys(notes)), asked.plain)

    def _answered(self, prompt: str, answer: Sequence[Message]) -> Imitation:
        """A prompt that carries the marks of the template, and its completion.

        Raises:
            ValueError: the completion is not one text.
        """
        if len(answer) != 1 or set(answer[0]) != {"role", "content"}:
            raise ValueError(
                "carries the marks of the chat template already, so that its completion must be text; give the bare text of the user"
            )
        text = f"{prompt}{answer[0]['content']}{self.tokenizer.eos_token or ''}"
        return Imitation(text, ((len(prompt), len(text)),))

    def _thought(self, messages: list[Message]) -> list[Message]:
        return with_known_reasoning(messages, str(self.tokenizer.chat_template))

    def _without_ends(self, messages: Sequence[Message], notes: list[str]) -> list[Message]:
        """Cut the end token off answers that end with it: the template writes it."""
        ends = tuple(mark for mark in (str(self.tokenizer.eos_token or ""), *self._renderer.markers.marks) if len(mark) > 1)
        found = []
        for message in messages:
            content = message["content"]
            end = next((mark for mark in ends if message["role"] == "assistant" and content and content.rstrip().endswith(mark)), None)
            if end is not None:
                notes.append(f"end answers with {end!r}, which the chat template writes itself: it is cut off")
                message = {**message, "content": content.rstrip().removesuffix(end)}
            found.append(message)
        return found

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

    def _plain(self, counted: CountedRows, index: int, beside: Mapping[str, object], *value: object) -> Sample | None:
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
            prompt_ids = self._renderer.tokenise([self._renderer.rendered(self._renderer.asked(prompt, beside))])[0]
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
    if unusable and sum((counts.without_answer, counts.not_rendered, counts.malformed, counts.refused_by_template)) == counts.rows:
        raise DataError(unusable)
    raise DataError(
        f"of the {counts.rows} rows of {data.source} none is left to train on: {counts.too_long} have more tokens than data.max_length "
        f"{data.max_length}, {counts.without_answer} have no answer, {counts.not_rendered} have tools or messages that the chat template "
        f"does not render, {counts.malformed} are malformed, {counts.refused_by_template} cannot be rendered, {counts.also_held_out} are held out "
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
