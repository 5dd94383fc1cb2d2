"""Conversion rules for settings of a supervised fine-tuning that need more than a rename: data, lengths, trained weights, evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath

from configs.contracts.errors import ConfigError
from configs.recipes.data_rules import mixed_columns, set_held_out_share, set_source
from configs.recipes.draft import Draft, finite
from configs.recipes.sft_keys import (
    CHATML_MARK,
    DEFAULTS,
    END_TOKENS,
    MEDICAL,
    MEDICAL_DEFAULTS,
    OF_QWEN,
    TEMPLATE_FOLDER,
    TEMPLATES,
    TRL_DEFAULTS,
)
from configs.recipes.shared_rules import (
    HELD_OUT,
    TEST_SPLIT,
    eval_interval,
    eval_strategy,
    is_evaluated,
    require_environment,
    set_batch,
    set_checkpoints,
    set_defaults,
    set_model,
    set_offload,
    set_quantization,
    set_report_to,
    set_schedule,
    set_target_modules,
)
from configs.schema.model import BUILTIN
from configs.schema.sources import REASONING_GYM
from configs.yaml_files import YamlValue

LORA = {"lora_r": "r", "lora_alpha": "alpha", "lora_dropout": "dropout"}
"""Setting -> key of `model.lora`."""

TRL_LORA: Mapping[str, float] = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
MEDICAL_LORA: Mapping[str, float] = {"lora_r": 8, "lora_alpha": 32, "lora_dropout": 0.05}
"""Defaults of TRL's ModelConfig and of MedicalGPT's script."""

TALKS = ("messages", "conversations")
"""Columns in which TRL looks for conversations."""

ADAPTER_SETTINGS = (*LORA, "lora_target_modules", "use_rslora", "peft_path")

OLD_SIDE_TOKENS = 256
"""Default of `max_source_length` and `max_target_length` in the versions of MedicalGPT's script that had them."""

EVAL_STEPS = 100
"""Default of `learner.eval_steps`."""

TRL_LOGGING_STEPS = 10
TRANSFORMERS_LOGGING_STEPS = 500
"""Defaults of `logging_steps`, and so of `eval_steps`, in TRL and in transformers' TrainingArguments (which MedicalGPT's script uses)."""


def is_medical(draft: Draft) -> bool:
    """Recognise a recipe for MedicalGPT's script, whose defaults and data differ from TRL's."""
    return any(draft.written(setting) in MEDICAL for setting in draft.given)


def apply_sft_rules(draft: Draft) -> None:
    """Set every key that needs more than a copied value, and then the trainer's defaults that the recipe relies on."""
    for rule in (
        require_environment,
        _model,
        _trained_weights,
        _data,
        _rendering,
        _evaluation,
        _schedule,
        _placement,
        _batch,
        set_checkpoints,
        set_report_to,
        _defaults,
    ):
        rule(draft)


def _trainer(draft: Draft) -> str:
    return "MedicalGPT's script" if is_medical(draft) else "TRL"


def _trainer_defaults(draft: Draft) -> dict[str, YamlValue]:
    return {**(MEDICAL_DEFAULTS if is_medical(draft) else TRL_DEFAULTS), **DEFAULTS}


def _model(draft: Draft) -> None:
    set_model(draft, "the result is saved with the model's own tokenizer")
    if not (draft.has("dtype") or draft.has("bf16")):
        float16 = "MedicalGPT's script uses float16, for which the learner has no loss scaling"
        why = float16 if is_medical(draft) else "the default of TRL"
        draft.set("model.dtype", "bfloat16", why=why)


def _trained_weights(draft: Draft) -> None:
    set_quantization(draft)
    medical = is_medical(draft)
    peft = draft.flag("use_peft") if draft.has("use_peft") else medical
    why = "" if draft.has("use_peft") else f"the default of {_trainer(draft)}"
    draft.set("learner.use_peft", peft, "use_peft", why=why)
    _require_adapter_on_quantised(draft, peft)
    if not peft:
        for setting in ADAPTER_SETTINGS:
            draft.note_ignored(setting, "all weights are trained, as use_peft is not set")
        return
    for setting, value in (MEDICAL_LORA if medical else TRL_LORA).items():
        target = f"model.lora.{LORA[setting]}"
        if draft.has(setting):
            draft.set(target, draft.given[setting], setting)
        else:
            draft.set(target, value, why=f"the default of {_trainer(draft)}")
    for setting, target in (("use_rslora", "model.lora.use_rslora"), ("peft_path", "model.adapter")):
        if draft.has(setting):
            draft.set(target, draft.given[setting], setting)
    _target_modules(draft, medical)


def _require_adapter_on_quantised(draft: Draft, peft: bool) -> None:
    quantised = next((name for name in ("load_in_4bit", "load_in_8bit", "qlora") if draft.flag(name)), None)
    if quantised and not peft:
        raise ConfigError(
            f"{draft.written(quantised)}: true without use_peft is not supported: quantised weights have no gradient; "
            f"set use_peft to true, or {draft.written(quantised)} to false"
        )


