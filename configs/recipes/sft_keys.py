"""What each setting of TRL, Open-R1 and MedicalGPT is in a supervised fine-tuning. Every key is in exactly one table.

The names are those of TRL 1.16 (SFTConfig with transformers' TrainingArguments, ModelConfig, ScriptArguments), of Open-R1's `sft.py` and
MedicalGPT's `supervised_finetuning.py`, of their launchers, and names that older versions had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs.recipes.shared_keys import ADAMW, BEST, COLUMNS, EVALUATING, LOADING, SHARED
from configs.recipes.tables import KeyTables

_ALL_TOKENS = "what stands before an answer has no loss here; remove it"
_ONE_DATA_SET = "one data set is read: give it as dataset_name, or put the files into one folder and give that"

LAUNCHERS = frozenset(
    {
        "machine_rank",
        "main_process_ip",
        "main_process_port",
        "master_addr",
        "master_port",
        "multi_gpu",
        "nnodes",
        "node_rank",
        "num_machines",
    }
)
"""Options of launchers, which stand on shell lines of any trainer."""

SFT_KEYS = SHARED | KeyTables(
    old_names={
        "dataset_config_name": "dataset_config",
        "hf_hub_token": "hub_token",
        "lora_rank": "lora_r",
        "max_seq_length": "max_length",
        "model_max_length": "max_length",
        "modules_to_save": "lora_modules_to_save",
        "neft_alpha": "neftune_noise_alpha",
        "target_modules": "lora_target_modules",
        "use_liger": "use_liger_kernel",
    },
    targets={"eos_token": "model.eos_token"},
    worked_out={
        "chat_template_path": "`model.chat_template`, of a Jinja file",
        "eval_steps": "`learner.eval_steps`, with `eval_strategy: steps`; a share of `max_steps` below 1; without it `logging_steps`",
        "eval_strategy": "`data.eval_samples`: 0 for `no`; `learner.eval_steps` for `steps`",
        "lora_alpha": "`model.lora.alpha`, where an adapter is trained",
        "lora_dropout": "`model.lora.dropout`, where an adapter is trained",
        "lora_r": "`model.lora.r`, where an adapter is trained",
        "max_eval_samples": "`data.eval_samples`, where the recipe evaluates",
        "max_length": "`data.max_length`",
        "max_source_length": "`data.max_length` = max_source_length + max_target_length",
        "max_target_length": "`data.max_length`, see `max_source_length`",
        "max_train_samples": "`data.train_samples`",
        "num_processes": "`learner.ranks`",
        "packing": "rows are always packed, with the same loss; a step of `learner.train_batch_size` counts sequences, not packed rows",
        "peft_path": "`model.adapter`, where an adapter is trained",
        "template_name": "the model's own chat template, which must be of that name; any other is refused",
        "tokenizer_name_or_path": "refused unless it is the model: what is left has the model's own tokenizer",
        "train_sampling_strategy": "`data.shuffle: false` for `sequential`",
        "use_cpu": "`learner.gpus_per_rank: 0`",
        "use_peft": "`learner.use_peft`; without it false for TRL and Open-R1, true for MedicalGPT",
        "use_rslora": "`model.lora.use_rslora`, where an adapter is trained",
        "validation_file_dir": "`data.eval_path`, where the recipe evaluates",
    },
    refused={
        "completion_only_loss": ((True,), _ALL_TOKENS),
        "dataset_kwargs": (({}, {"skip_prepare_dataset": False}), "rows are rendered and tokenised here; remove it"),
        "dataset_mixture": ((), _ONE_DATA_SET),
        "dataset_streaming": ((False,), "rows are tokenised to disk before the first step; set it to false"),
        "dataset_text_field": (
            (),
            "of plain text every token would be trained, and here the answers are; remove it where rows hold messages, and split other "
            "rows into data.prompt_column and data.completion_column",
        ),
        "datasets": (([],), _ONE_DATA_SET),
        "label_smoothing_factor": ((0,), "the loss is the plain log-likelihood; remove it"),
        "loss_type": (("nll", "chunked_nll"), "the loss is the plain log-likelihood; remove it"),
        "neftune_noise_alpha": ((0,), "no noise is put on embeddings; remove it"),
        "nnodes": ((1,), "count the processes of all nodes in num_processes, and remove it"),
        "optim": (ADAMW, "the optimizer is AdamW with float32 weights and moments; remove it"),
        "packing_strategy": (
            ("bfd", "ffd"),
            "no sequence is continued in another row; remove it, and raise max_length to keep long ones whole",
        ),
        "rope_scaling": ((), "write rope_scaling into config.json of a copy of the model"),
        "router_aux_loss_coef": ((0,), "the loss has no term for the router of a mixture of experts; remove it"),
        "shift_attn": ((False,), "attention is the model's own; set it to false"),
        "streaming": ((False,), "rows are tokenised to disk before the first step; set it to false"),
        "test_split_size": ((), "held-out rows are counted; remove it, and write data.eval_samples=N"),
        "tool_format": ((), "turns of tools are rendered by the chat template alone; remove it"),
        "train_on_inputs": ((False,), _ALL_TOKENS),
        "truncation_mode": (("keep_start",), "long sequences are cut off at the end; remove it"),
        "use_tensor_parallel": ((False,), "each GPU holds the whole model; set it to false"),
    },
    no_effect_because={
        "only the columns that `data` names are read": COLUMNS,
        "rows are read and tokenised by the driver, in every run": f"{LOADING} dataset_batch_size overwrite_cache",
        "rows are drawn in a new order in every epoch, as by the trainer": "shuffle_dataset",
        "the loss is over what the assistant says in any case": "assistant_only_loss",
        "padding has no loss": "ignore_pad_token_for_loss pad_token",
        "micro-batches are packed up to learner.token_budget": "chars_per_token eval_packing num_of_sequences padding_free sortish_sampler",
        "the loss on held-out rows is measured, and nothing else": f"{EVALUATING} validation_split_percentage",
        "nothing is sampled": "generation_config generation_max_length generation_num_beams predict_with_generate use_cache",
        "what the last step leaves is the result": BEST,
        "a run on the CPU is reproducible bit by bit in any case": "full_determinism",
        "gradient_checkpointing saves that memory": "activation_offloading",
        "a fine-tuning is pushed when it has ended: `rollcast push OUT_DIR --repo-id USER/NAME`": "hub_always_push hub_model_id "
        "hub_model_revision hub_private_repo hub_strategy overwrite_hub_revision push_to_hub push_to_hub_organization push_to_hub_revision",
        "Open-R1's script has it for benchmarks alone; to train with one, write data.system_prompt=TEXT": "system_prompt",
        "Open-R1's script does not read it": "dataset_configs",
        "the model's config.json says it": "model_type",
        "the kernel is the fastest that there is": "flash_attn",
        "tokenizers are the fast ones": "use_fast_tokenizer",
        "HF_HOME says where downloads are kept": "cache_dir",
        "processes are placed by Ray": f"device_map {' '.join(sorted(LAUNCHERS - {'nnodes'}))}",
    },
    never_null={"max_length": "sequences have a greatest length, which the memory is planned for; give its number of tokens"},
    accelerate={
        "deepspeed_config.offload_param_device": "refused unless `none`: the model stays on the GPU",
        "deepspeed_config.zero_stage": "the learner is ZeRO-2: stages 1 to 3 compute the same step, and differ in what a GPU holds: here the whole "
        "model, and a share of gradients and optimizer; --dry-run estimates it",
    },
    on_the_gpu="the model",
    text=frozenset({"chat_template_path", "eos_token", "peft_path", "template_name", "train_file_dir", "validation_file_dir"}),
    secrets=frozenset({"hf_hub_token"}),
)

DEFAULTS: Mapping[str, Any] = {
    "learner.lr_scheduler_type": "linear",
    "learner.num_train_epochs": 3.0,
    "learner.max_grad_norm": 1.0,
    "seed": 42,
}
"""What a recipe that does not say otherwise runs with: defaults of transformers' TrainingArguments."""

