"""A tokenizer that does not fit its model is told, or refused where every prompt would fail."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.fitting.tokenizer import fit_warnings
from configs.contracts.errors import DataError
from configs.schema.run import RunConfig
from tests.actors.chat_templates import LLAMA3, QWEN, tokenizer_with


def warnings(tokenizer: Any, path: str = "models/mine", settings: dict[str, Any] | None = None, **generation: Any) -> list[str]:
    config = RunConfig.model_validate({"model": {"path": path}, "data": {"path": "rows.jsonl"}})
    return fit_warnings(config, tokenizer, settings or {}, generation)


def test_tokens_beyond_the_embedding_are_refused_where_every_text_has_them() -> None:
    tokenizer = tokenizer_with(QWEN)
    assert warnings(tokenizer, settings={"vocab_size": len(tokenizer)}) == warnings(tokenizer) == []
    end = tokenizer.get_vocab()["<|im_start|>"]
    with pytest.raises(DataError) as caught:
        warnings(tokenizer, settings={"vocab_size": end})
    told = caught.value.message
    assert (
        f"tokens beyond the {end:,} rows of the model's embedding" in told
        and "'<|im_start|>'" in told
        and "resize_token_embeddings" in told
    )
    with pytest.raises(DataError, match="'<|im_end|>'"):
        warnings(tokenizer, settings={"text_config": {"vocab_size": end + 1}})


def test_tokens_beyond_the_embedding_that_texts_rarely_have_are_told() -> None:
    tokenizer = tokenizer_with(QWEN)
    tokenizer.add_tokens(["<image>"])
    (told,) = warnings(tokenizer, settings={"vocab_size": len(tokenizer) - 1})
    assert "has 1 tokens beyond" in told and "'<image>'. A text that holds one ends the run" in told


def test_an_end_that_engines_do_not_stop_at_is_told_with_the_setting() -> None:
    tokenizer = tokenizer_with(QWEN, eos_token="</s>")
    (told,) = warnings(tokenizer)
    assert "makes answers end with '<|im_end|>', and the end token is '</s>'" in told and "set model.eos_token='<|im_end|>'" in told
    number = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert warnings(tokenizer, eos_token_id=[1, number]) == warnings(tokenizer, eos_token_id=number) == []
    assert warnings(tokenizer_with(LLAMA3)) == []


@pytest.mark.parametrize(
    "path", ["Qwen/Qwen2.5-0.5B-Instruct", "models/Llama-2-7b-chat-hf", "google/gemma-2-2b-it", "/models/my_instruct/"]
)
def test_an_instruct_model_without_a_template_is_told(path: str) -> None:
    (told,) = warnings(tokenizer_with(None), path)
    assert "has no chat template" in told and "set model.chat_template" in told
    assert warnings(tokenizer_with(None), "Qwen/Qwen2.5-0.5B") == [] and warnings(tokenizer_with(QWEN), path) == []
