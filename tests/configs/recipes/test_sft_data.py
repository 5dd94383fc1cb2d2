"""Mixtures and streams of SFT recipes of Open-R1 and TRL become those of a fine-tuning, as they become those of a GRPO run."""

from __future__ import annotations

import pytest

from configs.contracts.errors import ConfigError
from tests.configs.recipes.test_sft_conversion import SMALL, become, convert_sft


def test_mixtures_of_open_r1_and_trl() -> None:
    parts = [
        {"id": "a/b", "config": "main", "split": "train_sft", "columns": ["messages"], "weight": 0.5},
        {"id": "c/d", "columns": {"conversations": "messages"}},
    ]
    conversion = convert_sft(SMALL | {"dataset_mixture": {"datasets": parts, "seed": 42, "test_split_size": 0.1}, "dataset_config": "x"})
    data = conversion.config.data
    assert data.mixture is not None
    assert [part.model_dump(exclude_none=True) for part in data.mixture.datasets] == [
        {"path": "a/b", "name": "main", "split": "train_sft", "columns": ("messages",), "weight": 0.5},
        {"path": "c/d", "split": "train", "columns": {"conversations": "messages"}},
    ]
    assert (data.path, data.name, data.mixture.seed, data.held_out_size, data.eval_samples) == (None, None, 42, 0.1, 0)
    assert become("dataset_config", conversion) == {"each data set of the mixture has its own"}
    assert become("dataset_name", conversion) == {"dataset_mixture is used"}
    trl = convert_sft(
        {**SMALL, "datasets": [{"path": "a/b", "name": "main", "split": "train[:10]"}], "test_split_size": 20, "do_eval": True}
    ).config.data
    assert trl.mixture is not None
    assert (trl.mixture.datasets[0].name, trl.mixture.datasets[0].split, trl.held_out_size) == ("main", "train[:10]", 20)
    assert (trl.eval_path, trl.eval_samples) == (None, 100)


@pytest.mark.parametrize(
    ("columns", "messages"),
    [
        (None, "messages"),
        (["messages", "id"], "messages"),
        (["conversations"], "conversations"),
        ({"q": "prompt", "a": "completion"}, None),
        (["prompt", "completion", "messages"], "messages"),
    ],
)
def test_the_columns_of_a_mixture_say_what_it_holds(columns: list[str] | dict[str, str] | None, messages: str | None) -> None:
    part = {"id": "a"} | ({"columns": columns} if columns else {})
    assert convert_sft(SMALL | {"dataset_mixture": {"datasets": [part]}}).config.data.messages_column == messages


def test_the_held_out_rows_of_a_mixture_are_evaluated_where_the_recipe_evaluates() -> None:
    mixture = {"datasets": [{"id": "a"}], "test_split_size": 0.1}
    data = convert_sft(SMALL | {"dataset_mixture": mixture, "eval_strategy": "steps", "dataset_test_split": "test"}).config.data
    assert (data.eval_path, data.eval_samples, data.held_out_size) == (None, 100, 0.1)


@pytest.mark.parametrize("setting", ["dataset_streaming", "streaming"])
def test_a_stream_needs_a_number_of_steps(setting: str) -> None:
    conversion = convert_sft(SMALL | {setting: True, "max_steps": 10})
    assert conversion.config.data.streaming and become(setting, conversion) == {"data.streaming"}
    assert not convert_sft(SMALL | {setting: False}).config.data.streaming
    with pytest.raises(ConfigError, match=r"learner.max_steps is not given and data.streaming is on: .*set learner.max_steps"):
        convert_sft(SMALL | {setting: True})


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"dataset_streaming": True, "streaming": False}, "dataset_streaming and streaming contradict each other; keep one of them"),
        ({"dataset_streaming": True, "max_train_samples": 5}, "train_samples with streaming: it needs all rows before the first is drawn"),
        ({"dataset_streaming": True, "dataset_mixture": {"datasets": [{"id": "a"}]}}, "mixture with streaming: it needs all rows"),
    ],
)
def test_streams_that_cannot_be_read_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        convert_sft(SMALL | {"max_steps": 10} | given)