TRL_DEFAULTS: Mapping[str, Any] = {"learner.learning_rate": 2e-5, "data.max_length": 1024, "learner.gradient_checkpointing": True}
"""Defaults of TRL's SFTConfig. `gradient_checkpointing` became one later; it saves memory and computes the same."""

MEDICAL_DEFAULTS: Mapping[str, Any] = {"learner.learning_rate": 5e-5, "data.max_length": 512}
"""Defaults of MedicalGPT's script."""

MEDICAL = frozenset(
    {
        "cache_dir",
        "dataset_config_name",
        "device_map",
        "flash_attn",
        "hf_hub_token",
        "ignore_pad_token_for_loss",
        "lora_rank",
        "max_eval_samples",
        "max_source_length",
        "max_target_length",
        "max_train_samples",
        "model_max_length",
        "model_type",
        "modules_to_save",
        "neft_alpha",
        "peft_path",
        "preprocessing_num_workers",
        "qlora",
        "rope_scaling",
        "shift_attn",
        "target_modules",
        "template_name",
        "tokenizer_name_or_path",
        "tool_format",
        "train_file_dir",
        "train_on_inputs",
        "use_fast_tokenizer",
        "validation_file_dir",
        "validation_split_percentage",
    }
)
"""Settings, as written, that MedicalGPT's script has and the others have not."""


if __name__ == "__main__":
    print(SFT_KEYS.markdown(), end="")
