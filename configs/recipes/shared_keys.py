"""Tables of the settings that recipes of every trainer have: transformers' TrainingArguments, TRL's ModelConfig, data and launchers.

`configs.recipes.grpo_keys` (GRPO) and `configs.recipes.sft_keys` (supervised fine-tuning) add their own.
"""

from __future__ import annotations

from configs.recipes.tables import KeyTables

# COLUMNS, LOADING, EVALUATING and BEST name settings of every trainer that have no effect here; the reason differs by kind of recipe.
COLUMNS = "label_names length_column_name remove_unused_columns"
LOADING = (
    "dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers "
    "dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor preprocessing_num_workers dispatch_batches "
    "split_batches dataset_num_proc"
)
EVALUATING = (
    "batch_eval_metrics eval_accumulation_steps eval_delay eval_do_concat_batches eval_on_start eval_use_gather_object "
    "include_for_metrics per_device_eval_batch_size prediction_loss_only do_predict include_inputs_for_metrics"
)
BEST = "load_best_model_at_end metric_for_best_model greater_is_better"

ADAMW = (
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
)
"""Optimizers that compute what the learner's AdamW computes."""

LAUNCHERS = (
    "deepspeed_multinode_launcher exclude gpu_ids hostfile include machine_rank main_process_ip main_process_port master_addr master_port "
    "max_restarts monitor_interval multi_gpu node_rank num_cpu_threads_per_process num_machines rdzv_backend rdzv_conf rdzv_endpoint rdzv_id "
    "same_network standalone start_method"
)
"""Options of accelerate, torchrun and deepspeed that say where processes run."""

