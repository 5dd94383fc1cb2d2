"""Data sets -> a deterministic, resumable, validated stream of prompts.

    rows ── subset, hold out ── render by the chat template ── leave out what is too long ── shuffle anew every epoch ──► Prompt

Nothing of a row but its number and a digest is kept in memory: a prompt is rendered again when it is drawn, so that any
prompt can be made again from its id alone. The order depends on the seed only, not on the platform.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import track

from actors.addition import write_addition
from actors.rendering import PromptRenderer
from actors.rows import Rows, load_rows
from cluster.errors import CheckpointError, DataError
from cluster.records import Prompt, PromptId
from configs.schema import BUILTIN, DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

EVAL_EPOCH = -1
"""Epoch in the ids of held-out prompts, so that they never coincide with those of training."""

_SUBSET_STREAM = 2**64 - 1
"""Random stream that draws held-out rows and the subset; streams 0, 1, ... shuffle the epochs."""

_TOKENISED_AT_ONCE = 512
_PROGRESS_FROM_ROWS = 5_000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_TAG_REWARDS = ("format", "tag_count", "think_format", "code_format")
"""Rewards that look for opening tags in the completion."""


def load_tokenizer(
    model_path: str, chat_template: str | None = None, trust_remote_code: bool = False, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Args:
        model_path: local folder or hub id.
        chat_template: Jinja text, or the path of a file that holds it, instead of the tokenizer's own.
        trust_remote_code: run code that comes with the model.
        revision: branch, tag or commit on the hub.

    Raises:
        DataError: the model has no tokenizer, cannot be reached, or there is no such template.
    """
    from transformers import AutoTokenizer

    folder = Path(model_path).expanduser()
    if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER_FILES):
        there = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise DataError(f"model folder {model_path} holds no tokenizer ({there} there); save the model's tokenizer into it")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder) if folder.is_dir() else model_path, trust_remote_code=trust_remote_code, revision=revision
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"the tokenizer of model {model_path} cannot be loaded: {reason}; check model.path") from None
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template)
    return tokenizer


def _read_template(chat_template: str) -> str:
    if "{{" in chat_template or "{%" in chat_template:
        return chat_template
    try:
        return Path(chat_template).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"model.chat_template {chat_template!r} is neither a Jinja template nor a readable file ({error.strerror}); give one of them"
        ) from None


def render_demonstration(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, demonstration: str) -> tuple[list[int], list[int]]:
    """A supervised example: the prompt's token ids, and those of the completion to imitate with the end token after it."""
    if tokenizer.eos_token_id is None:
        raise DataError("the tokenizer has no end token, so that a demonstration cannot end; set eos_token in its tokenizer_config.json")
    token_ids = tokenizer(demonstration, add_special_tokens=False, verbose=False)["input_ids"]
    return list(prompt.token_ids), [*token_ids, tokenizer.eos_token_id]  # type: ignore[list-item]


@dataclass(frozen=True)
class PromptCounts:
    """What became of the rows of a data set."""

    trained: int
    held_out: int
    too_long: int
    """Left out because they have more than `data.max_prompt_length` tokens, training and held-out together."""
    also_held_out: int
    """Left out of training because a held-out prompt has the same text."""
    longest_tokens: int
    """Length of the longest prompt that is used."""


@dataclass
class _Fitting:
    """Rows whose prompts are short enough: row number -> digest of the rendered text, in the order given."""

    digests: dict[int, bytes]
    too_long: int = 0
    longest_tokens: int = 0


