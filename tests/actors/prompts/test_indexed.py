"""The stream of prompts, with a real tokenizer and real files.

Protected here:
1. Every row is drawn once an epoch, in an order that only the seed decides, and that is the same on every platform.
2. A restored source goes on exactly where the cursor was taken; a prompt made again from its id is the same prompt.
3. Held-out rows are never trained on, nor is any row with the same text.
4. What is sampled on is what is trained on: nothing is truncated, too-long prompts are left out and counted.
5. Every bad input is refused with the value, the rule and the remedy, and with its place.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from actors.prompts.indexed import EVAL_EPOCH, IndexedPrompts, render_demonstration
from actors.prompts.rendering import load_tokenizer
from configs.contracts.errors import CheckpointError, DataError
from configs.contracts.records import Prompt, PromptId
from configs.schema.data import DataSection
from learner.model.tiny_model import build_tokenizer
from tests import REPOSITORY

TOKENIZER = build_tokenizer()
ROWS = [{"prompt": f"What is {n}+1?", "solution": str(n + 1), "level": n} for n in range(20)]
ORDER_OF_SEED_3 = [6, 13, 1, 18, 11, 19]


def plain_tokenizer() -> Any:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def write_rows(folder: Path, rows: list[dict], name: str = "rows.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def source_of(folder: Path, rows: list[dict] = ROWS, *, tokenizer: Any = TOKENIZER, **settings: Any) -> IndexedPrompts:
    """A source over these rows; settings of the data section, or arguments of the source."""
    arguments = {name: settings.pop(name) for name in ("seed", "epochs", "reward_names") if name in settings}
    data = DataSection.model_validate({"path": write_rows(folder, rows), "eval_samples": 0} | settings)
    return IndexedPrompts(data, tokenizer, **({"seed": 0, "folder": folder} | arguments))


def draw(source: IndexedPrompts, count: int) -> list[Prompt]:
    return [prompt for prompt in (source.next() for _ in range(count)) if prompt is not None]


def refusal(folder: Path, rows: list[dict] = ROWS, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        source_of(folder, rows, **settings)
    return str(caught.value)


def test_a_prompt_is_rendered_tokenised_and_carries_the_other_columns(tmp_path: Path):
    prompt = source_of(tmp_path, shuffle=False, system_prompt="Add.").next()
    assert prompt is not None
    assert prompt.text == "<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\nWhat is 0+1?<|im_end|>\n<|im_start|>assistant\n"
    assert TOKENIZER.decode(list(prompt.token_ids)) == prompt.text
    assert prompt.id == PromptId(0, 0)
    assert prompt.columns == {"solution": "1", "level": 0}
    assert prompt.messages == ({"role": "system", "content": "Add."}, {"role": "user", "content": "What is 0+1?"})
    assert prompt.conversational


def test_messages_are_taken_as_they_are(tmp_path: Path):
    own_system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    begun = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>\n"}]
    source = source_of(tmp_path, [{"prompt": own_system}, {"prompt": begun}], shuffle=False, system_prompt="Add.")
    first, second = draw(source, 2)
    assert first.messages == tuple(own_system)
    assert second.messages[0] == {"role": "system", "content": "Add."}
    assert second.text.endswith("<|im_start|>assistant\n<think>\n"), "a last message of the assistant is gone on with, not closed"


def test_without_a_chat_template_prompts_stay_plain_text(tmp_path: Path):
    prompt = source_of(tmp_path, tokenizer=plain_tokenizer(), shuffle=False).next()
    assert prompt is not None
    assert (prompt.text, prompt.messages, prompt.conversational) == ("What is 0+1?", (), False)


def test_every_row_comes_once_an_epoch_in_another_order(tmp_path: Path):
    source = source_of(tmp_path, epochs=2)
    ids = [prompt.id for prompt in draw(source, 100)]
    first, second = ([prompt_id.index for prompt_id in ids if prompt_id.epoch == epoch] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert source.next() is None


def test_the_order_follows_from_the_seed_on_every_platform(tmp_path: Path):
    """Literal values: they must never change, or a run cannot be resumed elsewhere."""
    assert [prompt.id.index for prompt in draw(source_of(tmp_path, seed=3), 6)] == ORDER_OF_SEED_3
    assert [prompt.id.index for prompt in draw(source_of(tmp_path, seed=-3), 6)] != ORDER_OF_SEED_3
    assert [prompt.id.index for prompt in draw(source_of(tmp_path, shuffle=False), 6)] == [0, 1, 2, 3, 4, 5]


def test_a_fraction_of_an_epoch_ends_where_it_should(tmp_path: Path):
    assert len(draw(source_of(tmp_path, epochs=0.25), 100)) == 5
    assert len(draw(source_of(tmp_path), 100)) == 100


@pytest.mark.parametrize("drawn", [0, 7, 20, 33])
def test_a_restored_source_goes_on_where_the_cursor_was_taken(tmp_path: Path, drawn: int):
    source = source_of(tmp_path)
    draw(source, drawn)
    cursor = json.loads(json.dumps(source.cursor()))
    resumed = source_of(tmp_path)
    resumed.restore(cursor)
    assert draw(resumed, 10) == draw(source, 10)


def test_a_prompt_can_be_made_again_without_moving_the_stream(tmp_path: Path):
    source = source_of(tmp_path)
    drawn = draw(source, 25)
    before = source.cursor()
    assert [source.prompt(prompt.id) for prompt in drawn] == drawn
    assert source.cursor() == before
    with pytest.raises(DataError, match="prompt 0:20 is not in the data, which have 20 rows"):
        source.prompt(PromptId(0, 20))


@pytest.mark.parametrize("change", [{"seed": 1}, {"rows": ROWS[:-1]}, {"system_prompt": "Add."}, {"shuffle": False}])
def test_a_cursor_of_other_prompts_is_refused(tmp_path: Path, change: dict):
    cursor = source_of(tmp_path).cursor()
    with pytest.raises(CheckpointError, match="was made with other prompts"):
        source_of(tmp_path, **change).restore(cursor)


def test_held_out_rows_are_never_trained_on(tmp_path: Path):
    source = source_of(tmp_path, eval_samples=5)
    held_out = source.eval_prompts()
    trained = {prompt.text for prompt in draw(source, 40)}
    assert len(source) == len(trained) == 15
    assert len({prompt.text for prompt in held_out} - trained) == 5
    assert all(prompt.id.epoch == EVAL_EPOCH for prompt in held_out)
    assert [source.prompt(prompt.id) for prompt in held_out] == held_out == source_of(tmp_path, eval_samples=5).eval_prompts()


def test_rows_with_the_text_of_a_held_out_prompt_are_not_trained_on_either(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        source = source_of(tmp_path, ROWS + ROWS, eval_samples=10)
    trained = {prompt.text for prompt in draw(source, len(source))}
    assert not trained & {prompt.text for prompt in source.eval_prompts()}
    assert source.counts.also_held_out > 0
    assert f"{source.counts.also_held_out} training prompts equal a held-out prompt" in caplog.text


def test_a_data_set_of_its_own_may_be_held_out(tmp_path: Path):
    other = write_rows(tmp_path, [{"prompt": "5+5?", "solution": "10"}, *ROWS[:3]], "eval.jsonl")
    source = source_of(tmp_path, eval_path=other, eval_samples=100)
    assert {prompt.columns["solution"] for prompt in source.eval_prompts()} == {"10", "1", "2", "3"}
    assert (len(source), source.counts.held_out) == (17, 4)


def test_train_samples_is_a_seeded_subset(tmp_path: Path):
    subset, same, other = (sorted(p.id.index for p in draw(source_of(tmp_path, train_samples=6, seed=seed), 6)) for seed in (0, 0, 1))
    assert subset == same != other
    assert len(set(subset)) == 6
    message = refusal(tmp_path, train_samples=18, eval_samples=5)
    assert "has 20 rows, of which 5 are held out (data.eval_samples) and 18 are wanted" in message
    assert "20 rows, of which 20 are held out" in refusal(tmp_path, eval_samples=100)


def test_prompts_that_are_too_long_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    rows = [{"prompt": "1" * length} for length in (1, 5, 30, 50)]
    with caplog.at_level(logging.WARNING):
        source = source_of(tmp_path, rows, tokenizer=plain_tokenizer(), max_prompt_length=30)
    assert (len(source), source.counts.too_long, source.counts.longest_tokens) == (3, 1, 30)
    assert "1 prompts have more than data.max_prompt_length 30 tokens" in caplog.text
    assert max(len(prompt.token_ids) for prompt in draw(source, 3)) == 30


def test_when_every_prompt_is_too_long_the_shortest_length_is_said(tmp_path: Path):
    message = refusal(tmp_path, [{"prompt": "1" * 40}, {"prompt": "1" * 35}], tokenizer=plain_tokenizer(), max_prompt_length=30)
    assert message == (
        "every one of the 2 training prompts is longer than data.max_prompt_length 30; "
        "the shortest has 35 tokens: raise the limit to at least that"
    )


def test_a_missing_column_lists_those_there_are(tmp_path: Path):
    message = refusal(tmp_path, [{"question": "1+1?", "answer": "2"}])
    assert message == (
        "data.prompt_column 'prompt' is not in the data; the columns there are question, answer; "
        "correct the key, or give columns other names with data.columns: {theirs: ours}"
    )


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (None, "holds None; a prompt is text or a list of chat messages"),
        ("  ", "holds '  '"),
        (7, "holds 7"),
        ([], "holds []"),
        ([{"role": "user"}], "holds the message {'role': 'user'}"),
        ([{"role": "user", "content": ["image"]}], "a message has the texts `role` and `content`"),
    ],
)
def test_a_row_without_a_prompt_is_named_by_file_and_line(tmp_path: Path, prompt: Any, words: str):
    message = refusal(tmp_path, [*ROWS[:2], {"prompt": prompt}])
    assert message.startswith(f"{tmp_path}/rows.jsonl:3: column 'prompt' ")
    assert words in message


def test_what_needs_a_chat_template_says_so(tmp_path: Path):
    messages = [{"prompt": [{"role": "user", "content": "1+1?"}]}]
    assert "needs a chat template and the tokenizer has none; set model.chat_template" in refusal(
        tmp_path, messages, tokenizer=plain_tokenizer()
    )
    assert "data.system_prompt needs a chat template" in refusal(tmp_path, tokenizer=plain_tokenizer(), system_prompt="Add.")


def test_an_unknown_builtin_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="the only builtin data set is builtin:addition"):
        IndexedPrompts(DataSection(path="builtin:multiplication"), TOKENIZER, seed=0, folder=tmp_path)


def test_the_quickstarts_sums_are_held_out_and_demonstrated_apart(tmp_path: Path):
    source = IndexedPrompts(DataSection(path="builtin:addition", eval_samples=50), TOKENIZER, seed=0, folder=tmp_path)
    demonstrations = source.demonstrations("demonstration")
    assert (len(source), len(demonstrations)) == (8050, 8050)
    held_out = {prompt.token_ids for prompt in source.eval_prompts()}
    assert not held_out & {tuple(prompt_ids) for prompt_ids, _ in demonstrations}
    assert all(completion_ids[-1] == TOKENIZER.eos_token_id for _, completion_ids in demonstrations)
    with pytest.raises(DataError, match="demonstration_column 'proof' is not in the data; the columns there are prompt, solution, demonst"):
        source.demonstrations("proof")


def test_a_demonstration_follows_its_prompt_and_ends(tmp_path: Path):
    prompt = source_of(tmp_path, shuffle=False).next()
    assert prompt is not None
    prompt_ids, completion_ids = render_demonstration(TOKENIZER, prompt, "<answer>\n1\n</answer>")
    assert TOKENIZER.decode(prompt_ids + completion_ids) == f"{prompt.text}<answer>\n1\n</answer><|im_end|>"


@pytest.mark.parametrize(("reward", "warned"), [("format", True), ("tag_count", True), ("accuracy", False)])
def test_a_template_that_opens_the_tag_itself_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture, reward: str, warned: bool):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = f"{tokenizer.chat_template}<think>"
    with caplog.at_level(logging.WARNING):
        source_of(tmp_path, tokenizer=tokenizer, reward_names=[reward])
    assert (
        f"ends the prompt with <think>, so that no completion can hold it, but the rewards {reward} look for it" in caplog.text
    ) == warned


def test_the_shipped_template_keeps_reasoning_and_leaves_the_opening_tag_to_the_model(tmp_path: Path):
    folder = tmp_path / "model"
    build_tokenizer().save_pretrained(folder)
    tokenizer = load_tokenizer(str(folder), str(REPOSITORY / "configs/templates/deepseek_r1_distill.jinja"))
    tokenizer.bos_token = "<|endoftext|>"
    turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "<think>a</think>2"}, {"role": "user", "content": "so?"}]
    prompt = source_of(tmp_path, [{"prompt": turns}], tokenizer=tokenizer, system_prompt="Add.").next()
    assert prompt is not None
    assert prompt.text == (
        "<|endoftext|>Add.<｜User｜>1+1?<｜Assistant｜><think>a</think>2<｜end▁of▁sentence｜><｜User｜>so?<｜Assistant｜>"
    )
    assert prompt.token_ids.count(tokenizer.bos_token_id) == 1
    refused = [{"prompt": [{"role": "tool", "content": "x"}]}]
    assert "is refused by the chat template: this template knows the roles system, user and assistant, not tool" in refusal(
        tmp_path, refused, tokenizer=tokenizer
    )


def test_a_template_adds_no_second_bos(tmp_path: Path):
    """With a tokenizer that adds BOS by itself, as Llama's do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    assert tokenizer("1")["input_ids"][0] == 0, "or this test shows nothing"
    tokenizer.chat_template = "{{ bos_token }}" + str(tokenizer.chat_template)
    templated = source_of(tmp_path, tokenizer=tokenizer).next()
    tokenizer.chat_template = None
    plain = source_of(tmp_path, tokenizer=tokenizer).next()
    assert templated is not None
    assert plain is not None
    assert (templated.token_ids.count(0), plain.token_ids.count(0)) == (1, 1)


