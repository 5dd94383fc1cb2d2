"""The tokenizer and its chat template: a prompt in a data set -> chat messages -> the text and token ids that the model reads.

Conversations to imitate, with the answers in them, are rendered in `actors.demonstrations.conversation`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from actors.prompts.asking import Asked, PromptRenderer, beside_of, columns_beside
from actors.rows.rows import Rows
from configs.contracts.errors import DataError
from configs.contracts.records import Prompt, PromptId
from configs.schema.data import DataSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROJECT = Path(__file__).parents[2]
"""The folder that holds the packages: a clone, or site-packages."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_NEEDED = re.compile(r"\{#- needs the tokens: (.+?) -#\}")
_BEGINNING = "{#- begins as the tokenizer begins a text -#}"
"""Comments of the templates in `configs/templates`, of which one fits tokenizers of several models."""

_TAG_REWARDS = ("format", "tag_count", "think_format", "code_format")
"""Rewards that expect opening tags in the completion."""


def load_tokenizer(
    model_path: str,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    revision: str | None = None,
    eos_token: str | None = None,
) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Args:
        model_path: local folder or hub id.
        chat_template: Jinja text, or the path of a file that holds it, instead of the tokenizer's own.
        trust_remote_code: run code that comes with the model.
        revision: branch, tag or commit on the hub.
        eos_token: a token that ends an answer, instead of the tokenizer's own.

    Raises:
        DataError: the model cannot be reached or has no tokenizer, the tokenizer loses parts of texts, the template or the token does not exist,
            or the tokenizer lacks a token that the template needs.
    """
    from transformers import AutoTokenizer

    folder = Path(model_path).expanduser()
    if not folder.is_dir() and (folder.is_absolute() or model_path.startswith(".") or model_path.count("/") > 1):
        raise DataError(f"model folder {model_path} does not exist; give a model's folder, or a hub id such as Qwen/Qwen2.5-0.5B-Instruct")
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
    _require_whole_texts(tokenizer, model_path, revision)
    if chat_template is not None:
        tokenizer.chat_template = _fitted(read_template(chat_template), tokenizer, model_path)
    if eos_token is not None:
        if eos_token not in tokenizer.get_vocab():
            specials = ", ".join(map(str, tokenizer.all_special_tokens)) or "none"
            raise DataError(
                f"model.eos_token {eos_token!r} is not a token of {model_path}; give one that it has (special tokens: {specials})"
            )
        tokenizer.eos_token = eos_token
    return tokenizer


def _require_whole_texts(tokenizer: PreTrainedTokenizerBase, model_path: str, revision: str | None) -> None:
    """Refuse a tokenizer that transformers makes anew by its class, if it then loses blanks that tokenizer.json keeps.

    Tokenizers of DeepSeek name LlamaTokenizerFast. Transformers 5 corrects that by the model's type or hub id, but not in every folder.

    Raises:
        DataError: it does.
    """
    from transformers import PreTrainedTokenizerFast

    if not tokenizer.is_fast or _keeps_blanks(tokenizer):
        return
    try:
        as_published = PreTrainedTokenizerFast.from_pretrained(model_path, revision=revision or "main")
    except (OSError, ValueError):  # it has no tokenizer.json
        return
    if _keeps_blanks(as_published):
        raise DataError(
            f"the tokenizer of {model_path} is loaded as {type(tokenizer).__name__}, which loses the blanks of texts, and its tokenizer.json keeps "
            'them; write "tokenizer_class": "TokenizersBackend" into tokenizer_config.json of a copy of the model, and give that as model.path'
        )


def _keeps_blanks(tokenizer: PreTrainedTokenizerBase) -> bool:
    text = "a b\n c"
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def read_template(chat_template: str) -> str:
    """Read `model.chat_template`: Jinja text, or the path of a file that holds it.

    Raises:
        DataError: it is neither, or it is not known which file is meant.
    """
    if "{{" in chat_template or "{%" in chat_template:
        return chat_template
    try:
        return _template_file(chat_template).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"model.chat_template {chat_template!r} is neither a Jinja template nor a readable file ({error.strerror}); give one of them"
        ) from None


def _fitted(template: str, tokenizer: PreTrainedTokenizerBase, model_path: str) -> str:
    """Fit a template of `configs/templates` to a tokenizer: with BOS if the tokenizer itself begins texts with it.

    Raises:
        DataError: the tokenizer lacks a token that the template needs.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for tokens in _NEEDED.findall(template) for token in tokens.split() if token not in vocabulary]
    if missing:
        raise DataError(
            f"the chat template writes {', '.join(missing)}, which {model_path} has not as one token, so that the model would read its letters; "
            "give model.chat_template a template of the model's family, or one of plain text such as configs/templates/vicuna.jinja"
        )
    begins = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
    return template.replace(_BEGINNING, "{{- bos_token -}}" if begins else "")


