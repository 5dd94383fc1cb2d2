"""Tables of the GRPO settings of TRL, Open-R1 and MedicalGPT. Every setting is in exactly one table; `configs.recipes.conversion`
applies them.

The names are those of TRL 1.16 (GRPOConfig with transformers' TrainingArguments, ModelConfig, ScriptArguments), of Open-R1's and
MedicalGPT's GRPO scripts, of their launchers, and names that older versions had.
"""

from __future__ import annotations

from collections.abc import Mapping

from configs.recipes.shared_keys import ADAMW, BEST, COLUMNS, EVALUATING, LOADING, SHARED
from configs.recipes.tables import KeyTables
from configs.yaml_files import YamlValue

GRPO_KEYS = SHARED | KeyTables(
    old_names={
        "dataset_splits": "dataset_train_split",
        "provider_type": "code_provider",
        "subset_name": "dataset_config",
        "use_liger_loss": "use_liger_kernel",
        "use_transformers_paged": "use_transformers_continuous_batching",
        "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
        "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
        "vllm_max_model_len": "vllm_max_model_length",
        "wandb_log_unique_prompts": "log_unique_prompts",
    },
    targets={
        "beta": "learner.beta",
        "dataset_prompt_column": "data.prompt_column",
        "entropy_coef": "learner.entropy_coef",
        "epsilon": "learner.epsilon",
        "epsilon_high": "learner.epsilon_high",
        "importance_sampling_level": "learner.importance_sampling_level",
        "log_completions": "cluster.log_completions",
        "log_unique_prompts": "cluster.log_unique_prompts",
        "lora_alpha": "model.lora.alpha",
        "lora_dropout": "model.lora.dropout",
        "lora_r": "model.lora.r",
        "loss_type": "learner.loss_type",
        "mask_truncated_completions": "learner.mask_truncated_completions",
        "max_completion_length": "actors.max_completion_length",
        "max_prompt_length": "data.max_prompt_length",
        "num_completions_to_print": "cluster.num_completions_to_print",
        "num_generations": "actors.num_generations",
        "num_iterations": "learner.num_iterations",
        "pass_rate_max": "data.max_pass_rate",
        "pass_rate_min": "data.min_pass_rate",
        "shuffle_dataset": "data.shuffle",
        "system_prompt": "data.system_prompt",
        "temperature": "actors.temperature",
        "top_p": "actors.top_p",
        "use_bias_correction_kl": "learner.use_bias_correction_kl",
        "use_rslora": "model.lora.use_rslora",
        "vllm_importance_sampling_clip_max": "learner.importance_sampling_cap",
        "vllm_importance_sampling_clip_min": "learner.importance_sampling_floor",
    },
    by_rule={
        "code_eval_scoring_mode": "`scoring_mode` of the reward `cf_code`",
        "code_eval_test_batch_size": "`test_batch_size` of the rewards `ioi_code` and `cf_code`",
        "code_language": "`language` of the reward `code_format`",
        "code_provider": "`provider` of the rewards `code` and `binary_code`",
        "cosine_max_len": "`max_len` of the reward `cosine`",
        "cosine_max_value_correct": "`max_value_correct` of the reward `cosine`",
        "cosine_max_value_wrong": "`max_value_wrong` of the reward `cosine`",
        "cosine_min_value_correct": "`min_value_correct` of the reward `cosine`",
        "cosine_min_value_wrong": "`min_value_wrong` of the reward `cosine`",
        "disable_dropout": "`model.lora.dropout: 0`",
        "eval_steps": "`evaluation.steps`, with `eval_strategy: steps`; below 1 a share of `max_steps`; if not given, `logging_steps`",
        "eval_strategy": "`data.eval_samples`: 0 for `no`; `evaluation.steps` for `steps`",
        "generation_batch_size": "`cluster.sync_every_steps`: optimizer steps per batch of completions",
        "hub_model_id": "`cluster.push_to_hub.hub_model_id`, if `push_to_hub` is true",
        "hub_model_revision": "`cluster.push_to_hub.hub_model_revision`, if `push_to_hub` is true",
        "hub_private_repo": "`cluster.push_to_hub.hub_private_repo`, if `push_to_hub` is true",
        "hub_strategy": "`cluster.push_to_hub.hub_strategy`: `checkpoint` and `all_checkpoints` become `every_save`, whose commits "
        "keep each adapter",
        "ioi_provider": "`provider` of the reward `ioi_code`",
        "max_completion_len": "`max_completion_len` of the reward `soft_overlong_punishment`",
        "multi_objective_aggregation": "`rewards.aggregation`: `sum_then_normalize` becomes `sum`",
        "num_generations_eval": "`evaluation.num_generations`, if `evaluation.steps` is set",
        "num_processes": "`learner.ranks`; all GPUs together if the engine has none of its own",
        "push_to_hub": "the section `cluster.push_to_hub`, if true",
        "repetition_max_penalty": "`max_penalty` of the reward `repetition_penalty`",
        "repetition_n_grams": "`ngram_size` of the reward `repetition_penalty`",
        "reward_funcs": "`rewards.functions`; `package.module.function` becomes `package.module:function`",
        "reward_weights": "`weight` of each of `rewards.functions`",
        "scale_rewards": "`learner.scale_rewards`: true becomes `group`, false `none`",
        "soft_punish_cache": "`soft_punish_cache` of the reward `soft_overlong_punishment`",
        "steps_per_generation": "`cluster.sync_every_steps` = steps_per_generation / gradient_accumulation_steps",
        "tokenizer_name_or_path": "refused unless it is the model: prompts, rollouts and learner share the model's own tokenizer",
        "top_k": "`actors.top_k`: 0 becomes -1",
        "train_samples": "`data.train_samples`",
        "use_cpu": "`actors.gpus_per_worker: 0` and `learner.gpus_per_rank: 0`",
        "use_peft": "an adapter is always trained: `model.lora`",
        "use_vllm": "placement: vLLM always samples; true (without `vllm_mode: colocate`) gives it GPUs besides those of `num_processes`",
        "vllm_gpu_memory_utilization": "`actors.gpu_memory_utilization`",
        "vllm_importance_sampling_correction": "`learner.importance_sampling_mode: none` if false",
        "vllm_importance_sampling_mode": "`learner.importance_sampling_mode`",
        "vllm_mode": "placement: `server` gives vLLM GPUs of its own, `colocate` those of `num_processes`",
        "vllm_tensor_parallel_size": "`actors.gpus_per_worker`",
    },
    refused={
        "chat_template_kwargs": (({},), "write the values into a template and give it as chat_template"),
        "delta": ((), "there is no two-sided clipping; remove it, or bound the ratio with epsilon_high"),
        "generation_kwargs": (({},), "sampling has temperature, top_p and top_k; give these as settings of their own"),
        "label_smoothing_factor": ((0,), "the policy gradient has no labels to smooth; remove it"),
        "max_tool_calling_iterations": ((), "rollouts have one turn and call no tools; remove it"),
        "min_p": ((0,), "sampling has temperature, top_p and top_k; remove it"),
        "neftune_noise_alpha": ((0,), "noise on embeddings would make the learner's policy differ from the sampling policy; remove it"),
        "off_policy_mask_threshold": ((), "cluster.max_staleness and importance sampling bound off-policy sequences; remove it"),
        "optim": (ADAMW, "the optimizer is AdamW in float32, on the adapter only; remove it"),
        "repetition_penalty": ((1,), "sampling has temperature, top_p and top_k; use the reward repetition_penalty instead"),
        "reward_model_name_or_path": ((), "write a function that calls the model, and list it in reward_funcs as path/to/file.py:function"),
        "router_aux_loss_coef": ((0,), "the router of a mixture of experts is frozen; remove it"),
        "sync_ref_model": ((False,), "the reference is the frozen base model; set it to false"),
        "top_entropy_quantile": ((1,), "every token counts in the loss; remove it"),
        "use_adaptive_entropy": ((False,), "entropy_coef is constant; set it to false"),
        "vllm_structured_outputs_regex": ((), "sampling is unconstrained; remove it, and reward the format instead"),
    },
    no_effect_because={
        "every column reaches the rewards": COLUMNS,
        "the learner is DeepSpeed ZeRO-2, whatever this says": "ds3_gather_for_generation",
        "the base is frozen and the learner samples nothing": "cache_implementation use_cache use_transformers_continuous_batching "
        "transformers_continuous_batching_config",
        "micro-batches are packed up to learner.token_budget": "train_sampling_strategy",
        "prompts are read by the driver": LOADING,
        "a run on the CPU with cluster.max_staleness=0 is reproducible bit by bit": "full_determinism",
        "logits are always computed in float32": "cast_lm_head_to_fp32",
        "rollcast places the engines": "vllm_device vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout "
        "vllm_group_port",
        "the engine's own default is used": "vllm_dtype vllm_enable_prefix_caching vllm_enable_sleep_mode vllm_model_impl",
        "it is data.max_prompt_length + actors.max_completion_length": "vllm_max_model_length",
        "held-out prompts are answered before and after training, and during it when the engines have room": EVALUATING,
        "the last adapter is the result": BEST,
        "cluster.logged_groups_per_step groups of each step are written to completions/*.parquet": "log_completions_hub_repo "
        "log_multimodal",
        "pushes run one at a time, and only the newest waits": "hub_always_push",
        "every push is a commit on the branch hub_model_revision": "overwrite_hub_revision push_to_hub_revision",
        "hub_model_id names the organisation": "push_to_hub_organization",
        "the reference is the frozen base model": "ref_model_mixup_alpha ref_model_sync_steps",
        "it belongs to a loss_type or an entropy control that is not offered": "entropy_coef_delta entropy_coef_max entropy_coef_min "
        "entropy_target sapo_temperature_neg sapo_temperature_pos vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos",
        "rewards.graders_per_worker sets how many completions are graded at once": "parallel_code_exec_per_proc",
        "e2b and morph are called without a router": "e2b_router_url morph_router_url",
    },
    accelerate={
        "deepspeed_config.offload_param_device": "refused unless `none`: the frozen base stays on the GPU",
        "deepspeed_config.zero_stage": "the learner is ZeRO-2: with an adapter, stages 1 to 3 differ only in how the frozen base "
        "is held, here whole on each GPU",
    },
    on_the_gpu="the frozen base",
)

