"""A prompt as a data set holds it -> chat messages -> the text and the token ids that the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptRenderer:
    """A prompt as it stands in a column -> the text that the model reads.

    With a chat template, a string becomes one user message after the system prompt. Without one, it stays plain text.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None = None

    @property
    def conversational(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def messages(self, prompt: Any) -> tuple[dict[str, str], ...]:
        """Chat messages of a prompt column's value; none for plain text. Messages that begin with a system message keep it.

        Raises:
            ValueError: it is neither text nor messages, or needs a chat template that the tokenizer does not have.
        """
        if not isinstance(prompt, (str, list)) or not prompt or (isinstance(prompt, str) and not prompt.strip()):
            raise ValueError(f"holds {prompt!r}; a prompt is text or a list of chat messages")
        if not self.conversational:
            if isinstance(prompt, list) or self.system_prompt is not None:
                what = "data.system_prompt" if isinstance(prompt, str) else "a prompt of chat messages"
                raise ValueError(f"cannot be rendered: {what} needs a chat template and the tokenizer has none; set model.chat_template")
            return ()
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [_checked_message(part) for part in prompt]
        if self.system_prompt is not None and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return tuple(messages)

    def text(self, prompt: Any, messages: Sequence[Mapping[str, str]]) -> str:
        """The rendered prompt, ready for the completion. A last message of the assistant is a beginning to go on with.

        Raises:
            ValueError: the template refuses the messages.
        """
        if not messages:
            return prompt
        from jinja2 import TemplateError

        begun = messages[-1]["role"] == "assistant"
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=not begun, continue_final_message=begun
            )
        except TemplateError as error:
            raise ValueError(f"is refused by the chat template: {error}; correct the row or model.chat_template") from None
        return str(rendered)

    def tokenise(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered prompts. A template writes its own BOS: adding special tokens again would double it."""
        return self.tokenizer(texts, add_special_tokens=not self.conversational, verbose=False)["input_ids"]  # type: ignore[return-value]


def _checked_message(message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
        raise ValueError(f"holds the message {message!r}; a message has the texts `role` and `content`")
    return {"role": message["role"], "content": message["content"]}
