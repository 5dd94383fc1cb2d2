"""Rows of demonstrations -> tokenised sequences on disk, for supervised fine-tuning.

    rows ── hold out, subset ── chat template ── tokens and the mask of imitation ── leave out what is too long ──► Arrow files

Ranks memory-map the files, so a data set may be larger than the memory of a node or Ray's object store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.progress import track

from actors.prompts.conversation import Imitation, NoAnswerError, Sample, continued, conversation, imitations, tokenise
from actors.prompts.rendering import PromptRenderer
from actors.prompts.selection import SUBSET_STREAM
from actors.prompts.tool_turns import NoToolsInTemplateError, require_rendered_tools, tools_of
from actors.rows.permutation import permutation
from actors.rows.rows import Rows, load_rows
from actors.rows.sources import local_path
from configs.contracts.errors import DataError
from configs.contracts.records import DEMONSTRATION_SCHEMA
from configs.schema.sft import SftDataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = ("system", "system_prompt")
BESIDE = (*SYSTEM, "tools")
"""Columns that belong to the conversation of their row, if there are such."""

_TOKENISED_AT_ONCE = 512
_PROGRESS_FROM_ROWS = 5_000


@dataclass
class DemonstrationCounts:
    """Numbers of rows, sequences and tokens of one file, and of those left out."""

    rows: int = 0
    sequences: int = 0
    """More than `rows` if the template drops the reasoning of earlier turns: then each turn is a sequence."""
    tokens: int = 0
    trained_tokens: int = 0
    """Tokens that are imitated."""
    longest_tokens: int = 0
    too_long: int = 0
    """Sequences over `data.max_length`: left out, or cut off under `data.too_long: truncate`."""
    without_answer: int = 0
    """Sequences left out because no imitated token remained, mostly after they were cut off; and rows in which the assistant answers nothing."""
    with_unrendered_tools: int = 0
    """Rows left out because they have tools, which the chat template does not render."""
    also_held_out: int = 0
    """Training sequences left out because an equal one is held out."""


@dataclass(frozen=True)
class DemonstrationFile:
    """Sequences in the format `DEMONSTRATION_SCHEMA`."""

    path: Path
    counts: DemonstrationCounts
    digest: str
    """Hash of all tokens and of the masks of imitation."""


@dataclass
class DemonstrationSource:
    """The demonstrations of a run; call `write` once.

    Args:
        data: location of the rows, and how they are chosen and rendered.
        tokenizer: the trained model's, from `load_tokenizer`.
        seed: the run's seed.
        folder: for the files.
    """

    data: SftDataSection
    tokenizer: PreTrainedTokenizerBase
    seed: int
    folder: Path
    _renderer: PromptRenderer = field(init=False)
    _held_out: set[bytes] = field(default_factory=set)
    _fault: str = ""
    """The first row in which the assistant answers nothing."""

    def __post_init__(self) -> None:
        self._renderer = PromptRenderer(self.tokenizer, self.data.system_prompt)

    def write(self) -> tuple[DemonstrationFile, DemonstrationFile]:
        """Write the training file and the held-out file, which may be empty.

        Raises:
            DataError: the data are missing, empty or malformed, or nothing is left to train on.
        """
        data = self.data
        rows = self._open(data.path, data.split)
        apart = self._open(data.eval_path, data.eval_split) if data.eval_samples and data.eval_path is not None else None
        train, held_out = self._split(rows, apart)
        self.folder.mkdir(parents=True, exist_ok=True)
        eval_file = self._written("eval", apart or rows, held_out)
        train_file = self._written("train", rows, train)
        if train_file.counts.sequences == 0:
            counts = train_file.counts
            if self._fault and counts.without_answer == counts.rows:
                raise DataError(self._fault)
            raise DataError(
                f"of the {counts.rows} rows of {data.path} none is left to train on: {counts.too_long} have more tokens than data.max_length "
                f"{data.max_length}, "
                f"{counts.without_answer} have no answer, {counts.with_unrendered_tools} have tools that the chat template does not render, "
                f"{counts.also_held_out} are held out as well; raise the limit or give more rows"
            )
        return train_file, eval_file

    def _open(self, path: str, split: str) -> Rows:
        rows = load_rows(local_path(path, self.folder, self.seed), name=self.data.name if path == self.data.path else None, split=split)
        for key in self._column_keys():
            column = getattr(self.data, key)
            if column not in rows.columns:
                raise DataError(
                    f"data.{key} {column!r} is not in the data; the columns there are {', '.join(rows.columns)}{_hint(key, rows.columns)}"
                )
        return rows

    def _column_keys(self) -> tuple[str, ...]:
        return ("messages_column",) if self.data.messages_column is not None else ("prompt_column", "completion_column")

    def _split(self, rows: Rows, apart: Rows | None) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers to train on, and to hold out. Drawn as the prompts of GRPO are, so that both hold out the same rows."""
        seed, data = self.seed % 2**64, self.data
        order = permutation(len(rows), seed, SUBSET_STREAM)
        if apart is not None:
            held_out = permutation(len(apart), seed, SUBSET_STREAM)[: data.eval_samples]
        else:
            held_out, order = np.split(order, [data.eval_samples])
        wanted = len(order) if data.train_samples == -1 else data.train_samples
        if not 0 < wanted <= len(order):
            held = f" of which {len(rows) - len(order)} are held out (data.eval_samples)" if len(order) < len(rows) else ""
            raise DataError(
                f"{data.path} has {len(rows)} rows,{held} and {max(wanted, 1)} are wanted for training; lower data.train_samples or data.eval_samples"
            )
        return np.sort(order[:wanted]), held_out

    def _written(self, name: str, rows: Rows, indices: np.ndarray) -> DemonstrationFile:
        counts, digest, path = DemonstrationCounts(rows=len(indices)), hashlib.blake2b(digest_size=16), self.folder / f"{name}.arrow"
        batches = [indices[start : start + _TOKENISED_AT_ONCE] for start in range(0, len(indices), _TOKENISED_AT_ONCE)]
        quiet, console = len(indices) < _PROGRESS_FROM_ROWS, Console(emoji=False, stderr=True)
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, DEMONSTRATION_SCHEMA) as writer:
            for batch in track(batches, f"tokenising {name} rows", console=console, transient=True, disable=quiet):
                kept = list(self._kept(self._samples(rows, batch.tolist(), counts), name == "eval", counts))
                for sample in kept:
                    digest.update(sample.token_ids_T.tobytes() + sample.trained_T.tobytes())
                writer.write_batch(_batch(kept))
        return DemonstrationFile(path, counts, digest.hexdigest())

    def _samples(self, rows: Rows, indices: Sequence[int], counts: DemonstrationCounts) -> list[Sample]:
        columns = [rows.values(getattr(self.data, key), indices) for key in self._column_keys()]
        values = list(zip(indices, *columns, strict=True))
        if not self._renderer.conversational:
            return [self._plain(rows, index, *value) for index, *value in values]
        beside = self._beside(rows, indices)
        rendered = (self._imitations(rows, counts, beside.get(index, {}), index, *value) for index, *value in values)
        return tokenise(self.tokenizer, list(chain.from_iterable(rendered)))

    def _beside(self, rows: Rows, indices: Sequence[int]) -> dict[int, dict[str, object]]:
        """The system message and the tools of each conversation, where the data have columns for them."""
        names = [name for name in BESIDE if name in rows.columns] if self.data.messages_column is not None else []
        columns = [rows.values(name, indices) for name in names]
        return {index: dict(zip(names, found, strict=True)) for index, *found in zip(indices, *columns, strict=True)}

    def _imitations(
        self, rows: Rows, counts: DemonstrationCounts, beside: Mapping[str, object], index: int, *value: object
    ) -> list[Imitation]:
        try:
            if len(value) == 1:
                system = next((text for name in SYSTEM if isinstance(text := beside.get(name), str) and text), self.data.system_prompt)
                messages, tools = conversation(value[0], system), tools_of(beside.get("tools"))
                require_rendered_tools(str(self.tokenizer.chat_template), messages, tools)
                return imitations(self.tokenizer, messages, tools=tools)
            messages = continued(self._renderer, *value)
            return imitations(self.tokenizer, messages, first=len(self._renderer.messages(value[0])))
        except NoAnswerError as error:
            self._fault = self._fault or f"{rows.location(index)}: column {self.data.messages_column or self.data.prompt_column!r} {error}"
            counts.without_answer += 1  # of thousands of talks from the web a few are cut short
            return []
        except NoToolsInTemplateError:
            counts.with_unrendered_tools += 1
            return []
        except ValueError as error:
            raise DataError(f"{rows.location(index)}: column {getattr(self.data, self._column_keys()[0])!r} {error}") from None

    def _plain(self, rows: Rows, index: int, *value: object) -> Sample:
        """Concatenate prompt and completion, without a chat template."""
        location = f"{rows.location(index)}: column {getattr(self.data, self._column_keys()[0])!r}"
        if len(value) == 1:
            raise DataError(f"{location}: conversations need a chat template and the tokenizer has none; set model.chat_template")
        if self.tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end token, so that a completion cannot end; set eos_token in its tokenizer_config.json")
        prompt, completion = value
        if not isinstance(completion, str):
            raise DataError(
                f"{rows.location(index)}: column {self.data.completion_column!r} holds {completion!r:.80}; a completion is text"
            )
        try:
            prompt_ids = self._renderer.tokenise([self._renderer.text(prompt, self._renderer.messages(prompt))])[0]
        except ValueError as error:
            raise DataError(f"{location} {error}") from None
        completion_ids = np.asarray(self.tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"], np.int32)
        token_ids_T = np.asarray([*prompt_ids, *completion_ids, self.tokenizer.eos_token_id], np.int32)
        return Sample(token_ids_T, np.arange(len(token_ids_T)) >= len(prompt_ids))

    def _kept(self, samples: Sequence[Sample], held_out: bool, counts: DemonstrationCounts) -> Iterator[Sample]:
        """Yield the samples that are used. Count all of them: used, or left out, by reason."""
        limit, cut = self.data.max_length, self.data.too_long == "truncate"
        for sample in samples:
            if len(sample.token_ids_T) > limit:
                counts.too_long += 1
                if not cut:
                    continue
                sample = Sample(sample.token_ids_T[:limit], sample.trained_T[:limit])
            sample.trained_T[0] = False
            digest = hashlib.blake2b(sample.token_ids_T.tobytes(), digest_size=16).digest()
            if not sample.trained_T.any():
                counts.without_answer += 1
            elif digest in self._held_out and not held_out:
                counts.also_held_out += 1
            else:
                if held_out:
                    self._held_out.add(digest)
                counts.sequences += 1
                counts.tokens += len(sample.token_ids_T)
                counts.trained_tokens += int(sample.trained_T.sum())
                counts.longest_tokens = max(counts.longest_tokens, len(sample.token_ids_T))
                yield sample


def _hint(key: str, columns: Sequence[str]) -> str:
    """Keys of `data` to set for rows with these columns, which lack the column that `key` names."""
    if talks := next((name for name in ("messages", "conversations") if name in columns), None):
        return f"; for whole conversations set data.messages_column: {talks}"
    if key == "messages_column" and {"prompt", "completion"} <= set(columns):
        return "; for a prompt and its completion set data.messages_column: null"
    if tuple(columns) == ("text",):
        return "; it is unknown which part of a text is to be imitated: split it into a prompt and a completion"
    return ""


def _batch(samples: Sequence[Sample]) -> pa.RecordBatch:
    arrays = [
        pa.array([sample.token_ids_T for sample in samples], DEMONSTRATION_SCHEMA.field("token_ids").type),
        pa.array([sample.trained_T for sample in samples], DEMONSTRATION_SCHEMA.field("trained").type),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=DEMONSTRATION_SCHEMA)