class PromptSource:
    """The prompts of a run, drawn one after another.

    Example: `source.next().id == PromptId(0, 4711)`; after `cursor = source.cursor()`, another source of the same data goes
    on at the same place with `restore(cursor)`; `source.prompt(PromptId(0, 4711))` makes that prompt again.

    Args:
        data: where the rows are and what to make of them.
        tokenizer: of the model that is trained, from `load_tokenizer`.
        seed: the run's seed.
        folder: where the rows of a `builtin:` data set are written.
        epochs: draw every row so many times (a fraction of an epoch counts); None goes on for ever.
        reward_names: the chosen rewards, to warn when the template takes from the completion what they look for.

    Raises:
        DataError: the data are missing, empty or malformed, or no prompt is short enough.
    """

    def __init__(
        self,
        data: DataSection,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int,
        folder: Path,
        epochs: float | None = None,
        reward_names: Sequence[str] = (),
    ) -> None:
        self._data = data
        self._seed = seed % 2**64
        self._renderer = PromptRenderer(tokenizer, data.system_prompt)
        self._rows = self._open(data.path, data.name, data.split, folder, seed)
        own_eval = data.eval_samples and data.eval_path is not None
        eval_name = data.name if data.eval_path == data.path else None
        self._eval_rows = self._open(str(data.eval_path), eval_name, data.eval_split, folder, seed) if own_eval else self._rows
        train, held_out = self._split()
        eval_fitting = self._fitting(self._eval_rows, held_out, "held-out")
        fitting = self._fitting(self._rows, train, "training")
        known = set(eval_fitting.digests.values())
        kept = {index: digest for index, digest in fitting.digests.items() if digest not in known}
        if not kept:
            raise DataError(
                f"every prompt of {data.path} is held out as well, so that nothing is left to train on; use another data.eval_path"
            )
        self._train = np.fromiter(kept, dtype=np.int64)
        self._eval = list(eval_fitting.digests)
        self.counts = PromptCounts(
            trained=len(kept),
            held_out=len(self._eval),
            too_long=fitting.too_long + eval_fitting.too_long,
            also_held_out=len(fitting.digests) - len(kept),
            longest_tokens=max(fitting.longest_tokens, eval_fitting.longest_tokens),
        )
        self._digest = hashlib.blake2b(b"".join(kept.values()) + f"{self._seed}/{data.shuffle}".encode(), digest_size=16).hexdigest()
        self._limit = None if epochs is None else math.ceil(epochs * len(kept))
        self._drawn = 0
        self._order: tuple[int, np.ndarray] | None = None
        self._report(reward_names)

    def __len__(self) -> int:
        """Prompts in one epoch."""
        return len(self._train)

    def next(self) -> Prompt | None:
        """The next prompt, or None after the last epoch."""
        if self._limit is not None and self._drawn >= self._limit:
            return None
        epoch, position = divmod(self._drawn, len(self))
        self._drawn += 1
        return self.prompt(PromptId(epoch, int(self._epoch_order(epoch)[position])))

    def prompt(self, prompt_id: PromptId) -> Prompt:
        """The prompt with this id, the same whenever it is made. Does not move the stream."""
        rows = self._eval_rows if prompt_id.epoch == EVAL_EPOCH else self._rows
        if not 0 <= prompt_id.index < len(rows):
            raise DataError(f"prompt {prompt_id} is not in the data, which have {len(rows)} rows; resume with the data of the run")
        row = rows.row(prompt_id.index)
        value = row.pop(self._data.prompt_column)
        messages, text = self._rendered(rows, prompt_id.index, value)
        return Prompt(
            id=prompt_id,
            token_ids=tuple(self._renderer.tokenise([text])[0]),
            text=text,
            columns=row,
            conversational=self._renderer.conversational,
            messages=messages,
        )

    def canary_prompt(self) -> Prompt:
        """A prompt of the training data, always the same. Does not move the stream."""
        return self.prompt(PromptId(0, int(self._train[0])))

    def eval_prompts(self) -> list[Prompt]:
        """The held-out prompts, always in the same order; their ids have the epoch `EVAL_EPOCH`."""
        return [self.prompt(PromptId(EVAL_EPOCH, index)) for index in self._eval]

    def demonstrations(self, column: str) -> list[tuple[list[int], list[int]]]:
        """Every training row as a supervised example: token ids of the prompt, and of the demonstration with its end token.

        Raises:
            DataError: there is no such column, or a row holds no text there.
        """
        self._require(self._rows, column, "learner.warm_start.demonstration_column")
        return [self._demonstration(int(index), column) for index in self._train]

    def cursor(self) -> dict[str, Any]:
        """Where the stream stands, as JSON."""
        return {"drawn": self._drawn, "data": self._digest}

    def restore(self, cursor: Mapping[str, Any]) -> None:
        """Go on where `cursor` was taken.

        Raises:
            CheckpointError: it was taken from other data, another order or another rendering.
        """
        if cursor["data"] != self._digest:
            raise CheckpointError(
                f"the checkpoint was made with other prompts than {self._data.path} gives now "
                "(data, seed, template or length limit changed); restore them, or start a new run in another out_dir"
            )
        self._drawn = int(cursor["drawn"])

    def _open(self, path: str, name: str | None, split: str, folder: Path, seed: int) -> Rows:
        if path.startswith(BUILTIN):
            if path != f"{BUILTIN}addition":
                raise DataError(f"data set {path} is not known; the only one that is made on the spot is {BUILTIN}addition")
            path = str(write_addition(folder, seed))
        rows = load_rows(path, name=name, split=split)
        self._require(rows, self._data.prompt_column, "data.prompt_column")
        return rows

    @staticmethod
    def _require(rows: Rows, column: str, key: str) -> None:
        if column not in rows.columns:
            raise DataError(f"{key} {column!r} is not in the data; the columns there are {', '.join(rows.columns)}")

    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers to train on, and to hold out."""
        order = permutation(len(self._rows), self._seed, _SUBSET_STREAM)
        if self._eval_rows is not self._rows:
            held_out = permutation(len(self._eval_rows), self._seed, _SUBSET_STREAM)[: self._data.eval_samples]
        else:
            held_out, order = np.split(order, [self._data.eval_samples])
        wanted = len(order) if self._data.train_samples == -1 else self._data.train_samples
        if not 0 < wanted <= len(order):
            held = f" of which {len(self._rows) - len(order)} are held out (data.eval_samples)" if len(order) < len(self._rows) else ""
            raise DataError(
                f"{self._data.path} has {len(self._rows)} rows,{held} and {max(wanted, 1)} are wanted for training; "
                "lower data.train_samples or data.eval_samples"
            )
        return np.sort(order[:wanted]), held_out

    def _fitting(self, rows: Rows, indices: np.ndarray, purpose: str) -> _Fitting:
        """Which of these rows are short enough; `purpose` is for people."""
        fitting, shortest = _Fitting({}), math.inf
        batches = np.array_split(indices, max(1, math.ceil(len(indices) / _TOKENISED_AT_ONCE)))
        quiet, console = len(indices) < _PROGRESS_FROM_ROWS, Console(stderr=True)
        for batch in track(batches, f"tokenising {purpose} prompts", console=console, transient=True, disable=quiet):
            for index, text, tokens in self._measured(rows, batch.tolist()):
                shortest = min(shortest, tokens)
                if tokens > self._data.max_prompt_length:
                    fitting.too_long += 1
                    continue
                fitting.digests[index] = hashlib.blake2b(text.encode(), digest_size=16).digest()
                fitting.longest_tokens = max(fitting.longest_tokens, tokens)
        if len(indices) and not fitting.digests:
            raise DataError(
                f"every one of the {len(indices)} {purpose} prompts is longer than data.max_prompt_length {self._data.max_prompt_length}; "
                f"the shortest has {shortest} tokens: raise the limit to at least that"
            )
        return fitting

    def _measured(self, rows: Rows, indices: list[int]) -> Iterable[tuple[int, str, int]]:
        """Row number, rendered text and length in tokens."""
        values = rows.values(self._data.prompt_column, indices)
        texts = [self._rendered(rows, index, value)[1] for index, value in zip(indices, values, strict=True)]
        lengths = map(len, self._renderer.tokenise(texts)) if texts else ()
        return zip(indices, texts, lengths, strict=True)

    def _rendered(self, rows: Rows, index: int, value: Any) -> tuple[tuple[dict[str, str], ...], str]:
        try:
            messages = self._renderer.messages(value)
            return messages, self._renderer.text(value, messages)
        except ValueError as error:
            raise DataError(f"{rows.place(index)}: column {self._data.prompt_column!r} {error}") from None

    def _demonstration(self, index: int, column: str) -> tuple[list[int], list[int]]:
        prompt = self.prompt(PromptId(0, index))
        demonstration = prompt.columns.get(column)
        if not isinstance(demonstration, str):
            raise DataError(f"{self._rows.place(index)}: column {column!r} holds {demonstration!r}; a demonstration is text")
        return render_demonstration(self._renderer.tokenizer, prompt, demonstration)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        if self._order is None or self._order[0] != epoch:
            order = self._train[permutation(len(self), self._seed, epoch)] if self._data.shuffle else self._train
            self._order = (epoch, order)
        return self._order[1]

    def _report(self, reward_names: Sequence[str]) -> None:
        counts = self.counts
        if counts.too_long:
            logger.warning(
                "%d prompts have more than data.max_prompt_length %d tokens and are left out", counts.too_long, self._data.max_prompt_length
            )
        if counts.also_held_out:
            logger.warning("%d training prompts equal a held-out prompt and are left out", counts.also_held_out)
        looking = [name for name in reward_names if name in _TAG_REWARDS]
        opening = re.search(r"<[a-z_]+>\s*$", self.canary_prompt().text)
        if looking and opening and self._renderer.conversational:
            logger.warning(
                "the chat template ends the prompt with %s, so that no completion can hold it, but the rewards %s look for it there; "
                "set model.chat_template to one that leaves it out",
                opening[0].strip(),
                " and ".join(looking),
            )


def permutation(count: int, seed: int, stream: int) -> np.ndarray:
    """0 .. count-1 shuffled. Sorting raw Philox words: numpy promises those, unlike its shuffles, to stay the same for ever."""
    words = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")
