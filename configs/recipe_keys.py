"""What each setting of TRL, Open-R1 and MedicalGPT is here. Every key is in exactly one table; `configs.recipes` does what they say.

The names are those of TRL 1.16 (GRPOConfig with transformers' TrainingArguments, ModelConfig, ScriptArguments), of Open-R1's and MedicalGPT's
GRPO scripts, of their launchers, and names that older versions had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OLD_NAMES: Mapping[str, str] = {
    "dataset_splits": "dataset_train_split",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "nproc_per_node": "num_processes",
    "provider_type": "code_provider",
    "subset_name": "dataset_config",
    "torch_dtype": "dtype",
    "use_liger_loss": "use_liger_kernel",
    "use_transformers_paged": "use_transformers_continuous_batching",
    "vllm_guided_decoding_regex": "vllm_structured_outputs_regex",
    "vllm_importance_sampling_cap": "vllm_importance_sampling_clip_max",
    "vllm_max_model_len": "vllm_max_model_length",
    "wandb_log_unique_prompts": "log_unique_prompts",
}
"""Another version's or launcher's name -> the name in the tables below."""

TARGETS: Mapping[str, str] = {
    "adam_beta1": "learner.adam_beta1",
    "adam_beta2": "learner.adam_beta2",
    "adam_epsilon": "learner.adam_epsilon",
    "beta": "learner.beta",
    "chat_template": "model.chat_template",
    "dataset_prompt_column": "data.prompt_column",
    "entropy_coef": "learner.entropy_coef",
    "epsilon": "learner.epsilon",
    "epsilon_high": "learner.epsilon_high",
    "gradient_checkpointing": "learner.gradient_checkpointing",
    "importance_sampling_level": "learner.importance_sampling_level",
    "learning_rate": "learner.learning_rate",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_r": "model.lora.r",
    "loss_type": "learner.loss_type",
    "mask_truncated_completions": "learner.mask_truncated_completions",
    "max_completion_length": "actors.max_completion_length",
    "max_grad_norm": "learner.max_grad_norm",
    "max_prompt_length": "data.max_prompt_length",
    "max_steps": "learner.max_steps",
    "model_name_or_path": "model.path",
    "num_generations": "actors.num_generations",
    "num_iterations": "learner.num_iterations",
    "num_train_epochs": "learner.num_train_epochs",
    "output_dir": "out_dir",
    "save_total_limit": "cluster.save_total_limit",
    "seed": "seed",
    "shuffle_dataset": "data.shuffle",
    "system_prompt": "data.system_prompt",
    "temperature": "actors.temperature",
    "top_p": "actors.top_p",
    "trust_remote_code": "model.trust_remote_code",
    "use_bias_correction_kl": "learner.use_bias_correction_kl",
    "use_rslora": "model.lora.use_rslora",
    "vllm_importance_sampling_clip_max": "learner.importance_sampling_cap",
    "vllm_importance_sampling_clip_min": "learner.importance_sampling_floor",
    "weight_decay": "learner.weight_decay",
}
"""Setting -> the key of a run that takes its value as it stands."""

WORKED_OUT: Mapping[str, str] = {
    "attn_implementation": "`model.attn_implementation`: `eager`, and `sdpa` for all others; it calls the flash kernel where there is one",
    "bf16": "`model.dtype: bfloat16`",
    "code_eval_scoring_mode": "`scoring_mode` of the reward `cf_code`",
    "code_eval_test_batch_size": "`test_batch_size` of the rewards `ioi_code` and `cf_code`",
    "code_language": "`language` of the reward `code_format`",
    "code_provider": "`provider` of the rewards `code` and `binary_code`",
    "cosine_max_len": "`max_len` of the reward `cosine`",
    "cosine_max_value_correct": "`max_value_correct` of the reward `cosine`",
    "cosine_max_value_wrong": "`max_value_wrong` of the reward `cosine`",
    "cosine_min_value_correct": "`min_value_correct` of the reward `cosine`",
    "cosine_min_value_wrong": "`min_value_wrong` of the reward `cosine`",
    "dataset_config": "`data.name`",
    "dataset_mixture": "`data.mixture`: `id` is `path`, `config` is `name`",
    "dataset_name": "`data.path`",
    "dataset_streaming": "`data.streaming`",
    "dataset_train_split": "`data.split`",
    "datasets": "`data.mixture.datasets`",
    "dataset_test_split": "`data.eval_split` with `data.eval_path`, where the recipe evaluates",
    "disable_dropout": "`model.lora.dropout: 0`",
    "do_eval": "`data.eval_samples`: 0 without evaluation",
    "dtype": "`model.dtype`; `auto` is `bfloat16`",
    "eval_steps": "`evaluation.steps`, with `eval_strategy: steps`; a share of `max_steps` below 1; without it `logging_steps`",
    "eval_strategy": "`data.eval_samples`: 0 for `no`; `evaluation.steps` for `steps`",
    "fp16": "refused if true: the learner has no loss scaling; use `bf16`",
    "generation_batch_size": "`cluster.sync_every_steps`: optimizer steps for each batch of completions",
    "gradient_accumulation_steps": "`learner.train_batch_size` = per_device_train_batch_size x gradient_accumulation_steps x num_processes",
    "ioi_provider": "`provider` of the reward `ioi_code`",
    "load_in_4bit": "`model.quantization: nf4`",
    "load_in_8bit": "`model.quantization: int8`",
    "logging_steps": "`cluster.logging_steps`; of a share of all steps, the number where `max_steps` is known",
    "lora_target_modules": "`model.lora.target_modules`; `all` is `all-linear`",
    "lr_scheduler_kwargs": "`learner.min_lr_rate`, from `min_lr_rate` or from `min_lr` / `learning_rate`",
    "lr_scheduler_type": "`learner.lr_scheduler_type`",
    "max_completion_len": "`max_completion_len` of the reward `soft_overlong_punishment`",
    "model_init_kwargs": "what it holds, as if given beside it",
    "model_revision": "`model.revision`",
    "multi_objective_aggregation": "`rewards.aggregation`: `sum_then_normalize` is `sum`",
    "num_generations_eval": "`evaluation.num_generations`, where `evaluation.steps` is set",
    "num_processes": "`learner.ranks`; GPUs in all where the engine of the recipe has none of its own",
    "per_device_train_batch_size": "`learner.train_batch_size`, see `gradient_accumulation_steps`",
    "qlora": "`model.quantization: nf4`",
    "repetition_max_penalty": "`max_penalty` of the reward `repetition_penalty`",
    "repetition_n_grams": "`ngram_size` of the reward `repetition_penalty`",
    "reward_funcs": "`rewards.functions`; `package.module.function` is `package.module:function`",
    "reward_weights": "`weight` of each of `rewards.functions`",
    "save_steps": "`cluster.save_steps`; of a share of all steps, the number where `max_steps` is known",
    "save_strategy": "`cluster.save_steps`: 0 (only at the end) for `no`",
    "scale_rewards": "`learner.scale_rewards`: true is `group`, false `none`",
    "soft_punish_cache": "`soft_punish_cache` of the reward `soft_overlong_punishment`",
    "steps_per_generation": "`cluster.sync_every_steps` = steps_per_generation / gradient_accumulation_steps",
    "streaming": "`data.streaming`, as `dataset_streaming`",
    "test_split_size": "`data.mixture.test_split_size`, with `datasets`",
    "tokenizer_name_or_path": "refused unless it is the model: prompts, rollouts and learner share the model's own tokenizer",
    "top_k": "`actors.top_k`: 0 is -1",
    "train_file_dir": "`data.path`",
    "train_samples": "`data.train_samples`",
    "use_cpu": "`actors.gpus_per_worker: 0` and `learner.gpus_per_rank: 0`",
    "use_peft": "an adapter is trained either way: `model.lora`",
    "use_vllm": "placement: vLLM samples either way; true (without `vllm_mode: colocate`) puts it on GPUs beside those of `num_processes`",
    "vllm_gpu_memory_utilization": "`actors.gpu_memory_utilization`",
    "vllm_importance_sampling_correction": "`learner.importance_sampling_mode: none` if false",
    "vllm_importance_sampling_mode": "`learner.importance_sampling_mode`",
    "vllm_mode": "placement: `server` puts vLLM on GPUs of its own, `colocate` on those of `num_processes`",
    "vllm_tensor_parallel_size": "`actors.gpus_per_worker`",
    "warmup_ratio": "`learner.warmup_ratio`",
    "warmup_steps": "`learner.warmup_steps`; below 1 it is a share of all steps: `learner.warmup_ratio`",
}
"""Setting -> in words, what `configs.recipes` makes of it, often together with others."""

REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "chat_template_kwargs": (({},), "write the values into a template and give it as chat_template"),
    "delta": ((), "two-sided clipping is not supported; remove it, or bound the ratio with epsilon_high"),
    "generation_kwargs": (({},), "give temperature, top_p and top_k by themselves; other sampling parameters are not supported"),
    "label_smoothing_factor": ((0,), "the policy gradient has no labels to smooth; remove it"),
    "lora_modules_to_save": (([],), "vLLM serves the base model's own embeddings and head; remove it"),
    "lora_target_parameters": (([],), "adapters go on linear modules; name them in lora_target_modules"),
    "lora_task_type": (("CAUSAL_LM",), "only causal language models are trained; remove it"),
    "bnb_4bit_quant_type": (("nf4",), "4-bit bases are NormalFloat; use nf4"),
    "max_tool_calling_iterations": ((), "rollouts have one turn and call no tools; remove it"),
    "min_p": ((0,), "sampling has temperature, top_p and top_k; remove it"),
    "neftune_noise_alpha": ((0,), "noise on embeddings would make the learner's policy differ from the sampled one; remove it"),
    "off_policy_mask_threshold": ((), "off-policy sequences are bounded by cluster.max_staleness and importance sampling; remove it"),
    "optim": (
        (
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_hf",
            "adamw_apex_fused",
            "adamw_anyprecision",
            "adamw_8bit",
            "adamw_bnb_8bit",
            "paged_adamw",
            "paged_adamw_32bit",
            "paged_adamw_8bit",
        ),
        "the optimizer is AdamW in float32, over the adapter alone; remove it",
    ),
    "optim_args": (("",), "set adam_beta1, adam_beta2, adam_epsilon and weight_decay by themselves"),
    "optim_target_modules": ((), "it belongs to GaLore and APOLLO, which are not supported; remove it"),
    "repetition_penalty": ((1,), "sampling has temperature, top_p and top_k; use the reward repetition_penalty instead"),
    "reward_model_name_or_path": ((), "write a function that calls the model, and list it in reward_funcs as path/to/file.py:function"),
    "router_aux_loss_coef": ((0,), "the router of a mixture of experts is frozen; remove it"),
    "sync_ref_model": ((False,), "the reference is the frozen base model; set it to false"),
    "top_entropy_quantile": ((1,), "every token counts in the loss; remove it"),
    "use_adaptive_entropy": ((False,), "entropy_coef is constant; set it to false"),
    "use_dora": ((False,), "vLLM cannot serve DoRA; set it to false"),
    "vllm_structured_outputs_regex": ((), "sampling is unconstrained; remove it, and reward the format instead"),
}
"""Setting -> the values that ask for nothing (null is always one), and what to do about any other, which ends with an error."""

_NO_EFFECT_BECAUSE: Mapping[str, str] = {
    "every column reaches the rewards": "label_names length_column_name remove_unused_columns",
    "processes are placed by Ray": "ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout "
    "local_rank accelerator_config parallelism_config tpu_num_cores use_ipex use_mps_device ray_scope",
    "the learner is DeepSpeed ZeRO-2, whatever this says": "deepspeed ds3_gather_for_generation fsdp fsdp_config fsdp_min_num_params "
    "fsdp_transformer_layer_cls_to_wrap",
    "the base is frozen and the learner samples nothing": "cache_implementation use_cache use_transformers_continuous_batching "
    "transformers_continuous_batching_config",
    "log-probabilities are computed in chunks over the vocabulary in any case": "use_liger_kernel liger_kernel_config",
    "nothing is compiled": "torch_compile torch_compile_backend torch_compile_mode torchdynamo jit_mode_eval",
    "checkpointing is never re-entrant": "gradient_checkpointing_kwargs gradient_checkpointing_use_reentrant",
    "micro-batches are packed up to learner.token_budget": "auto_find_batch_size average_tokens_across_devices group_by_length "
    "pad_to_multiple_of train_sampling_strategy torch_empty_cache_steps",
    "prompts are read by the driver": "dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers "
    "dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor preprocessing_num_workers dispatch_batches split_batches "
    "dataset_num_proc",
    "one seed holds for everything": "data_seed",
    "with cluster.max_staleness=0 a run on the CPU is reproducible bit by bit": "full_determinism",
    "logits are computed in float32 in any case": "cast_lm_head_to_fp32",
    "precision is model.dtype": "bf16_full_eval fp16_full_eval fp16_backend fp16_opt_level half_precision_backend tf32",
    "the placement is decided here": "vllm_device vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port",
    "the engine's own default holds": "vllm_dtype vllm_enable_prefix_caching vllm_enable_sleep_mode vllm_model_impl",
    "it is data.max_prompt_length + actors.max_completion_length": "vllm_max_model_length",
    "held-out prompts are answered before and after training, and beside it where the engines have room": "batch_eval_metrics "
    "eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_use_gather_object include_for_metrics per_device_eval_batch_size "
    "prediction_loss_only do_predict include_inputs_for_metrics",
    "the last adapter is the result": "load_best_model_at_end metric_for_best_model greater_is_better",
    "checkpoints are whole, and are resumed with --resume": "do_train enable_jit_checkpoint ignore_data_skip overwrite_output_dir "
    "restore_callback_states_from_checkpoint resume_from_checkpoint save_on_each_node save_only_model save_safetensors",
    "metrics go to metrics.jsonl, TensorBoard and Ray's metrics at every step": "report_to include_num_input_tokens_seen "
    "include_tokens_per_second logging_dir logging_first_step logging_nan_inf_filter logging_strategy run_name project trackio_bucket_id "
    "trackio_space_id trackio_static_space_id wandb_entity wandb_project wandb_run_group",
    "each process has a log file in out_dir/logs": "debug disable_tqdm log_level log_level_replica log_on_each_node skip_memory_metrics",
    "completions are written to completions/*.parquet, cluster.logged_groups_per_step groups a step": "log_completions "
    "log_completions_hub_repo log_multimodal log_unique_prompts num_completions_to_print",
    "nothing is pushed while training; the result is out_dir/adapter": "hub_always_push hub_model_id hub_model_revision hub_private_repo "
    "hub_revision hub_strategy hub_token overwrite_hub_revision push_to_hub push_to_hub_revision push_to_hub_model_id push_to_hub_token "
    "push_to_hub_organization",
    "benchmarks and callbacks of the script are not run": "benchmarks callbacks",
    "the reference is the frozen base model": "ref_model_mixup_alpha ref_model_sync_steps",
    "it belongs to a loss_type or an entropy control that is not offered": "entropy_coef_delta entropy_coef_max entropy_coef_min entropy_target "
    "sapo_temperature_neg sapo_temperature_pos vespo_k_neg vespo_k_pos vespo_lambda_neg vespo_lambda_pos",
    "rewards.graders_per_worker says how many completions are graded at once": "parallel_code_exec_per_proc",
    "e2b and morph are called without a router": "e2b_router_url morph_router_url",
    "4-bit scales are quantised again, and stored as bytes, in any case": "bnb_4bit_quant_storage use_bnb_nested_quant",
    "it concerns models with mask buffers alone": "ignore_bias_buffers",
    "it concerns encoder models or other trainers": "past_index mp_parameters",
}

NO_EFFECT: Mapping[str, str] = {key: why for why, keys in _NO_EFFECT_BECAUSE.items() for key in keys.split()}
"""Setting -> why it has no effect here."""

SECRETS = frozenset({"hub_token", "push_to_hub_token"})
"""Settings whose value is never shown."""

ACCELERATE_NO_EFFECT: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "compute_environment",
            "distributed_type",
            "dynamo_config",
            "enable_cpu_affinity",
            "gpu_ids",
            "ipex_config",
            "machine_rank",
            "main_process_ip",
            "main_process_port",
            "main_training_function",
            "mpirun_config",
            "num_machines",
            "rdzv_backend",
            "same_network",
            "tpu_env",
            "tpu_use_cluster",
            "tpu_use_sudo",
            "tpu_name",
            "tpu_zone",
            "deepspeed_config.deepspeed_hostfile",
            "deepspeed_config.deepspeed_multinode_launcher",
            "deepspeed_config.deepspeed_exclusion_filter",
            "deepspeed_config.deepspeed_inclusion_filter",
        ),
        "processes are placed by Ray",
    ),
    **dict.fromkeys(
        (
            "fsdp_config",
            "megatron_lm_config",
            "parallelism_config",
            "deepspeed_config.deepspeed_config_file",
            "deepspeed_config.zero3_init_flag",
            "deepspeed_config.zero3_save_16bit_model",
            "deepspeed_config.deepspeed_moe_layer_cls_names",
        ),
        "the learner is DeepSpeed ZeRO-2, whatever this says",
    ),
    "debug": "each process has a log file in out_dir/logs",
    "deepspeed_config.gradient_accumulation_steps": "the recipe's gradient_accumulation_steps holds",
    "deepspeed_config.gradient_clipping": "the recipe's max_grad_norm holds",
    "downcast_bf16": "it concerns TPUs",
    "fp8_config": "precision is model.dtype",
}
"""Key of an accelerate file (nested ones with a dot) -> why it has no effect here."""

ACCELERATE_WORKED_OUT: Mapping[str, str] = {
    "deepspeed_config.offload_optimizer_device": "`learner.offload_optimizer: true` for `cpu`",
    "deepspeed_config.offload_param_device": "refused unless `none`: the frozen base stays on the GPU",
    "deepspeed_config.zero_stage": "the learner is ZeRO-2: with an adapter, stages 1 to 3 differ in how the frozen base is held, here whole on each GPU",
    "mixed_precision": "`model.dtype`, where the recipe has neither `bf16` nor `dtype`",
    "num_processes": "`learner.ranks`",
    "use_cpu": "as `use_cpu` of a recipe",
}

DEFAULTS: Mapping[str, Any] = {
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
"""What a recipe that does not say otherwise ran with: defaults of TRL 0.14 to 0.19, which Open-R1's recipes were written for."""

