"""The tables of settings are complete, have no overlap, and say what docs/recipes.md says.

The names of TRL and transformers are read from the installed packages where TRL is there: it is no dependency.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import combinations

import pytest

from configs.faults import all_keys
from configs.recipes.grpo_keys import DEFAULTS, GRPO_KEYS, MEDICAL, REWARD_PARAMS, REWARDS
from configs.schema.reward_names import REWARD_NAMES
from rewards.functions.registry import BUILTINS
from tests import REPOSITORY

DOCS = REPOSITORY / "docs" / "recipes.md"

NAMES_OF_TRL = """
import dataclasses, trl
from trl.scripts.grpo import GRPOScriptArguments
from trl.scripts.utils import DatasetMixtureConfig
for kind in (trl.GRPOConfig, trl.ModelConfig, GRPOScriptArguments, DatasetMixtureConfig):
    print(*("field:" + field.name for field in dataclasses.fields(kind)))
"""

OPEN_R1 = (
    "benchmarks callbacks chat_template code_eval_scoring_mode code_eval_test_batch_size code_language code_provider cosine_max_len "
    "cosine_max_value_correct cosine_max_value_wrong cosine_min_value_correct cosine_min_value_wrong dataset_mixture dataset_prompt_column "
    "e2b_router_url hub_model_revision ioi_provider max_completion_len morph_router_url num_completions_to_print overwrite_hub_revision "
    "parallel_code_exec_per_proc push_to_hub_revision repetition_max_penalty repetition_n_grams reward_funcs soft_punish_cache system_prompt "
    "wandb_entity wandb_log_unique_prompts wandb_project wandb_run_group"
)
MEDICAL_GPT = "tokenizer_name_or_path dataset_name train_file_dir train_samples subset_name dataset_splits preprocessing_num_workers qlora"
OF_OLD = (
    "torch_dtype max_prompt_length warmup_ratio overwrite_output_dir vllm_device use_liger_kernel wandb_log_unique_prompts push_to_hub_revision "
    "provider_type code_provider qlora load_in_4bit"
)


def test_every_setting_is_in_one_table() -> None:
    parts = (GRPO_KEYS.old_names, GRPO_KEYS.targets, GRPO_KEYS.by_rule, GRPO_KEYS.refused, GRPO_KEYS.no_effect)
    for one, other in combinations(parts, 2):
        assert not set(one) & set(other)
    assert set(GRPO_KEYS.old_names.values()) | GRPO_KEYS.secrets | set(REWARD_PARAMS) | MEDICAL <= GRPO_KEYS.known


@pytest.mark.parametrize("names", [OPEN_R1, MEDICAL_GPT, OF_OLD], ids=["open_r1", "medical_gpt", "old"])
def test_settings_of_the_scripts_are_known(names: str) -> None:
    assert set(names.split()) <= GRPO_KEYS.known


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is not installed")
def test_settings_of_trl_are_known() -> None:
    listed = subprocess.run([sys.executable, "-c", NAMES_OF_TRL], capture_output=True, text=True, timeout=300, check=True).stdout
    names = set(re.findall(r"field:(\w+)", listed))
    assert len(names) > 200
    assert not names - GRPO_KEYS.known


def test_targets_are_keys_of_a_run() -> None:
    assert set(GRPO_KEYS.targets.values()) | set(DEFAULTS) <= set(all_keys())


def test_words_name_keys_of_a_run() -> None:
    named = re.findall(r"`((?:model|data|actors|rewards|learner|cluster)\.[a-z_.]*[a-z])", " ".join(GRPO_KEYS.by_rule.values()))
    assert len(named) > 30
    assert set(named) <= set(all_keys())


def test_rewards_are_built_in() -> None:
    assert set(REWARDS) == set(BUILTINS)
    assert set(REWARD_NAMES.values()) | {reward for takers in REWARD_PARAMS.values() for reward, _ in takers} <= set(REWARDS)


def test_the_page_shows_the_tables() -> None:
    assert GRPO_KEYS.markdown() in DOCS.read_text(encoding="utf-8"), (
        "docs/recipes.md is out of date: put in what `python -m configs.recipes.grpo_keys` prints"
    )