def test_models_without_a_usable_tokenizer_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(DataError, match=r"holds no tokenizer \(config.json there\); save the model's tokenizer into it"):
        load_tokenizer(str(tmp_path))
    with pytest.raises(DataError, match="the tokenizer of model nobody/nothing cannot be loaded: .*; check model.path"):
        load_tokenizer("nobody/nothing")
    for missing in (str(tmp_path / "base_model"), "runs/sft/base_model", "./base_model"):
        with pytest.raises(DataError, match=f"model folder {re.escape(missing)} does not exist; give a model's folder, or a hub id"):
            load_tokenizer(missing)


def test_an_end_token_is_one_of_the_tokenizers(tmp_path: Path):
    build_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).eos_token == "<|im_end|>"
    other = load_tokenizer(str(tmp_path), eos_token="<think>")
    assert other.eos_token_id == other.convert_tokens_to_ids("<think>")
    with pytest.raises(
        DataError, match=r"model.eos_token '</s>' is not a token of .*; give one that it has \(special tokens: .*<\|im_end\|>"
    ):
        load_tokenizer(str(tmp_path), eos_token="</s>")


def test_a_template_is_text_or_a_file(tmp_path: Path):
    build_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path), "{{ messages[0].content }}").chat_template == "{{ messages[0].content }}"
    with pytest.raises(DataError, match=r"'no.jinja' is neither a Jinja template nor a readable file \(No such file or directory\)"):
        load_tokenizer(str(tmp_path), "no.jinja")
    broken = load_tokenizer(str(tmp_path), "{% for %}")
    with pytest.raises(DataError, match="is refused by the chat template: .*; correct the row or model.chat_template"):
        source_of(tmp_path, tokenizer=broken)
