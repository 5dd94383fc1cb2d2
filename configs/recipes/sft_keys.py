"""Tables of the supervised fine-tuning settings of TRL, Open-R1 and MedicalGPT. Every setting is in exactly one table.

The names are those of TRL 1.16 (SFTConfig with transformers' TrainingArguments, ModelConfig, ScriptArguments), of Open-R1's `sft.py` and
MedicalGPT's `supervised_finetuning.py`, of their launchers, and names that older versions had.
"""

from __future__ import annotations

from collections.abc import Mapping

from configs.recipes.shared_keys import ADAMW, BEST, COLUMNS, EVALUATING, LOADING, SHARED
from configs.recipes.tables import KeyTables
from configs.yaml_files import YamlValue

_ALL_TOKENS = "only the assistant's tokens have a loss; remove it"

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
    by_rule={
        "chat_template_path": "`model.chat_template`, if it is a Jinja file",
        "eval_steps": "`learner.eval_steps`, with `eval_strategy: steps`; below 1 a share of `max_steps`; if not given, `logging_steps`",
        "eval_strategy": "`data.eval_samples`: 0 for `no`; `learner.eval_steps` for `steps`",
        "lora_alpha": "`model.lora.alpha`, if an adapter is trained",
        "lora_dropout": "`model.lora.dropout`, if an adapter is trained",
        "lora_r": "`model.lora.r`, if an adapter is trained",
        "max_eval_samples": "`data.eval_samples`, if the recipe evaluates",
        "max_length": "`data.max_length`",
        "max_source_length": "`data.max_length` = max_source_length + max_target_length",
        "max_target_length": "`data.max_length`, see `max_source_length`",
        "max_train_samples": "`data.train_samples`",
        "num_processes": "`learner.ranks`",
        "packing": "rows are always packed, with the same loss; `learner.train_batch_size` counts sequences, not packed rows",
        "peft_path": "`model.adapter`, if an adapter is trained",
        "template_name": "`model.chat_template` and perhaps `model.eos_token`, see [above](#templates-of-medicalgpt); for `qwen` and `qwen3` "
        "a Qwen's own template",
        "tokenizer_name_or_path": "refused unless it is the model: the result is saved with the model's own tokenizer",
        "train_sampling_strategy": "`data.shuffle: false` for `sequential`",
        "use_cpu": "`learner.gpus_per_rank: 0`",
        "use_peft": "`learner.use_peft`; if not given, false for TRL and Open-R1, true for MedicalGPT",
        "use_rslora": "`model.lora.use_rslora`, if an adapter is trained",
        "validation_file_dir": "`data.eval_path`, if the recipe evaluates",
    },
    refused={
        "completion_only_loss": ((True,), _ALL_TOKENS),
        "dataset_kwargs": (({}, {"skip_prepare_dataset": False}), "rows are rendered and tokenised here; remove it"),
        "dataset_text_field": (
            (),
            "plain text has no answer, and only answers are trained; remove it if rows hold messages, and split other rows into "
            "data.prompt_column and data.completion_column",
        ),
        "label_smoothing_factor": ((0,), "the loss is the plain log-likelihood; remove it"),
        "loss_type": (("nll", "chunked_nll"), "the loss is the plain log-likelihood; remove it"),
        "neftune_noise_alpha": ((0,), "embeddings get no noise; remove it"),
        "optim": (ADAMW, "the optimizer is AdamW with float32 weights and moments; remove it"),
        "packing_strategy": (
            ("bfd", "ffd"),
            "no sequence is split over rows; remove it, and raise max_length to keep long sequences whole",
        ),
        "rope_scaling": ((), "write rope_scaling into config.json of a copy of the model"),
        "router_aux_loss_coef": ((0,), "the loss has no term for the router of a mixture of experts; remove it"),
        "shift_attn": ((False,), "only the model's own attention is used; set it to false"),
        "train_on_inputs": ((False,), _ALL_TOKENS),
        "truncation_mode": (("keep_start",), "long sequences are cut at the end; remove it"),
        "use_tensor_parallel": ((False,), "each GPU holds the whole model; set it to false"),
    },
    no_effect_because={
        "only the columns that `data` names are read": COLUMNS,
        "the driver reads and tokenises the rows in every run": f"{LOADING} dataset_batch_size overwrite_cache",
        "rows are shuffled in every epoch, as in the trainer": "shuffle_dataset",
        "the loss is always on the assistant's tokens only": "assistant_only_loss",
        "padding has no loss": "ignore_pad_token_for_loss pad_token",
        "micro-batches are packed up to learner.token_budget": "chars_per_token eval_packing num_of_sequences padding_free sortish_sampler",
        "only the loss on held-out rows is measured": f"{EVALUATING} validation_split_percentage",
        "nothing is sampled": "generation_config generation_max_length generation_num_beams predict_with_generate use_cache",
        "the weights after the last step are the result": BEST,
        "a run on the CPU is always reproducible bit by bit": "full_determinism",
        "gradient_checkpointing saves this memory": "activation_offloading",
        "a fine-tuning is pushed after it has ended, by `rollcast push OUT_DIR --repo-id USER/NAME`": "hub_always_push hub_model_id "
        "hub_model_revision hub_private_repo hub_strategy overwrite_hub_revision push_to_hub push_to_hub_organization push_to_hub_revision",
        "Open-R1's script uses it only for benchmarks; to train with one, write data.system_prompt=TEXT": "system_prompt",
        "it is read from the model's config.json": "model_type",
        "the fastest kernel is used": "flash_attn",
        "only fast tokenizers are used": "use_fast_tokenizer",
        "the model's own chat template renders tools, their calls and their results": "tool_format",
        "HF_HOME names the folder of downloads": "cache_dir",
        "processes are placed by Ray": "device_map",
    },
    never_null={"max_length": "memory is planned for a greatest length; give it as a number of tokens"},
    accelerate={
        "deepspeed_config.offload_param_device": "refused unless `none`: the model stays on the GPU",
        "deepspeed_config.zero_stage": "the learner is ZeRO-2: stages 1 to 3 compute the same step, and differ only in memory; "
        "here each GPU holds the "
        "whole model and a share of gradients and optimizer; --dry-run estimates it",
    },
    on_the_gpu="the model",
    text=frozenset({"chat_template_path", "eos_token", "peft_path", "template_name", "train_file_dir", "validation_file_dir"}),
    secrets=frozenset({"hf_hub_token"}),
)