DEFAULTS: Mapping[str, YamlValue] = {
    "learner.beta": 0.04,
    "learner.loss_type": "bnpo",
    "learner.scale_rewards": "group",
    "learner.epsilon": 0.2,
    "learner.learning_rate": 1e-6,
    "learner.lr_scheduler_type": "linear",
    "learner.num_train_epochs": 3.0,
    "learner.max_grad_norm": 1.0,
    "data.max_prompt_length": 512,
    "actors.max_completion_length": 256,
    "actors.num_generations": 8,
    "actors.temperature": 1.0,
    "seed": 42,
}
"""Values of the settings that a recipe does not give: defaults of TRL 0.18, for which Open-R1's recipes were written.

`python -m benchmarks.trl_defaults` compares them with the published wheels."""

REWARDS = (
    *("accuracy", "reasoning_accuracy", "format", "think_format", "tag_count", "reasoning_steps", "length", "cosine", "repetition_penalty"),
    *("soft_overlong_punishment", "code", "binary_code", "code_format", "ioi_code", "cf_code", "fluency"),
    *("text_f1", "rouge_l", "contains_gold", "choice", "reasoning_gym"),
)
"""Built-in rewards."""

REWARD_PARAMS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "code_eval_scoring_mode": (("cf_code", "scoring_mode"),),
    "code_eval_test_batch_size": (("ioi_code", "test_batch_size"), ("cf_code", "test_batch_size")),
    "code_language": (("code_format", "language"),),
    "code_provider": (("code", "provider"), ("binary_code", "provider")),
    "cosine_max_len": (("cosine", "max_len"),),
    "cosine_max_value_correct": (("cosine", "max_value_correct"),),
    "cosine_max_value_wrong": (("cosine", "max_value_wrong"),),
    "cosine_min_value_correct": (("cosine", "min_value_correct"),),
    "cosine_min_value_wrong": (("cosine", "min_value_wrong"),),
    "ioi_provider": (("ioi_code", "provider"),),
    "max_completion_len": (("soft_overlong_punishment", "max_completion_len"),),
    "repetition_max_penalty": (("repetition_penalty", "max_penalty"),),
    "repetition_n_grams": (("repetition_penalty", "ngram_size"),),
    "soft_punish_cache": (("soft_overlong_punishment", "soft_punish_cache"),),
}
"""Setting -> the (reward, parameter) pairs that take its value, if the reward is chosen."""

OPEN_R1_PARAMS: Mapping[str, Mapping[str, tuple[YamlValue, str]]] = {
    "accuracy": {"on_unparsable_answer": ("skip", "Open-R1's accuracy leaves out completions whose gold answer cannot be read")},
    "cosine": {"min_value_wrong": (0.0, "the default of Open-R1's script, where its function has -1")},
    "cf_code": {"scoring_mode": ("weighted_sum", "the default of Open-R1's script")},
}
MEDICAL_PARAMS: Mapping[str, Mapping[str, tuple[YamlValue, str]]] = {
    "accuracy": {"answer_style": ("answer_tag", "MedicalGPT's accuracy reads the text between <answer> and </answer>")},
    "format": {"layout": ("inline", "MedicalGPT's format wants everything in one line")},
}
"""Reward -> parameter -> (the value that it has in the script, why), where a recipe cannot or does not give it."""

MEDICAL = frozenset({"train_file_dir", "train_samples", "subset_name", "dataset_splits", "preprocessing_num_workers", "qlora"})
"""Settings, as written, that only MedicalGPT's script has."""


if __name__ == "__main__":
    print(GRPO_KEYS.markdown(), end="")