def _template_file(name: str) -> Path:
    """Find the file. `configs/templates/...` means the packaged template, which `./configs/templates/...` never does outside a clone.

    Raises:
        DataError: the current folder has another file of that name, so that it is not known which one is meant.
    """
    path, packaged = Path(name).expanduser(), PROJECT / name
    if not name.startswith("configs/templates/") or not packaged.is_file():
        return path
    if path.is_file() and path.read_bytes() != packaged.read_bytes():
        raise DataError(
            f"model.chat_template {name} is a packaged template, and the current folder has another file of this name; give ./{name} for that "
            f"file, or {packaged} for the packaged one"
        )
    return packaged


class Notes:
    """All that was converted, or not used, in rows that are used: a clause -> the number of rows and the location of the first."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, clauses: Sequence[str], location: str) -> None:
        """Count a row under each clause."""
        for clause in clauses:
            number, first = self._found.get(clause, (0, location))
            self._found[clause] = number + 1, first

    def sentences(self) -> Iterator[str]:
        """One sentence for each clause."""
        for clause, (number, first) in self._found.items():
            yield f"prompts that {clause}: {number:,} (the first: {first})"


@dataclass(frozen=True)
class PromptMaker:
    """A row of a data set -> `Prompt`. Errors name the row."""

    renderer: PromptRenderer
    column: str
    """Column of the prompt."""
    beside: tuple[str, ...] = ()
    """Columns that belong to the prompt where rows have them, from `columns_beside`."""
    notes: Notes = field(default_factory=Notes)
    """Of the rows given to `texts`."""

    @property
    def columns_read(self) -> frozenset[str]:
        """The columns that a prompt is made of."""
        return frozenset({self.column, *self.beside})

    @classmethod
    def of(cls, data: DataSection, tokenizer: PreTrainedTokenizerBase) -> PromptMaker:
        """Make the maker of a run's prompts.

        Raises:
            DataError: `data.system_prompt` carries marks of a chat template.
        """
        renderer = PromptRenderer(tokenizer, data.system_prompt, data.final_answer)
        return cls(renderer, data.prompt_column, columns_beside(data, data.prompt_column))

    def texts(self, rows: Rows, indices: Sequence[int], values: Sequence[object]) -> list[str]:
        """Render prompts, and note what is odd about them.

        Args:
            values: of the prompt column, one for each row.

        Raises:
            DataError: one cannot be rendered.
        """
        beside, found = beside_of(rows, self.beside, indices), []
        for index, value, other in zip(indices, values, beside, strict=True):
            asked, text = self._rendered(value, other, rows.location(index))
            self.notes.add(asked.notes, rows.location(index))
            found.append(text)
        return found

    def prompt(self, prompt_id: PromptId, row: Mapping[str, object], location: str) -> Prompt:
        """Render and tokenise the prompt of a row.

        Raises:
            DataError: the prompt cannot be rendered.
        """
        columns = dict(row)
        value = columns.pop(self.column)
        asked, text = self._rendered(value, {name: columns[name] for name in self.beside if name in columns}, location)
        return Prompt(
            id=prompt_id,
            token_ids=tuple(self.renderer.tokenise([text])[0]),
            text=text,
            columns=columns,
            conversational=self.renderer.conversational,
            messages=asked.messages,
        )

    def _rendered(self, value: object, beside: Mapping[str, object], location: str) -> tuple[Asked, str]:
        try:
            asked = self.renderer.asked(value, beside)
            return asked, self.renderer.rendered(asked)
        except ValueError as error:
            raise DataError(f"{location}: column {self.column!r} {error}") from None


def template_warnings(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, reward_names: Sequence[str]) -> Iterator[str]:
    """Yield a warning if a rendered prompt already ends with a tag that the rewards look for, or begins with BOS twice."""
    looking = [name for name in reward_names if name in _TAG_REWARDS]
    opening = re.search(r"<[a-z_]+>\s*$", prompt.text)
    if looking and opening and prompt.conversational:
        yield (
            f"the chat template ends the prompt with {opening[0].strip()}, so that no completion can hold it, but the rewards "
            f"{' and '.join(looking)} look for it there; set model.chat_template to one that leaves it out"
        )
    if tokenizer.bos_token_id is not None and prompt.token_ids[:2] == (tokenizer.bos_token_id,) * 2:
        where = "chat template" if prompt.conversational else "text of the prompts"
        yield (
            f"prompts begin with {tokenizer.bos_token} twice, which no model was trained on: the {where} writes it, and so does something else; "
            "take it out of the template, the system prompt or the data"
        )