DEFAULTS: Mapping[str, YamlValue] = {
    "learner.lr_scheduler_type": "linear",
    "learner.num_train_epochs": 3.0,
    "learner.max_grad_norm": 1.0,
    "seed": 42,
}
"""Values of the settings that a recipe does not give: defaults of transformers' TrainingArguments."""

TRL_DEFAULTS: Mapping[str, YamlValue] = {"learner.learning_rate": 2e-5, "data.max_length": 1024, "learner.gradient_checkpointing": True}
"""Defaults of TRL's SFTConfig. `gradient_checkpointing` is a default of later versions only; it saves memory and computes the same."""

MEDICAL_DEFAULTS: Mapping[str, YamlValue] = {"learner.learning_rate": 5e-5, "data.max_length": 512}
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
"""Settings, as written, that only MedicalGPT's script has."""


TEMPLATES: Mapping[str, str] = {
    **{name: name for name in ("alpaca", "baichuan", "baichuan2", "chatml", "deepseek", "llama2", "llama3", "mistral", "vicuna")},
    "deepseek3": "deepseek_r1_distill",
    "qwen": "chatml",
    "qwen3": "chatml",
}
"""`template_name` of MedicalGPT's script -> the file in configs/templates."""

END_TOKENS: Mapping[str, str] = {"chatml": "<|im_end|>", "deepseek_r1_distill": "<｜end▁of▁sentence｜>", "llama3": "<|eot_id|>"}
"""File -> the token that ends its answers, where that is not the tokenizer's own end token in every model."""

TEMPLATE_FOLDER = "configs/templates"

OF_QWEN, CHATML_MARK = ("qwen", "qwen3"), "<|im_start|>"
"""Names whose layout the own template of Qwen1.5 and later models has, and a token by which it is known."""

if __name__ == "__main__":
    print(SFT_KEYS.markdown(), end="")