REWARDS = (
    *("accuracy", "reasoning_accuracy", "format", "think_format", "tag_count", "reasoning_steps", "length", "cosine", "repetition_penalty"),
    *("soft_overlong_punishment", "code", "binary_code", "code_format", "ioi_code", "cf_code", "fluency"),
)
"""Built-in rewards."""

REWARD_NAMES: Mapping[str, str] = {
    "accuracy_reward": "accuracy",
    "binary_code_reward": "binary_code",
    "cf_code_reward": "cf_code",
    "code_reward": "code",
    "format_reward": "format",
    "get_code_format_reward": "code_format",
    "get_cosine_scaled_reward": "cosine",
    "get_repetition_penalty_reward": "repetition_penalty",
    "get_soft_overlong_punishment": "soft_overlong_punishment",
    "ioi_code_reward": "ioi_code",
    "len_reward": "length",
    "reasoning_accuracy_reward": "reasoning_accuracy",
    "reasoning_steps_reward": "reasoning_steps",
    "tag_count_reward": "tag_count",
    "think_format_reward": "think_format",
}
"""Names of functions in TRL and Open-R1 -> built-in rewards."""

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
"""Setting -> (reward, parameter) that take its value, where the reward is chosen."""

MEDICAL = frozenset({"train_file_dir", "train_samples", "subset_name", "dataset_splits", "preprocessing_num_workers", "qlora"})
"""Settings, as written, that MedicalGPT's script has and the others have not."""

KNOWN: frozenset[str] = frozenset().union(OLD_NAMES, TARGETS, WORKED_OUT, REFUSED, NO_EFFECT)
"""Every name that a recipe may use."""


def markdown() -> str:
    """The tables for docs/recipes.md."""
    cells = {setting: f"`{target}`" for setting, target in TARGETS.items()} | dict(WORKED_OUT)
    cells |= {setting: f"refused{_unless(neutral)}: {remedy}" for setting, (neutral, remedy) in REFUSED.items()}
    cells |= {old: f"an old name of `{new}`" for old, new in OLD_NAMES.items()}
    lines = ["| setting | here |", "|---|---|", *(f"| `{setting}` | {cells[setting]} |" for setting in sorted(cells))]
    lines += ["", "No effect:", "", "| because | settings |", "|---|---|"]
    lines += [f"| {why} | {' '.join(f'`{key}`' for key in sorted(keys.split()))} |" for why, keys in _NO_EFFECT_BECAUSE.items()]
    return "\n".join(lines) + "\n"


def _unless(neutral: tuple[Any, ...]) -> str:
    shown = ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in neutral if value not in ("", [], {}))
    return f" unless {shown}" if shown else ""


if __name__ == "__main__":
    print(markdown(), end="")