def _target_modules(draft: Draft, medical: bool) -> None:
    if draft.has("lora_target_modules"):
        names = [name for entry in draft.names("lora_target_modules") for name in re.split(r"[,\s]+", entry) if name]
        set_target_modules(draft, names)
    elif not medical:
        why = "PEFT would choose by the architecture, usually the projections of queries and values; name those with lora_target_modules"
        draft.note_default("model.lora.target_modules", "all-linear", why)


def _data(draft: Draft) -> None:
    set_source(draft, folder_first=False)
    set_held_out_share(draft, medical=False)
    if draft.has("max_train_samples"):
        wanted = int(draft.number("max_train_samples", -1))
        draft.set("data.train_samples", wanted if wanted > 0 else -1, "max_train_samples")
    if is_medical(draft):
        draft.set("data.messages_column", "conversations", why="the column that MedicalGPT's script reads")
    else:
        _columns(draft)
        if not draft.has("assistant_only_loss") or not draft.flag("assistant_only_loss"):
            why = "TRL trains on every token of a conversation unless assistant_only_loss is true"
            draft.note_default("loss", "on the assistant's tokens only", why)
    if draft.choice("train_sampling_strategy", {"random": True, "group_by_length": True, "sequential": False}, "random"):
        draft.note_ignored("train_sampling_strategy", "rows are drawn at random, and micro-batches are packed")
    else:
        draft.set("data.shuffle", False, "train_sampling_strategy")


def _columns(draft: Draft) -> None:
    """Set the column of conversations: TRL looks for it in the data, and here only a mixture that lists its columns says what it holds."""
    names = mixed_columns(draft)
    if {"prompt", "completion"} <= names and not names & set(TALKS):
        draft.set("data.messages_column", None, why="the mixture's columns are prompt and completion")
        return
    why = "TRL finds the column by itself; for rows of prompt and completion write data.messages_column=null"
    draft.set("data.messages_column", next((name for name in TALKS if name in names), "messages"), why=why)


def _rendering(draft: Draft) -> None:
    """Set the chat template and the lengths."""
    if draft.has("chat_template_path"):
        draft.set("model.chat_template", _jinja_file(draft), "chat_template_path")
        draft.note_ignored("chat_template", "chat_template_path wins")
    _template_name(draft)
    _length(draft)
    draft.set("data.too_long", "truncate", why=f"{_trainer(draft)} also cuts long sequences")


def _jinja_file(draft: Draft) -> str:
    path = str(draft.given["chat_template_path"])
    if PurePath(path).suffix not in (".jinja", ".j2"):
        raise ConfigError(f"chat_template_path: {path} is not a Jinja file; give the chat_template.jinja of that tokenizer")
    return path


def _template_name(draft: Draft) -> None:
    """Set the template that MedicalGPT's script would use, which looks at the name and never at the model."""
    if not draft.has("template_name"):
        return
    if draft.has("chat_template_path") or draft.has("chat_template"):
        draft.note_ignored("template_name", "chat_template wins")
        return
    name, model = str(draft.given["template_name"]), str(draft.given["model_name_or_path"])
    if why := _why_own_template(name, model):
        draft.note_ignored("template_name", f"the model's own chat template is used{why}")
        return
    if name not in TEMPLATES:
        raise ConfigError(
            f"template_name: {name} is not supported, only {', '.join(sorted(TEMPLATES))}, or that of a model whose name begins with it; "
            "remove it, or write the layout as a Jinja file and give model.chat_template=FILE instead"
        )
    file, path = TEMPLATES[name], f"{TEMPLATE_FOLDER}/{TEMPLATES[name]}.jinja"
    end = draft.given.get("eos_token") or END_TOKENS.get(file)
    why = (
        f"NOT the model's own template, if it has one; answers end with {end or 'its end token'}. It is saved with the result, for "
        f"evaluate, compare and merge; give it to GRPO too: model.chat_template={path}{f' model.eos_token={end}' if end else ''}"
    )
    draft.set("model.chat_template", path, "template_name", why=why)
    if end and not draft.has("eos_token"):
        draft.set("model.eos_token", end, "template_name", why="the template ends answers with it")


