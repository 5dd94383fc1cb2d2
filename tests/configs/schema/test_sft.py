"""Configuration of supervised fine-tuning: shipped files, faults that name the key, combinations that cannot work."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.contracts.errors import ConfigError
from configs.loading import dump_config, load_config, load_sft_config
from tests import REPOSITORY

CONFIGS = REPOSITORY / "configs"
SHIPPED = sorted(CONFIGS.glob("*_sft.yaml"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "sft.yaml").write_text("model: {path: builtin:tiny_qwen2}\ndata: {path: builtin:addition}\n")
    return tmp_path / "sft.yaml"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load_and_survive_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_sft_config(path)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_sft_config(tmp_path / "again.yaml") == config


def test_the_medical_files_are_one_profile() -> None:
    """GRPO goes on with the adapter of the fine-tuning: model, adapter and prompts must be the same."""
    sft, grpo = load_sft_config(CONFIGS / "medical_sft.yaml"), load_config(CONFIGS / "medical_lora.yaml")
    assert sft.model == grpo.model
    assert (sft.data.prompt_column, sft.data.system_prompt, sft.seed) == (grpo.data.prompt_column, grpo.data.system_prompt, grpo.seed)
    assert sft.data.max_length == grpo.max_model_len
    assert len(SHIPPED) == 2


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.max_len=5"], "data.max_len: there is no such key; did you mean data.max_length?"),
        (["learner.beta=0.1"], "learner.beta: there is no such key"),
        (["actors.num_workers=2"], "the keys here are model, data, learner, cluster, seed, out_dir"),
        (["learner.token_budget=512"], "learner.token_budget 512 is less than data.max_length 1024"),
        (["learner.use_peft=false", "model.quantization=nf4"], "quantised weights have no gradient"),
        (["learner.use_peft=false", "model.adapter=runs/a"], "set model.merge_adapter: true"),
        (["model.merge_adapter=true"], "there is nothing to merge"),
        (["model.quantization=nf4", "model.serve_quantized=dequantized"], "no engine serves a supervised fine-tuning"),
        (["data.too_long=drop"], "data.too_long: 'drop' is not one of the choices; choose 'leave_out' or 'truncate'"),
        (["data.streaming=true"], "learner.max_steps is not given and data.streaming is on"),
        (["data.streaming=true", "learner.max_steps=9", "data.train_samples=5"], "train_samples with streaming: it needs all rows"),
        (["data.streaming=true", "learner.max_steps=9", "data.test_split_size=5"], "hold out the first rows with eval_samples"),
        (["data.streaming=true", "data.path=null", "data.mixture={datasets: [{path: a}]}"], "mixture with streaming: it needs all rows"),
        (["data.mixture={datasets: [{path: a}]}"], "path and mixture are both given; keep one"),
        (
            ["data.path=null", "data.mixture={datasets: [{path: a, columns: {q: prompt, a: prompt}}]}"],
            "data.mixture.datasets[0].columns: gives the name 'prompt' to q and a; keep one",
        ),
        (["data.path=null"], "neither path nor mixture is given; give one of them"),
        (
            ["data.path=null", "data.split=dev", "data.mixture={datasets: [{path: a}]}"],
            "split with mixture: each data set of a mixture has its own",
        ),
        (["data.test_split_size=0.1", "data.eval_path=b.jsonl"], "held-out rows come from one of them"),
        (["data.train_samples=0"], "data.train_samples 0 is neither -1 nor positive; write -1 for all rows"),
        (["learner.max_steps=0"], "learner.max_steps 0 is neither -1 nor positive"),
        (["model.attn_implementation=flex_attention", "learner.gpus_per_rank=0"], "FlexAttention has no backward on the CPU"),
    ],
)
def test_what_cannot_work_is_refused(small: Path, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sft_config(small, overrides)
    assert told in str(caught.value)


def test_an_adapter_may_be_merged_under_full_fine_tuning(small: Path) -> None:
    config = load_sft_config(small, ["learner.use_peft=false", "model.adapter=runs/a", "model.merge_adapter=true"])
    assert config.model.merge_adapter


def test_text_needs_no_quotes(small: Path) -> None:
    assert load_sft_config(small, ["data.completion_column=1234"]).data.completion_column == "1234"
