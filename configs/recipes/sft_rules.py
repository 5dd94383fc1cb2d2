"""What is made of settings of a supervised fine-tuning that do not stand for themselves: data, lengths, what is trained, evaluation."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

from configs.contracts.errors import ConfigError
from configs.recipes.data_rules import put_one
from configs.recipes.draft import Draft
from configs.recipes.reporting_rules import put_report_to
from configs.recipes.sft_keys import DEFAULTS, MEDICAL, MEDICAL_DEFAULTS, TRL_DEFAULTS
from configs.recipes.shared_rules import (
    HELD_OUT,
    eval_interval,
    eval_strategy,
    is_evaluated,
    put_batch,
    put_checkpoints,
    put_defaults,
    put_model,
    put_offload,
    put_quantization,
    put_schedule,
    put_target_modules,
)
from configs.schema.model import BUILTIN

LORA = {"lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout"}
"""Setting -> key of `model.lora`."""

TRL_LORA: dict[str, Any] = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
MEDICAL_LORA: dict[str, Any] = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
"""Defaults of TRL's ModelConfig and of MedicalGPT's script."""

OF_AN_ADAPTER = (*LORA, "lora_target_modules", "use_rslora", "peft_path")

OLD_SIDE_TOKENS = 256
"""Default of max_source_length and of max_target_length, in versions of MedicalGPT's script that had them."""

EVAL_STEPS = 100
"""Default of `learner.eval_steps`."""

TRL_LOGGING_STEPS = 10
TRANSFORMERS_LOGGING_STEPS = 500
"""Defaults of logging_steps, and so of eval_steps: in TRL, and in transformers' TrainingArguments, which MedicalGPT's script takes."""


def is_medical(draft: Draft) -> bool:
    """Whether the recipe is for MedicalGPT's script, whose defaults and data are others than TRL's."""
    return any(draft.written(setting) in MEDICAL for setting in draft.given)


def work_out_sft(draft: Draft) -> None:
    """Put everything that takes more than one setting, or another form, and then what the recipe leaves to its trainer's defaults."""
    for rule in (
        _model,
        _what_is_trained,
        _data,
        _rendering,
        _evaluation,
        _schedule,
        _placement,
        _batch,
        put_checkpoints,
        put_report_to,
        _defaults,
    ):
        rule(draft)


def _trainer(draft: Draft) -> str:
    return "MedicalGPT's script" if is_medical(draft) else "TRL"


def _trainers_defaults(draft: Draft) -> dict[str, Any]:
    return {**(MEDICAL_DEFAULTS if is_medical(draft) else TRL_DEFAULTS), **DEFAULTS}


def _model(draft: Draft) -> None:
    put_model(draft, "what is left has the model's own tokenizer")
    if not (draft.has("dtype") or draft.has("bf16")):
        medical = is_medical(draft)
        why = (
            "MedicalGPT's script has float16, for which the learner has no loss scaling"
            if medical
            else "TRL trains in it unless told otherwise"
        )
        draft.put("model.dtype", "bfloat16", why=why)


def _what_is_trained(draft: Draft) -> None:
    put_quantization(draft)
    medical = is_medical(draft)
    peft = draft.flag("use_peft") if draft.has("use_peft") else medical
    why = "" if draft.has("use_peft") else f"the default of {_trainer(draft)}"
    draft.put("learner.use_peft", peft, "use_peft", why=why)
    _require_adapter_on_quantised(draft, peft)
    if not peft:
        for setting in OF_AN_ADAPTER:
            draft.ignore(setting, "every weight is trained: use_peft is not set")
        return
    for setting, value in (MEDICAL_LORA if medical else TRL_LORA).items():
        target = f"model.lora.{LORA[setting]}"
        if draft.has(setting):
            draft.put(target, draft.given[setting], setting)
        else:
            draft.put(target, value, why=f"the default of {_trainer(draft)}")
    for setting, target in (("use_rslora", "model.lora.use_rslora"), ("peft_path", "model.adapter")):
        if draft.has(setting):
            draft.put(target, draft.given[setting], setting)
    _target_modules(draft, medical)