SHARED = KeyTables(
    old_names={
        "evaluation_strategy": "eval_strategy",
        "hub_revision": "hub_model_revision",
        "no_cuda": "use_cpu",
        "nproc_per_node": "num_processes",
        "num_gpus": "num_processes",
        "push_to_hub_model_id": "hub_model_id",
        "torch_dtype": "dtype",
    },
    targets={
        "adam_beta1": "learner.adam_beta1",
        "adam_beta2": "learner.adam_beta2",
        "adam_epsilon": "learner.adam_epsilon",
        "chat_template": "model.chat_template",
        "gradient_checkpointing": "learner.gradient_checkpointing",
        "learning_rate": "learner.learning_rate",
        "max_grad_norm": "learner.max_grad_norm",
        "max_steps": "learner.max_steps",
        "model_name_or_path": "model.path",
        "num_train_epochs": "learner.num_train_epochs",
        "output_dir": "out_dir",
        "run_name": "cluster.run_name",
        "save_total_limit": "cluster.save_total_limit",
        "seed": "seed",
        "trust_remote_code": "model.trust_remote_code",
        "weight_decay": "learner.weight_decay",
    },
    by_rule={
        "attn_implementation": "`model.attn_implementation`: `eager`, or `sdpa` for every other value, which uses the flash kernel "
        "where there is one",
        "bf16": "`model.dtype: bfloat16`",
        "data_files": "`data.data_files`; `dataset_name` may then be a format, such as `json`",
        "dataset_config": "`data.name`",
        "dataset_mixture": "`data.mixture`: `id` becomes `path`, `config` becomes `name`",
        "dataset_name": "`data.path`",
        "dataset_streaming": "`data.streaming`",
        "dataset_test_split": "`data.eval_split` with `data.eval_path`, if the recipe evaluates",
        "dataset_train_split": "`data.split`",
        "datasets": "`data.mixture.datasets`",
        "do_eval": "`data.eval_samples`: 0 without evaluation",
        "env": "refused unless empty: set the variables before the command, as in `HF_HOME=/data rollcast train ...`",
        "dtype": "`model.dtype`; `auto` becomes `bfloat16`",
        "fp16": "refused if true: the learner has no loss scaling; use `bf16`",
        "gradient_accumulation_steps": "`learner.train_batch_size` = per_device_train_batch_size x gradient_accumulation_steps x "
        "num_processes",
        "load_in_4bit": "`model.quantization: nf4`",
        "load_in_8bit": "`model.quantization: int8`",
        "logging_steps": "`cluster.logging_steps`; below 1 a share of `max_steps`",
        "lora_target_modules": "`model.lora.target_modules`; `all` becomes `all-linear`",
        "lr_scheduler_kwargs": "`learner.min_lr_rate`, from `min_lr_rate` or from `min_lr` / `learning_rate`",
        "lr_scheduler_type": "`learner.lr_scheduler_type`",
        "model_init_kwargs": "its settings count as if given beside it",
        "model_revision": "`model.revision`",
        "per_device_train_batch_size": "`learner.train_batch_size`, see `gradient_accumulation_steps`",
        "qlora": "`model.quantization: nf4`",
        "report_to": "`cluster.report_to`, which supports `tensorboard` and `wandb`",
        "save_steps": "`cluster.save_steps`; below 1 a share of `max_steps`",
        "save_strategy": "`cluster.save_steps`: 0 (only at the end) for `no`",
        "streaming": "`data.streaming`, as `dataset_streaming`",
        "test_split_size": "`data.mixture.test_split_size`, with `datasets`",
        "train_file_dir": "`data.path`",
        "wandb_entity": "`cluster.wandb_entity`, if `report_to` has wandb",
        "wandb_project": "`cluster.wandb_project`, if `report_to` has wandb",
        "wandb_run_group": "`cluster.wandb_run_group`, if `report_to` has wandb",
        "warmup_ratio": "`learner.warmup_ratio`",
        "warmup_steps": "`learner.warmup_steps`; below 1 a share of all steps: `learner.warmup_ratio`",
    },
    refused={
        "mixed_precision": (("bf16",), "a launcher's option for a recipe without a precision; give bf16 or dtype instead"),
        "nnodes": ((1,), "count the processes of all nodes in num_processes, and remove it"),
        "lora_modules_to_save": (([],), "vLLM serves the base model's own embeddings and head; remove it"),
        "lora_target_parameters": (([],), "adapters go on linear modules; name them in lora_target_modules"),
        "lora_task_type": (("CAUSAL_LM",), "only causal language models are trained; remove it"),
        "bnb_4bit_quant_type": (("nf4",), "4-bit bases are NormalFloat; use nf4"),
        "optim_args": (("",), "the optimizer is AdamW; set adam_beta1, adam_beta2, adam_epsilon and weight_decay instead"),
        "optim_target_modules": ((), "only GaLore and APOLLO use it, and the optimizer is AdamW; remove it"),
        "use_dora": ((False,), "vLLM cannot serve DoRA; set it to false"),
    },
    no_effect_because={
        "processes are placed by Ray": "ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters "
        "ddp_static_graph ddp_timeout local_rank accelerator_config parallelism_config tpu_num_cores use_ipex use_mps_device ray_scope "
        f"{LAUNCHERS}",
        "the learner is DeepSpeed ZeRO-2, whatever this says": "deepspeed fsdp fsdp_config fsdp_min_num_params "
        "fsdp_transformer_layer_cls_to_wrap deepspeed_config_file use_deepspeed use_fsdp zero_stage",
        "log-probabilities are always computed in chunks over the vocabulary": "use_liger_kernel liger_kernel_config",
        "nothing is compiled": "torch_compile torch_compile_backend torch_compile_mode torchdynamo jit_mode_eval dynamo_backend",
        "checkpointing is never re-entrant": "gradient_checkpointing_kwargs gradient_checkpointing_use_reentrant",
        "micro-batches are packed up to learner.token_budget": "auto_find_batch_size average_tokens_across_devices group_by_length "
        "pad_to_multiple_of torch_empty_cache_steps",
        "one seed is used for everything": "data_seed",
        "model.dtype sets the precision": "bf16_full_eval fp16_full_eval fp16_backend fp16_opt_level half_precision_backend tf32",
        "checkpoints are always complete, and --resume continues from one": "do_train enable_jit_checkpoint ignore_data_skip "
        "overwrite_output_dir restore_callback_states_from_checkpoint resume_from_checkpoint save_on_each_node save_only_model save_safetensors",
        "metrics of every step go to out_dir and to the services in report_to": "include_num_input_tokens_seen include_tokens_per_second "
        "logging_dir logging_first_step logging_nan_inf_filter logging_strategy",
        "Trackio is not supported; metrics.jsonl has everything": "project trackio_bucket_id trackio_space_id trackio_static_space_id",
        "each process has a log file in out_dir/logs": "debug disable_tqdm log_level log_level_replica log_on_each_node "
        "skip_memory_metrics",
        "the token comes from HF_TOKEN or `hf auth login`, never from a file": "hub_token push_to_hub_token",
        "Open-R1's script does not read it; name one as dataset_config": "dataset_configs",
        "benchmarks and callbacks of the script are not run": "benchmarks callbacks",
        "4-bit scales are always quantised again, and stored as bytes": "bnb_4bit_quant_storage use_bnb_nested_quant",
        "it concerns only models with mask buffers": "ignore_bias_buffers",
        "it concerns only encoder models or other trainers": "past_index mp_parameters",
    },
    accelerate={
        "deepspeed_config.offload_optimizer_device": "`learner.offload_optimizer`: true for `cpu`",
        "mixed_precision": "`model.dtype`, if the recipe gives neither `bf16` nor `dtype`",
        "num_processes": "`learner.ranks`",
        "use_cpu": "as `use_cpu` in a recipe",
    },
    accelerate_no_effect={
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
        "deepspeed_config.gradient_accumulation_steps": "the recipe's gradient_accumulation_steps is used",
        "deepspeed_config.gradient_clipping": "the recipe's max_grad_norm is used",
        "downcast_bf16": "it concerns only TPUs",
        "fp8_config": "model.dtype sets the precision",
    },
    text=frozenset(
        {
            "chat_template",
            "system_prompt",
            "model_name_or_path",
            "dataset_name",
            "dataset_config",
            "dataset_test_split",
            "dataset_train_split",
            "hub_model_id",
            "hub_model_revision",
            "output_dir",
            "run_name",
            "model_revision",
            "train_file_dir",
            "wandb_entity",
            "wandb_project",
            "wandb_run_group",
        }
    ),
    secrets=frozenset({"hub_token", "push_to_hub_token"}),
)
