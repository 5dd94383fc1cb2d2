"""Trainers that rollcast does not have, recognised by what their recipes say, so that the error can name them."""

from __future__ import annotations

import re
from collections.abc import Mapping

TRAINERS = "rollcast trains by GRPO (rollcast train) and by supervised fine-tuning (rollcast sft)"

ONLY_THEIR_SETTINGS: Mapping[str, str] = {
    "DPO": "discopop_tau f_alpha_divergence_coef f_divergence_type force_use_ref_model generate_during_eval ld_alpha loss_weights "
    "model_adapter_name precompute_ref_batch_size precompute_ref_log_probs ref_adapter_name ref_model_init_kwargs reference_free rpo_alpha "
    "use_logits_to_keep use_weighting",
    "KTO": "desirable_weight undesirable_weight",
    "ORPO": "orpo_beta",
    "CPO": "cpo_alpha simpo_gamma",
    "PPO": "cliprange cliprange_value kl_coef kl_estimator lam local_rollout_forward_batch_size missing_eos_penalty num_mini_batches "
    "num_ppo_epochs num_sample_generations response_length reward_model_path sft_model_path stop_token stop_token_id total_episodes "
    "value_model_path vf_coef whiten_rewards",
    "RLOO": "normalize_reward reward_clip_range rloo_k token_level_kl",
    "reward modelling": "center_rewards_coefficient",
}
"""Trainer -> settings that only its recipes have. Those that another trainer shares are not listed."""

LOSS_TYPES: Mapping[str, str] = {
    "sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired aot_pair apo_zero apo_down discopop sigmoid_norm": "DPO",
    "kto apo_zero_unpaired": "KTO",
    "simpo": "CPO",
}
"""Values of `loss_type` -> the trainer that has them."""

SCRIPT_NAMES: Mapping[str, str] = {
    "dpo": "DPO",
    "kto": "KTO",
    "orpo": "ORPO",
    "cpo": "CPO",
    "ppo": "PPO",
    "rloo": "RLOO",
    "rm": "reward modelling",
    "reward": "reward modelling",
    "pretraining": "pre-training",
    "opd": "on-policy distillation",
    "gkd": "on-policy distillation",
}
"""A word in the name of a training script, or after `trl` -> the trainer."""


def other_trainer(settings: Mapping[str, object]) -> str | None:
    """Name the trainer whose recipe this is, and say what gives it away; None for GRPO, supervised fine-tuning, or nothing known."""
    for trainer, names in ONLY_THEIR_SETTINGS.items():
        found = [setting for setting in settings if setting in names.split()]
        if found:
            return f"{', '.join(found[:3])}: only recipes of {trainer} have such settings, and {TRAINERS}; run it with TRL"
    loss = settings.get("loss_type")
    trainer = next((trainer for losses, trainer in LOSS_TYPES.items() if loss in losses.split()), None)
    return f"loss_type: {loss} is a loss of {trainer}, and {TRAINERS}; run it with TRL" if trainer else None


def trainer_of_script(script: str) -> str | None:
    """The trainer that a script's name tells, such as `DPO` of `training/dpo_training.py`; `GRPO` and `SFT` are those of rollcast."""
    words = set(re.findall(r"[a-z]+", script.rsplit("/", 1)[-1].lower()))
    if "grpo" in words:
        return "GRPO"
    if {"sft", "supervised"} & words:
        return "SFT"
    return next((trainer for word, trainer in SCRIPT_NAMES.items() if word in words), None)
