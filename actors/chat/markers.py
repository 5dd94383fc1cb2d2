"""The marks that a chat template writes around messages, and texts that carry such marks already: to wrap them once more would be wrong.

<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n     whole: it is what the template would make, and stays as it is
<|im_start|>user\nWhat is 2+2?<|im_end|>                              begun: it is no message, and no prompt either
What does <|im_end|> mean?                                            stray: a message in which the tokenizer sees a mark
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from actors.chat.templates import rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOREIGN = (
    *("<|im_start|>", "<|start_header_id|>", "[INST]", "<<SYS>>", "<start_of_turn>", "<|user|>", "<|system|>", "<｜User｜>"),
    *("<|header_start|>", "<|start|>", "<reserved_102>", "<reserved_106>"),
)
"""Marks with which the messages of well-known families begin."""

BEGINNINGS = ("<s>", "<bos>", "<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<|startoftext|>")
"""Marks with which their texts begin."""

_ASKED, _ANSWERED, _NEXT = "QfirstQ", "QanswerQ", "QnextQ"

Carried = Literal["whole", "begun", "stray", "none"]


@dataclass(frozen=True)
class Markers:
    """The marks of one chat template."""

    begins: str
    """The token with which the tokenizer's texts begin, if the template writes it."""
    marks: tuple[str, ...]
    """The tokenizer's own tokens that the template writes around messages, without `begins`."""
    opening: tuple[str, ...]
    """Text at the beginning of a prompt: marks, or words such as `USER:` or `[INST]`."""
    asking: str
    """Text behind the last message of the user, stripped: `<|im_end|>\\n<|im_start|>assistant`, `[/INST]`, `ASSISTANT:`."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Markers:
        """Find the marks by rendering a short talk. A template that refuses it has none that are known."""
        talk = [
            {"role": "user", "content": _ASKED},
            {"role": "assistant", "content": _ANSWERED},
            {"role": "user", "content": _NEXT},
        ]
        try:
            text = rendered(tokenizer, talk, asks=False)
            asked = rendered(tokenizer, talk[:1], asks=True)
        except ValueError:
            return cls("", (), FOREIGN, "")
        own = _tokens_in(tokenizer, text)
        begins = str(tokenizer.bos_token) if tokenizer.bos_token and text.startswith(str(tokenizer.bos_token)) else ""
        marks = tuple(token for token in own if token != begins)
        between = text.partition(_ANSWERED)[2].partition(_NEXT)[0]
        before = asked.partition(_ASKED)[0].removeprefix(begins)
        first = [mark for mark in marks if before.lstrip().startswith(mark)]
        words = _last_words(between, own)
        return cls(begins, marks, (*first, *((words,) if words and not first else ())), asked.partition(_ASKED)[2].strip())

    def carried(self, text: str) -> tuple[Carried, str]:
        """Tell which marks a text carries, and the first of them."""
        bare = text.strip()
        begins = next((mark for mark in (self.begins, *BEGINNINGS) if mark and bare.startswith(mark)), "")
        bare = bare.removeprefix(begins).lstrip()
        mark = next((mark for mark in (*self.opening, *FOREIGN) if bare.startswith(mark) and mark in (*self.marks, *FOREIGN)), "")
        own = next((words for words in self.opening if words in bare), "") if self.asking and self.asking in bare else ""
        if mark or own:
            return ("whole" if own and self._asks(bare) else "begun"), own or mark
        stray = begins or next((mark for mark in (self.begins, *self.marks) if len(mark) > 1 and mark in text), "")
        return ("stray", stray) if stray else ("none", "")

    def answer_begun(self, text: str) -> str:
        """The beginning of the assistant's answer at the end of a whole text, stripped."""
        return text.rpartition(self.asking)[2].strip()

    def with_beginning(self, text: str) -> str:
        """A whole text, with the token that begins texts."""
        begins = next((mark for mark in BEGINNINGS if text.lstrip().startswith(mark)), self.begins)
        return self.begins + text.lstrip().removeprefix(begins) if self.begins or begins else text

    def _asks(self, bare: str) -> bool:
        """Look whether a text ends by asking the assistant, perhaps with the beginning of its answer."""
        end = bare.rpartition(self.asking) if self.asking else ("", "", "")
        return bool(end[1]) and not any(mark in end[2] for mark in (*self.marks, *self.opening))


def _tokens_in(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The special and added tokens of the tokenizer that occur in a text."""
    added = [str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()]
    known = dict.fromkeys([*map(str, tokenizer.all_special_tokens), *added])
    return [token for token in known if token.strip() and token in text]


def _last_words(between: str, tokens: list[str]) -> str:
    """Text between the last token and the user's words: `USER:`, `[INST]`; nothing of a single letter."""
    for token in tokens:
        between = between.rpartition(token)[2] if token in between else between
    words = between.strip()
    return words if len(words) > 1 else ""