def _require_adapter_on_quantised(draft: Draft, peft: bool) -> None:
    quantised = next((name for name in ("load_in_4bit", "load_in_8bit", "qlora") if draft.flag(name)), None)
    if quantised and not peft:
        raise ConfigError(
            f"{draft.written(quantised)}: true without use_peft is not supported: quantised weights have no gradient; set use_peft to true, or "
            f"{draft.written(quantised)} to false"
        )


def _target_modules(draft: Draft, medical: bool) -> None:
    if draft.has("lora_target_modules"):
        names = [name for entry in draft.names("lora_target_modules") for name in re.split(r"[,\s]+", entry) if name]
        put_target_modules(draft, names)
    elif not medical:
        why = "PEFT chooses by the architecture, of most the projections of queries and values; write lora_target_modules for these"
        draft.tell("model.lora.target_modules", "all-linear", why)


def _data(draft: Draft) -> None:
    if draft.has("dataset_name"):
        put_one(draft, "dataset_name")
        draft.ignore("train_file_dir", "dataset_name is used")
    elif draft.has("train_file_dir"):
        put_one(draft, "train_file_dir")
    else:
        raise ConfigError("dataset_name is not given; add the hub id of a data set, or the path of a file or folder")
    if draft.has("max_train_samples"):
        wanted = int(draft.number("max_train_samples", -1))
        draft.put("data.train_samples", wanted if wanted > 0 else -1, "max_train_samples")
    if is_medical(draft):
        draft.put("data.messages_column", "conversations", why="the column that MedicalGPT's script reads")
    else:
        why = "TRL finds it by itself; for rows of prompt and completion write data.messages_column=null"
        draft.put("data.messages_column", "messages", why=why)
        if not draft.has("assistant_only_loss") or not draft.flag("assistant_only_loss"):
            why = "TRL trains on every token of a conversation unless assistant_only_loss is true"
            draft.tell("loss", "over what the assistant says", why)
    if draft.choice("train_sampling_strategy", {"random": True, "group_by_length": True, "sequential": False}, "random"):
        draft.ignore("train_sampling_strategy", "rows are drawn at random, and micro-batches packed")
    else:
        draft.put("data.shuffle", False, "train_sampling_strategy")


def _rendering(draft: Draft) -> None:
    """Chat template and lengths."""
    if draft.has("chat_template_path"):
        draft.put("model.chat_template", _jinja_file(draft), "chat_template_path")
        draft.ignore("chat_template", "chat_template_path wins")
    _template_name(draft)
    _length(draft)
    draft.put("data.too_long", "truncate", why=f"{_trainer(draft)} cuts long ones as well")


def _jinja_file(draft: Draft) -> str:
    path = str(draft.given["chat_template_path"])
    if PurePath(path).suffix not in (".jinja", ".j2"):
        raise ConfigError(f"chat_template_path: {path} is no Jinja file; give the chat_template.jinja of that tokenizer")
    return path


def _template_name(draft: Draft) -> None:
    if not draft.has("template_name"):
        return
    name, model = (re.sub(r"[^a-z0-9]", "", str(draft.given[key]).lower()) for key in ("template_name", "model_name_or_path"))
    if not name or name not in model:
        raise ConfigError(
            f"template_name: {draft.given['template_name']} is not supported: conversations are rendered by the model's own chat template; remove it to "
            "use that, or write the layout in Jinja and give the file with model.chat_template=FILE in its place"
        )
    draft.ignore("template_name", "the model's own chat template is used")


def _length(draft: Draft) -> None:
    sides = ("max_source_length", "max_target_length")
    if draft.has("max_length"):
        draft.put("data.max_length", draft.given["max_length"], "max_length")
        for side in sides:
            draft.ignore(side, f"{draft.written('max_length')} wins")
    elif any(map(draft.has, sides)):
        source, target = (draft.count(side, OLD_SIDE_TOKENS) for side in sides)
        draft.put("data.max_length", source + target, *sides, why=f"{source} + {target}")


