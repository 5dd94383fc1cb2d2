"""The templates of MedicalGPT's `template_name`: the exact text of a dialogue, and a refusal where the tokenizer lacks a token of the layout."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from actors.demonstrations.conversation import imitations, tokenise
from actors.prompts.rendering import load_tokenizer
from configs.contracts.errors import DataError
from configs.recipes.sft_keys import END_TOKENS, TEMPLATES
from tests import REPOSITORY

MARKS = [
    *("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    *("<reserved_102>", "<reserved_103>", "<reserved_106>", "<reserved_107>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
]
TALK = [("user", "1+1?"), ("assistant", " two "), ("user", "再加一？"), ("assistant", "三")]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
USER, ASSISTANT = HEADER.format("user"), HEADER.format("assistant")
LLAMA3 = f"{USER}1+1?<|eot_id|>{ASSISTANT} two <|eot_id|>{USER}再加一？<|eot_id|>{ASSISTANT}三<|eot_id|>"
CHATML = (
    "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n two <|im_end|>\n"
    "<|im_start|>user\n再加一？<|im_end|>\n<|im_start|>assistant\n三<|im_end|>\n"
)
EXPECTED = {
    "vicuna": (
        f"<s>{VICUNA}</s>USER: 1+1? ASSISTANT: two </s>USER: 再加一？ ASSISTANT:三</s>",
        "<s>Be kind.</s>USER: 1+1? ASSISTANT: two </s>USER: 再加一？ ASSISTANT:三</s>",
    ),
    "alpaca": (
        f"<s>{ALPACA}\n\n### Instruction:\n1+1?\n\n### Response:\n two </s>\n\n### Instruction:\n再加一？\n\n### Response:\n三</s>",
        "<s>Be kind.\n\n### Instruction:\n1+1?\n\n### Response:\n two </s>\n\n### Instruction:\n再加一？\n\n### Response:\n三</s>",
    ),
    "baichuan": (
        "<s><reserved_102>1+1?<reserved_103> two </s><reserved_102>再加一？<reserved_103>三</s>",
        "<s>Be kind.<reserved_102>1+1?<reserved_103> two </s><reserved_102>再加一？<reserved_103>三</s>",
    ),
    "baichuan2": (
        "<s><reserved_106>1+1?<reserved_107> two </s><reserved_106>再加一？<reserved_107>三</s>",
        "<s>Be kind.<reserved_106>1+1?<reserved_107> two </s><reserved_106>再加一？<reserved_107>三</s>",
    ),
    "deepseek": (
        "<s>User: 1+1?\n\nAssistant: two </s>User: 再加一？\n\nAssistant:三</s>",
        "<s>Be kind.\n\nUser: 1+1?\n\nAssistant: two </s>User: 再加一？\n\nAssistant:三</s>",
    ),
    "deepseek_r1_distill": (
        "<s><｜User｜>1+1?<｜Assistant｜> two <｜end▁of▁sentence｜><｜User｜>再加一？<｜Assistant｜>三<｜end▁of▁sentence｜>",
        "<s>Be kind.<｜User｜>1+1?<｜Assistant｜> two <｜end▁of▁sentence｜><｜User｜>再加一？<｜Assistant｜>三<｜end▁of▁sentence｜>",
    ),
    "llama2": (
        "<s>[INST] 1+1? [/INST] two </s>[INST] 再加一？ [/INST]三</s>",
        "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\n1+1? [/INST] two </s>[INST] 再加一？ [/INST]三</s>",
    ),
    "mistral": (
        "<s>[INST] 1+1? [/INST] two </s>[INST] 再加一？ [/INST]三</s>",
        "<s>[INST] Be kind.\n\n1+1? [/INST] two </s>[INST] 再加一？ [/INST]三</s>",
    ),
    "llama3": (
        f"<s>{HEADER.format('system')}You are a helpful, excellent and smart assistant.<|eot_id|>{LLAMA3}",
        f"<s>{HEADER.format('system')}Be kind.<|eot_id|>{LLAMA3}",
    ),
    "chatml": (
        f"<s><|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{CHATML}",
        f"<s><|im_start|>system\nBe kind.<|im_end|>\n{CHATML}",
    ),
}
"""Template -> the text without and with a system message."""


def write_tokenizer(folder: Path, *, begins: bool = True, marks: list[str] = MARKS) -> Path:
    """Bytes, `<s>` and `</s>`, and these marks.

    Args:
        begins: texts begin with `<s>`, as those of LLaMA do.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={entry: index for index, entry in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens(["<s>", "</s>", *marks])
    if begins:
        found = [("<s>", tokenizer.token_to_id("<s>"))]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=found)  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder


def loaded(folder: Path, name: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(str(folder), str(REPOSITORY / "configs" / "templates" / f"{name}.jinja"), eos_token=END_TOKENS.get(name))


def messages(system: str | None) -> list[dict[str, str]]:
    said = [{"role": role, "content": content} for role, content in TALK]
    return [{"role": "system", "content": system}, *said] if system else said


def test_every_template_that_a_recipe_can_name_is_tested() -> None:
    files = {path.stem for path in (REPOSITORY / "configs" / "templates").glob("*.jinja")}
    assert set(TEMPLATES.values()) == files == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_dialogue_has_exactly_this_text_and_the_answers_are_imitated(name: str, tmp_path: Path) -> None:
    tokenizer = loaded(write_tokenizer(tmp_path), name)
    for system, text in zip((None, "Be kind."), EXPECTED[name], strict=True):
        assert tokenizer.apply_chat_template(messages(system), tokenize=False) == text
        (found,) = imitations(tokenizer, messages(system))
        assert [found.text[start:end] for start, end in found.spans] == [f" two {tokenizer.eos_token}", f"三{tokenizer.eos_token}"]
        (sample,) = tokenise(tokenizer, [found])
        ids_T = sample.token_ids_T.tolist()
        assert tokenizer.decode(ids_T) == text and ids_T.count(tokenizer.bos_token_id) == 1 and ids_T[0] == tokenizer.bos_token_id
        assert tokenizer.decode(sample.token_ids_T[sample.trained_T]) == f" two {tokenizer.eos_token}三{tokenizer.eos_token}"


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"deepseek_r1_distill"}))
def test_a_text_begins_with_bos_only_where_the_tokenizer_begins_it_so(name: str, tmp_path: Path) -> None:
    tokenizer = loaded(write_tokenizer(tmp_path, begins=False), name)
    assert tokenizer.apply_chat_template(messages(None), tokenize=False) == EXPECTED[name][0].removeprefix("<s>")


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"deepseek_r1_distill"}))
def test_a_tokenizer_without_the_tokens_of_the_layout_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path, marks=[])
    needed = [mark for mark in MARKS if mark in EXPECTED[name][1]]
    if not needed:
        assert loaded(folder, name).chat_template
        return
    with pytest.raises(DataError, match="not as one token") as caught:
        loaded(folder, name)
    assert all(mark in str(caught.value) for mark in needed) and "configs/templates/vicuna.jinja" in str(caught.value)


def test_a_tokenizer_without_the_end_token_of_the_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a token of"):
        loaded(write_tokenizer(tmp_path, marks=[]), "deepseek_r1_distill")


def test_the_saved_tokenizer_carries_the_template(tmp_path: Path) -> None:
    loaded(write_tokenizer(tmp_path / "model"), "llama3").save_pretrained(tmp_path / "result")
    again = load_tokenizer(str(tmp_path / "result"))
    assert again.apply_chat_template(messages("Be kind."), tokenize=False) == EXPECTED["llama3"][1] and again.eos_token == "<|eot_id|>"


OWN_MARKS = {"chatml", "llama3", "deepseek_r1_distill"}
"""Layouts that mark each message by itself."""


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - OWN_MARKS))
@pytest.mark.parametrize("system", [None, "Be kind."])
def test_words_of_the_user_that_follow_one_another_are_one_turn(name: str, system: str | None, tmp_path: Path) -> None:
    def text(words: list[str]) -> str:
        talk = [*messages(system)[: 3 if system else 2], *({"role": "user", "content": content} for content in words)]
        first = [{"role": "user", "content": content} for content in words]
        return "".join(
            str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
            for said in (talk, talk[: bool(system)] + first)
        )

    tokenizer = loaded(write_tokenizer(tmp_path), name)
    assert text(["1+1?", "Quick!", "Please."]) == text(["1+1?\nQuick!\nPlease."])


@pytest.mark.parametrize("name", sorted(OWN_MARKS))
def test_layouts_with_marks_for_each_message_keep_them_apart(name: str, tmp_path: Path) -> None:
    said = [{"role": "user", "content": "1+1?"}, {"role": "user", "content": "Quick!"}]
    text = str(loaded(write_tokenizer(tmp_path), name).apply_chat_template(said, tokenize=False, add_generation_prompt=True))
    once = str(loaded(tmp_path, name).apply_chat_template(said[:1], tokenize=False, add_generation_prompt=False))
    assert text.startswith(once) and "Quick!" in text


@pytest.mark.parametrize("name", sorted(EXPECTED.keys() - {"deepseek_r1_distill"}))
def test_a_system_message_in_the_middle_is_named_as_such(name: str, tmp_path: Path) -> None:
    tokenizer = loaded(write_tokenizer(tmp_path), name)
    for said in (messages(None), messages("Be kind.")):
        with pytest.raises(ValueError, match="a system message may only come first"):
            imitations(tokenizer, [*said[:-1], {"role": "system", "content": "Be brief."}, said[-1]])
        with pytest.raises(ValueError, match="knows the roles system, user and assistant, not tool"):
            imitations(tokenizer, [*said[:-1], {"role": "tool", "content": "3"}, said[-1]])