def _why_own_template(name: str, model: str) -> str:
    """The reason for which a model's own template stands for a name; empty if it does not.

    A folder's template is read. Of other models only the name is known: that of DeepSeek-R1-Distill-Qwen-7B does not begin with `qwen`, and the
    first Qwen (Qwen-7B) has no template.
    """
    last, folder = PurePath(model).name.lower(), Path(model).expanduser()
    if name in TEMPLATES:
        same = CHATML_MARK in _own_template(folder) if folder.is_dir() else re.match(r"qwen\d", last) is not None
        return ": it has this layout, its own system message, and tools" if name in OF_QWEN and same else ""
    known = _letters(last).startswith(_letters(name)) and bool(_letters(name)) and (not folder.is_dir() or _own_template(folder) != "")
    return ", and a run is refused if it has none: no layout of this name is bundled" if known else ""


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _own_template(folder: Path) -> str:
    """The chat template in a model's folder; empty if there is none."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    try:
        return file.read_text(encoding="utf-8") if file.is_file() else str(json.loads(settings.read_bytes()).get("chat_template") or "")
    except (OSError, ValueError):  # the run says what is wrong with the folder
        return ""


def _length(draft: Draft) -> None:
    sides = ("max_source_length", "max_target_length")
    if draft.has("max_length"):
        draft.set("data.max_length", draft.given["max_length"], "max_length")
        for side in sides:
            draft.note_ignored(side, f"{draft.written('max_length')} wins")
    elif any(map(draft.has, sides)):
        source, target = (draft.count(side, OLD_SIDE_TOKENS) for side in sides)
        draft.set("data.max_length", source + target, *sides, why=f"{source} + {target}")


def _evaluation(draft: Draft) -> None:
    if not is_evaluated(draft):
        draft.set("data.eval_samples", 0, "eval_strategy", "do_eval", why="the recipe trains on every row")
        for setting in ("dataset_test_split", "eval_steps", "max_eval_samples", "validation_file_dir"):
            draft.note_ignored(setting, "the recipe does not evaluate")
        return
    _set_held_out(draft)
    wanted = int(draft.number("max_eval_samples", -1))
    why = "held-out rows" if draft.has("max_eval_samples") and wanted > 0 else "held-out rows at most"
    draft.set("data.eval_samples", wanted if wanted > 0 else HELD_OUT, "max_eval_samples", "do_eval", why=why)
    _set_eval_steps(draft)


def _set_held_out(draft: Draft) -> None:
    """Set the held-out rows: those of a folder, those of a split, or some of the training rows."""
    path, split = str(draft.keys.get("data.path", BUILTIN)), draft.given.get("dataset_test_split", "test")
    if draft.has("validation_file_dir") and not draft.has("dataset_name"):
        draft.set("data.eval_path", draft.given["validation_file_dir"], "validation_file_dir")
    elif (
        not is_medical(draft)
        and not path.startswith((BUILTIN, REASONING_GYM))
        and (draft.has("dataset_test_split") or draft.has("eval_strategy"))
    ):
        draft.set("data.eval_path", path, "eval_strategy", "dataset_test_split")
        why = "" if draft.has("dataset_test_split") else TEST_SPLIT
        draft.set("data.eval_split", split, "dataset_test_split", why=why)
        return
    else:
        draft.note_ignored("validation_file_dir", "dataset_name is used")
    draft.note_ignored("dataset_test_split", "rows are held out from the training data, or read from validation_file_dir")


def _set_eval_steps(draft: Draft) -> None:
    """Set the interval at which the held-out loss is measured."""
    logging_steps = TRANSFORMERS_LOGGING_STEPS if is_medical(draft) else TRL_LOGGING_STEPS
    strategy, every = eval_strategy(draft), int(eval_interval(draft, logging_steps))
    if strategy == "steps" and every > 0:
        why = "" if draft.has("eval_steps") else "as often as it logs: the trainer's default"
        draft.set("learner.eval_steps", every, "eval_steps", "eval_strategy", why=why)
    elif strategy in ("no", "false"):
        draft.set("learner.eval_steps", 0, "eval_strategy", why="only before and after training")
        draft.note_ignored("eval_steps", "eval_strategy is not steps")
    else:
        draft.set("learner.eval_steps", EVAL_STEPS, "eval_strategy", why="the number of steps is not known here")
        draft.note_ignored("eval_steps", "eval_strategy is not steps, or the number of steps is not known here")


def _schedule(draft: Draft) -> None:
    set_schedule(draft, finite(_trainer_defaults(draft)["learner.learning_rate"], "learning_rate"))


def _placement(draft: Draft) -> None:
    unknown = "" if draft.has("num_processes") else "give --accelerate FILE or --num_processes N for more"
    draft.set("learner.ranks", draft.count("num_processes", 1), "num_processes", why=unknown)
    on_cpu = draft.flag("use_cpu")
    draft.set("learner.gpus_per_rank", 0 if on_cpu else 1, "use_cpu", why="" if on_cpu else "one for each process")
    set_offload(draft)


def _batch(draft: Draft) -> None:
    longest = draft.keys.get("data.max_length", _trainer_defaults(draft)["data.max_length"])
    set_batch(draft, longest if isinstance(longest, int) else 0)
    if draft.has("packing"):
        counts = "; a step counts sequences here and packed rows there: a larger train_batch_size comes closer"
        draft.note_ignored("packing", f"rows are always packed, with the same loss{counts if draft.flag('packing') else ''}")


def _defaults(draft: Draft) -> None:
    set_defaults(draft, _trainer_defaults(draft), f"the default of {_trainer(draft)}")