def _evaluation(draft: Draft) -> None:
    if not is_evaluated(draft):
        draft.put("data.eval_samples", 0, "eval_strategy", "do_eval", why="it trains on every row")
        for setting in ("dataset_test_split", "eval_steps", "max_eval_samples", "validation_file_dir"):
            draft.ignore(setting, "the recipe does not evaluate")
        return
    _put_held_out(draft)
    wanted = int(draft.number("max_eval_samples", -1))
    why = "so many held-out rows" if draft.has("max_eval_samples") and wanted > 0 else "at most so many held-out rows"
    draft.put("data.eval_samples", wanted if wanted > 0 else HELD_OUT, "max_eval_samples", "do_eval", why=why)
    _put_eval_steps(draft)


def _put_held_out(draft: Draft) -> None:
    """Which rows the loss is measured on: those of a folder, of a split, or some that are not trained on."""
    path, split = draft.tree["data"]["path"], draft.given.get("dataset_test_split", "test")
    if draft.has("validation_file_dir") and not draft.has("dataset_name"):
        draft.put("data.eval_path", draft.given["validation_file_dir"], "validation_file_dir")
    elif not is_medical(draft) and not path.startswith(BUILTIN) and (draft.has("dataset_test_split") or draft.has("eval_strategy")):
        draft.put("data.eval_path", path, "eval_strategy", "dataset_test_split")
        draft.put("data.eval_split", split, "dataset_test_split")
        return
    else:
        draft.ignore("validation_file_dir", "dataset_name is used")
    draft.ignore("dataset_test_split", "rows are held out of those to train on, or of validation_file_dir")


def _put_eval_steps(draft: Draft) -> None:
    """How often the loss is measured on them."""
    strategy, every = (
        eval_strategy(draft),
        int(eval_interval(draft, TRANSFORMERS_LOGGING_STEPS if is_medical(draft) else TRL_LOGGING_STEPS)),
    )
    if strategy == "steps" and every > 0:
        why = "" if draft.has("eval_steps") else "as often as it logs, the trainer's default"
        draft.put("learner.eval_steps", every, "eval_steps", "eval_strategy", why=why)
    elif strategy in ("no", "false"):
        draft.put("learner.eval_steps", 0, "eval_strategy", why="before and after training alone")
        draft.ignore("eval_steps", "eval_strategy is not steps")
    else:
        draft.put("learner.eval_steps", EVAL_STEPS, "eval_strategy", why="the steps of an epoch, or of all, are not known here")
        draft.ignore("eval_steps", "eval_strategy is not steps, or it is a share of all steps, whose number is not known here")


def _schedule(draft: Draft) -> None:
    put_schedule(draft, _trainers_defaults(draft)["learner.learning_rate"])


def _placement(draft: Draft) -> None:
    unknown = "" if draft.has("num_processes") else "give --accelerate FILE or --num_processes N for more"
    draft.put("learner.ranks", draft.count("num_processes", 1), "num_processes", why=unknown)
    on_cpu = draft.flag("use_cpu")
    draft.put("learner.gpus_per_rank", 0 if on_cpu else 1, "use_cpu", why="" if on_cpu else "one for each process")
    put_offload(draft)


def _batch(draft: Draft) -> None:
    longest = draft.tree["data"].get("max_length", _trainers_defaults(draft)["data.max_length"])
    put_batch(draft, longest if isinstance(longest, int) else 0)
    if draft.has("packing"):
        counted = (
            "; a step counts sequences, and there packed rows: a larger train_batch_size comes nearer" if draft.flag("packing") else ""
        )
        draft.ignore("packing", f"rows are always packed, with the same loss{counted}")


def _defaults(draft: Draft) -> None:
    put_defaults(draft, _trainers_defaults(draft), f"the default of {_trainer(draft)}")
