"""What of a conversation is imitated: exactly the assistant's tokens and its end tokens, behind the prompts that an engine would be given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from actors.chat.messages import Message, messages_of
from actors.demonstrations.conversation import Imitation, Sample, continued, imitations, tokenise
from actors.prompts.asking import PromptRenderer
from learner.model.tiny_model import CHAT_TEMPLATE, build_tokenizer

QWEN = build_tokenizer()

DROPS_REASONING = """\
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if message['role'] == 'assistant' and not loop.last -%}{%- set content = content.split('</think>')[-1] -%}{%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""As Qwen3's and the R1 distillations' templates do to earlier turns."""

OPENS_A_TAG = CHAT_TEMPLATE.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'")
ANSWERS = "{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}"
WITHOUT_END = "{%- for message in messages -%}{{- message['role'] + ': ' + message['content'] -}}{%- endfor -%}" + ANSWERS


def merging_tokenizer(template: str, *merged: str) -> PreTrainedTokenizerFast:
    """Characters, and longer tokens where they occur; `E` ends."""
    alphabet = [chr(code) for code in range(32, 127)] + ["\n"]
    entries = ["E", *(character for character in alphabet if character != "E"), *merged]
    merges = [(pair[:-1], pair[-1]) for pair in merged]
    tokenizer = Tokenizer(models.BPE(vocab={entry: index for index, entry in enumerate(entries)}, merges=merges))
    tokenizer.decoder = decoders.Fuse()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="E", chat_template=template)


def talk(*contents: str, system: str | None = None) -> list[Message]:
    roles = ["user", "assistant"] * len(contents)
    found: list[Message] = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *found] if system else found


def samples(tokenizer: Any, messages: Sequence[Message], first: int = 1) -> list[Sample]:
    return tokenise(tokenizer, imitations(tokenizer, messages, first))


def imitated(tokenizer: Any, sample: Sample) -> list[str]:
    """The imitated runs of a sample, as text."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], sample.trained_T, [0]])))
    return [tokenizer.decode(sample.token_ids_T[start:end]) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def test_all_turns_of_the_assistant_are_imitated_with_their_end_token() -> None:
    (sample,) = samples(QWEN, talk("Hi", "Hello!", "1+1?", "<answer>2</answer>", system="Be kind"))
    assert imitated(QWEN, sample) == ["Hello!<|im_end|>", "<answer>2</answer><|im_end|>"]
    text = QWEN.apply_chat_template([dict(m) for m in talk("Hi", "Hello!", "1+1?", "<answer>2</answer>", system="Be kind")], tokenize=False)
    assert QWEN.decode(sample.token_ids_T) == text, "the whole conversation, once"


def test_the_prompt_of_a_turn_is_what_an_engine_is_given() -> None:
    renderer = PromptRenderer(QWEN, "Be kind")
    messages = continued(renderer.asked("1+1?"), "<answer>2</answer>")
    (sample,) = samples(QWEN, messages)
    prompt_ids = renderer.tokenise([renderer.rendered(renderer.asked("1+1?"))])[0]
    first = int(np.argmax(sample.trained_T))
    assert sample.token_ids_T[:first].tolist() == prompt_ids
    assert imitated(QWEN, sample) == ["<answer>2</answer><|im_end|>"]


def test_turns_of_the_prompt_are_not_imitated() -> None:
    prompt = [dict(message) for message in talk("Hi", "Hello!", "1+1?")]
    messages = continued(PromptRenderer(QWEN).asked(prompt), [{"role": "assistant", "content": "2"}])
    (sample,) = samples(QWEN, messages, first=len(prompt))
    assert imitated(QWEN, sample) == ["2<|im_end|>"]


def test_a_template_that_drops_earlier_reasoning_makes_a_sequence_of_each_turn() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = DROPS_REASONING
    found = samples(tokenizer, talk("a", "<think>x</think>1", "b", "<think>y</think>2"))
    assert [imitated(tokenizer, sample) for sample in found] == [["<think>x</think>1<|im_end|>"], ["<think>y</think>2<|im_end|>"]]
    assert "<think>x" not in tokenizer.decode(found[1].token_ids_T), "the second turn sees the first as the template shows it"
    assert [imitated(tokenizer, sample) for sample in samples(tokenizer, talk("a", "1", "b", "2"))] == [["1<|im_end|>", "2<|im_end|>"]]


def test_a_template_whose_generation_prompt_the_answer_does_not_continue_is_refused() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = OPENS_A_TAG
    with pytest.raises(ValueError, match="not rendered after the generation prompt.*set model.chat_template"):
        imitations(tokenizer, talk("a", "b"))
    (sample,) = samples(tokenizer, talk("a", "<think>\nx</think>"))
    assert imitated(tokenizer, sample) == ["x</think><|im_end|>"], "the tag is the prompt's"


def test_an_answer_that_the_template_does_not_end_is_ended() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = WITHOUT_END
    (sample,) = samples(tokenizer, talk("a", "b"))
    assert imitated(tokenizer, sample) == ["b<|im_end|>"]


@pytest.mark.parametrize("merged", ["\n\n", ":x"])
def test_no_token_is_partly_imitated(merged: str) -> None:
    """Tokenised as one text, the end of the prompt and the beginning of the answer would be one token, which no engine is ever given."""
    message = f"{{{{- m['role'] + {merged[0]!r} + m['content'] + 'E\n' -}}}}"
    prompt = f"{{{{- 'assistant' + {merged[0]!r} -}}}}"
    template = f"{{%- for m in messages -%}}{message}{{%- endfor -%}}{{%- if add_generation_prompt -%}}{prompt}{{%- endif -%}}"
    tokenizer = merging_tokenizer(template, merged)
    content = merged[1] + "yes"
    (text,) = imitations(tokenizer, talk("q", content))
    assert tokenizer.convert_tokens_to_ids(merged) in tokenizer(text.text, add_special_tokens=False)["input_ids"]
    (sample,) = tokenise(tokenizer, [text])
    assert imitated(tokenizer, sample) == [content + "E"]
    prompt_ids = tokenizer(text.text[: text.spans[0][0]], add_special_tokens=False)["input_ids"]
    assert sample.token_ids_T[: len(prompt_ids)].tolist() == prompt_ids and not sample.trained_T[: len(prompt_ids)].any()


def test_a_merge_away_from_the_border_stays() -> None:
    tokenizer = merging_tokenizer("", "ye")
    (sample,) = tokenise(tokenizer, [Imitation("ask yes", ((4, 7),))])
    assert sample.token_ids_T.tolist() == tokenizer("ask yes")["input_ids"] and len(sample.token_ids_T) == 6
    assert imitated(tokenizer, sample) == ["yes"]


def test_a_slow_tokenizer_makes_the_same_masks() -> None:
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "</s>").replace("<|im_start|>", "#")
    (sample,) = samples(tokenizer, talk("Hi", "Hello!", "1+1?", "2"))
    assert imitated(tokenizer, sample) == ["Hello!</s>", "2</s>"]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("text", "a conversation is a list of chat messages"),
        ([], "a conversation is a list"),
        ([{"role": "user"}], "a message has the texts"),
        ([{"role": "user", "content": 3}], "a message has the texts"),
        ([{"from": "narrator", "value": "x"}], "a message has the texts"),
        ([3], "a message has the texts"),
    ],
)
def test_what_is_no_conversation_is_refused(value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        messages_of(value)


def test_sharegpt_names_and_the_system_prompt() -> None:
    def messages(value: Any, **beside: str) -> list[Message]:
        return PromptRenderer(QWEN, "Be kind").with_system(messages_of(value), beside, [])

    value = [{"from": "human", "value": "a", "weight": None}, {"from": "gpt", "value": "b"}]
    assert messages(value) == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    assert messages(value, system_prompt="Be brief")[0] == {"role": "system", "content": "Be brief"}
    assert messages([{"role": "system", "content": "own"}]) == [{"role": "system", "content": "own"}]
    assert messages_of([{"role": "user", "content": "a", "name": "Ann"}])[0]["name"] == "Ann", "other keys are the template's"


@pytest.mark.parametrize("messages", [[], talk("a"), [{"role": "assistant", "content": "first"}]])
def test_without_an_answer_there_is_nothing_to_imitate(messages: list[Message]) -> None:
    with pytest.raises(ValueError, match="no message of the assistant that answers another"):
        imitations(QWEN, messages)


@pytest.mark.parametrize(
    ("prompt", "completion", "told"),
    [
        ([{"role": "assistant", "content": "a"}], "b", "ends with a message of the assistant"),
        ("a", [{"role": "user", "content": "b"}], "a completion begins with the assistant's"),
        ("a", None, "a conversation is a list"),
    ],
)
def test_a_completion_is_the_assistants_answer(prompt: Any, completion: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        continued(PromptRenderer(QWEN, final_answer="continue").asked(prompt), completion)
