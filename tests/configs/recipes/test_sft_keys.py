"""The tables of settings of supervised fine-tuning are complete, have no overlap, and say what docs/sft.md says.

The names of TRL and transformers are read from the installed packages where TRL is there: it is no dependency.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import combinations
from typing import get_args

import pytest

from configs.faults import all_keys
from configs.recipes.grpo_keys import GRPO_KEYS
from configs.recipes.sft_keys import DEFAULTS, MEDICAL, MEDICAL_DEFAULTS, SFT_KEYS, TRL_DEFAULTS
from configs.recipes.sft_rules import EVAL_STEPS, LORA, TRL_LORA
from configs.recipes.shared_keys import LAUNCHERS, SHARED
from configs.recipes.shared_rules import TOKEN_BUDGET
from configs.schema.model import LoraSection
from configs.schema.sft import SftConfig, SftSection
from tests import REPOSITORY

DOCS = REPOSITORY / "docs" / "sft.md"

NAMES_OF_TRL = """
import dataclasses, trl
from transformers import Seq2SeqTrainingArguments
from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments
for kind in (trl.SFTConfig, trl.ModelConfig, ScriptArguments, DatasetMixtureConfig, Seq2SeqTrainingArguments):
    print(*("field:" + field.name for field in dataclasses.fields(kind)))
defaults = {field.name: field.default for field in dataclasses.fields(trl.SFTConfig)} | {
    field.name: field.default for field in dataclasses.fields(trl.ModelConfig)
}
for name in ("learning_rate", "max_length", "gradient_checkpointing", "lr_scheduler_type", "num_train_epochs", "max_grad_norm", "seed",
             "lora_r", "lora_alpha", "lora_dropout", "use_peft", "packing", "per_device_train_batch_size", "logging_steps"):
    print("default:" + name, getattr(defaults[name], "value", defaults[name]))
"""

OPEN_R1 = (
    "benchmarks callbacks chat_template dataset_mixture hub_model_revision overwrite_hub_revision push_to_hub_revision system_prompt "
    "wandb_entity wandb_project wandb_run_group"
)
MEDICAL_GPT = (
    "cache_dir dataset_config_name dataset_name device_map flash_attn hf_hub_token ignore_pad_token_for_loss load_in_4bit load_in_8bit "
    "lora_alpha lora_dropout lora_rank max_eval_samples max_train_samples model_max_length model_name_or_path model_revision modules_to_save "
    "neft_alpha overwrite_cache peft_path preprocessing_num_workers qlora rope_scaling shift_attn target_modules template_name "
    "tokenizer_name_or_path tool_format torch_dtype train_file_dir train_on_inputs trust_remote_code use_fast_tokenizer use_peft "
    "use_tensor_parallel validation_file_dir validation_split_percentage"
)
OF_OLD = (
    "torch_dtype max_seq_length warmup_ratio overwrite_output_dir use_liger use_liger_kernel dataset_batch_size num_of_sequences "
    "chars_per_token max_source_length max_target_length model_type evaluation_strategy no_cuda dataset_configs"
)


def test_every_setting_is_in_one_table() -> None:
    for tables in (SHARED, SFT_KEYS):
        parts = (tables.old_names, tables.targets, tables.by_rule, tables.refused, tables.no_effect)
        for one, other in combinations(parts, 2):
            assert not set(one) & set(other)
        listed = " ".join(tables.no_effect_because.values()).split()
        assert len(listed) == len(set(listed))
    assert set(SFT_KEYS.old_names.values()) | SFT_KEYS.secrets | SFT_KEYS.never_null.keys() | MEDICAL <= SFT_KEYS.known
    assert set(LAUNCHERS.split()) <= SHARED.known
    assert SFT_KEYS.text <= SFT_KEYS.known


def test_what_every_trainer_has_stands_in_the_shared_tables_alone() -> None:
    for tables in (SFT_KEYS, GRPO_KEYS):
        for name in ("old_names", "targets", "by_rule", "refused"):
            assert getattr(SHARED, name).items() <= getattr(tables, name).items()
    for name in ("targets", "by_rule", "refused", "no_effect"):
        sft, grpo, shared = (getattr(tables, name) for tables in (SFT_KEYS, GRPO_KEYS, SHARED))
        assert not [key for key in sft.keys() & grpo.keys() - shared.keys() if sft[key] == grpo[key]]


@pytest.mark.parametrize("names", [OPEN_R1, MEDICAL_GPT, OF_OLD], ids=["open_r1", "medical_gpt", "old"])
def test_settings_of_the_scripts_are_known(names: str) -> None:
    assert set(names.split()) <= SFT_KEYS.known


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed")
def test_settings_and_defaults_are_those_of_trl() -> None:
    listed = subprocess.run([sys.executable, "-c", NAMES_OF_TRL], capture_output=True, text=True, timeout=300, check=True).stdout
    names = set(re.findall(r"field:(\w+)", listed))
    assert len(names) > 150
    assert not names - SFT_KEYS.known
    theirs = dict(re.findall(r"default:(\w+) (\S+)", listed))
    ours = {target.rpartition(".")[2]: value for target, value in {**TRL_DEFAULTS, **DEFAULTS}.items()} | dict(TRL_LORA)
    assert {name: str(value) for name, value in ours.items()} == {name: theirs[name] for name in ours}
    assert (theirs["use_peft"], theirs["packing"], theirs["per_device_train_batch_size"]) == ("False", "False", "8")
    assert theirs["logging_steps"] == "10"


def test_targets_are_keys_of_a_fine_tuning() -> None:
    found = set(all_keys(SftConfig))
    assert set(SFT_KEYS.targets.values()) | set(DEFAULTS) | set(TRL_DEFAULTS) | set(MEDICAL_DEFAULTS) <= found
    assert {f"model.lora.{key}" for key in LORA.values()} <= found
    named = re.findall(r"`((?:model|data|learner|cluster)\.[a-z_.]*[a-z])", " ".join(SFT_KEYS.by_rule.values()))
    assert len(named) > 30
    assert set(named) <= found


def test_defaults_that_are_said_are_those_of_the_schema() -> None:
    assert SftSection().eval_steps == EVAL_STEPS and SftSection().token_budget == TOKEN_BUDGET
    assert "all-linear" in get_args(get_args(LoraSection.model_fields["target_modules"].annotation)[0])
    assert LoraSection().target_modules == "all-linear"


def test_the_page_shows_the_tables() -> None:
    assert SFT_KEYS.markdown() in DOCS.read_text(encoding="utf-8"), (
        "docs/sft.md is out of date: put in what `python -m configs.recipes.sft_keys` prints"
    )
