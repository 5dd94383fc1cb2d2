"""Conversion rules for settings that recipes of every trainer have: model and precision, adapter, schedule, batch, checkpoints, metric
services and the hub."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence

from configs.contracts.errors import ConfigError
from configs.recipes.draft import DONE_ANYWAY, HIDDEN, Draft, finite
from configs.yaml_files import YamlValue

SECRET = re.compile(r"token|key|secret|password", re.IGNORECASE)
"""Names of variables whose value is never shown."""

OFFLOAD = "offload_optimizer_device"
"""Name in a draft for the accelerate file's `deepspeed_config.offload_optimizer_device`; a recipe cannot give it."""

HELD_OUT = 100
"""Held-out rows of a recipe that evaluates but does not say on how many."""

TEST_SPLIT = "the default of dataset_test_split"
"""Why a recipe that names no split is evaluated on `test`."""

TOKEN_BUDGET = 16384
"""Default of `learner.token_budget`."""

SERVICES: tuple[str, ...] = ("tensorboard", "wandb")
WANDB_SETTINGS = ("wandb_entity", "wandb_project", "wandb_run_group")
HUB_SETTINGS = ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_model_revision")
STRATEGIES: Mapping[str | float | None, tuple[str, str]] = {
    "end": ("end", ""),
    "every_save": ("every_save", ""),
    "checkpoint": ("every_save", "only the adapter is pushed: a checkpoint to resume from would hold prompts and groups of this run"),
    "all_checkpoints": ("every_save", "every save is a commit of the repository, and the history keeps each adapter"),
}
"""TRL's `hub_strategy` -> (ours, why it differs)."""


def require_environment(draft: Draft) -> None:
    """Refuse `env`, whose variables TRL sets before it trains, unless it is empty: only the shell sets those of all processes.

    Raises:
        ConfigError: it names variables.
    """
    given = draft.given.get("env", {})
    entries = given if isinstance(given, list) else [given] if isinstance(given, str) else []
    pairs = [str(entry).partition("=")[::2] for entry in entries]
    pairs += [(str(name), str(value)) for name, value in given.items()] if isinstance(given, dict) else []
    if not pairs:
        return draft.note_ignored("env", "it is empty")
    shown = " ".join(f"{name}={HIDDEN if SECRET.search(name) else shlex.quote(value)}" for name, value in pairs)
    raise ConfigError(
        f"{draft.written('env')}: variables are set for all processes by the shell, before the command: {shown} rollcast ...; remove it"
    )


def set_model(draft: Draft, tokenizer_rule: str) -> None:
    """Set the precision, attention and revision of the model.

    Args:
        tokenizer_rule: why only the model's own tokenizer can be used, for the error.

    Raises:
        ConfigError: the precision cannot be trained in, or the tokenizer is not the model's own.
    """
    draft.mapping("model_init_kwargs")
    draft.note_ignored("model_init_kwargs", "its settings count as if given beside it")
    _set_dtype(draft)
    if draft.has("attn_implementation"):
        kernel = "eager" if draft.given["attn_implementation"] == "eager" else "sdpa"
        draft.set("model.attn_implementation", kernel, "attn_implementation", why="" if kernel == "eager" else "it uses the flash kernel")
    if draft.given.get("model_revision") == "main":
        draft.note_ignored("model_revision", "this revision is used anyway")
    elif draft.has("model_revision"):
        draft.set("model.revision", draft.given["model_revision"], "model_revision")
    if draft.given.get("tokenizer_name_or_path", draft.given["model_name_or_path"]) != draft.given["model_name_or_path"]:
        raise ConfigError(
            f"tokenizer_name_or_path: {draft.given['tokenizer_name_or_path']} is not the model: {tokenizer_rule}; remove it, or save the "
            "tokenizer into a copy of the model"
        )
    draft.note_ignored("tokenizer_name_or_path", "it is the model's own")


def _set_dtype(draft: Draft) -> None:
    dtype = draft.choice("dtype", {"auto": "bfloat16", "bfloat16": "bfloat16", "float32": "float32", None: None}, None)
    if draft.flag("fp16"):
        raise ConfigError(f"{draft.written('fp16')}: true is not supported: the learner has no loss scaling; use bf16")
    draft.note_ignored("fp16", DONE_ANYWAY)
    if draft.has("bf16"):
        dtype = "bfloat16" if draft.flag("bf16") else dtype or "float32"
    if dtype:
        draft.set("model.dtype", dtype, "dtype", "bf16")


def set_quantization(draft: Draft) -> None:
    """Set the precision of a quantised base."""
    four, eight, qlora = draft.flag("load_in_4bit"), draft.flag("load_in_8bit"), draft.flag("qlora")
    if eight and (four or qlora):
        raise ConfigError(
            f"load_in_8bit: true contradicts {'load_in_4bit' if four else 'qlora (which implies 4 bits)'}: a base has one precision; "
            "keep one of them"
        )
    if any(map(draft.has, ("qlora", "load_in_4bit", "load_in_8bit"))):
        draft.set("model.quantization", "int8" if eight else "nf4" if four or qlora else "none", "qlora", "load_in_4bit", "load_in_8bit")


def set_target_modules(draft: Draft, names: Sequence[str]) -> None:
    """Set the modules that get an adapter: those named, or all."""
    every = any(name in ("all", "all-linear") for name in names)
    draft.set("model.lora.target_modules", "all-linear" if every else list(names), "lora_target_modules")


def set_schedule(draft: Draft, default_rate: float) -> None:
    """Set the schedule of the learning rate.

    Args:
        default_rate: learning rate of a recipe that gives none.
    """
    if draft.has("lr_scheduler_type"):
        draft.set("learner.lr_scheduler_type", draft.given["lr_scheduler_type"], "lr_scheduler_type")
    kwargs = dict(draft.mapping("lr_scheduler_kwargs"))
    if "min_lr" in kwargs and (rate := draft.number("learning_rate", default_rate)) > 0:
        kwargs["min_lr_rate"] = finite(kwargs.pop("min_lr"), f"{draft.written('lr_scheduler_kwargs')}, min_lr") / rate
    if "min_lr_rate" in kwargs:
        draft.set("learner.min_lr_rate", kwargs.pop("min_lr_rate"), "lr_scheduler_kwargs")
    else:
        draft.note_ignored("lr_scheduler_kwargs", "it is empty")
    if kwargs:
        raise ConfigError(f"{draft.written('lr_scheduler_kwargs')}: {', '.join(kwargs)} is not supported; give only min_lr_rate or min_lr")
    _set_warmup(draft)


def _set_warmup(draft: Draft) -> None:
    steps = draft.number("warmup_steps", 0)
    if steps >= 1:
        draft.set("learner.warmup_steps", int(steps), "warmup_steps")
    elif steps > 0:
        draft.set("learner.warmup_ratio", steps, "warmup_steps", why="a number below 1 is a share of all steps")
    else:
        draft.note_ignored("warmup_steps", "0 means that warmup_ratio decides")
    if steps > 0:
        draft.note_ignored("warmup_ratio", "warmup_steps wins")
    elif draft.has("warmup_ratio"):
        draft.set("learner.warmup_ratio", draft.given["warmup_ratio"], "warmup_ratio")


def set_offload(draft: Draft) -> None:
    """Set the device of the optimizer's state."""
    if draft.has(OFFLOAD):
        draft.set("learner.offload_optimizer", draft.choice(OFFLOAD, {"none": False, "cpu": True}, None), OFFLOAD)


def set_batch(draft: Draft, longest: int) -> tuple[int, int, int]:
    """Set the batch of one optimizer step, and a token budget that holds the longest sequence.

    Args:
        longest: largest number of tokens of a sequence.

    Returns:
        Rows per device, accumulation steps, processes.
    """
    processes = draft.count("num_processes", 1)
    each, accumulated = draft.count("per_device_train_batch_size", 8), draft.count("gradient_accumulation_steps", 1)
    why = f"{each} x {accumulated} x {processes} processes"
    settings = ("per_device_train_batch_size", "gradient_accumulation_steps")
    draft.set("learner.train_batch_size", each * accumulated * processes, *settings, why=why)
    if longest > TOKEN_BUDGET:
        draft.set("learner.token_budget", longest, why="the longest sequence must fit into one micro-batch")
    return each, accumulated, processes


def set_checkpoints(draft: Draft) -> None:
    """Set the intervals of checkpoints and of log lines."""
    strategy = str(draft.given.get("save_strategy", "steps")).lower()
    if strategy in ("no", "false"):
        draft.set("cluster.save_steps", 0, "save_strategy", why="only at the end")
        draft.note_ignored("save_steps", "save_strategy is no")
    else:
        every = "save_steps is used" if draft.has("save_steps") else "checkpoints are written every 50 steps"
        why = DONE_ANYWAY if strategy == "steps" else f"the number of steps of an epoch is not known here: {every}"
        draft.note_ignored("save_strategy", why)
        _set_interval(draft, "save_steps", "cluster.save_steps")
    _set_interval(draft, "logging_steps", "cluster.logging_steps")


def _set_interval(draft: Draft, setting: str, target: str) -> None:
    steps, last = draft.number(setting, 0), draft.number("max_steps", -1)
    if steps >= 1:
        draft.set(target, int(steps), setting)
    elif steps and last > 0:
        draft.set(target, math.ceil(steps * last), setting, why="a share of max_steps")
    else:
        draft.note_ignored(setting, f"it is a share of all steps, and their number is not known here: {target} keeps its default")


def eval_strategy(draft: Draft) -> str:
    """Read `no`, `steps` or `epoch`; `no` if it is not given."""
    return str(draft.given.get("eval_strategy", "no")).lower()


def is_evaluated(draft: Draft) -> bool:
    """Tell whether the recipe evaluates."""
    return draft.flag("do_eval") or eval_strategy(draft) not in ("no", "false")


def eval_interval(draft: Draft, default_logging_steps: int) -> float:
    """Read the number of steps between evaluations; 0 if it is a share of all steps and `max_steps` is not given.

    Args:
        default_logging_steps: the trainer's default of `logging_steps`, which is also that of `eval_steps`.
    """
    every = draft.number("eval_steps", draft.number("logging_steps", default_logging_steps))
    return math.ceil(every * max(0.0, draft.number("max_steps", -1))) if 0 < every < 1 else every


def set_defaults(draft: Draft, defaults: Mapping[str, YamlValue], why: str) -> None:
    """Set the keys that the recipe leaves to the defaults of its trainer."""
    for target, value in defaults.items():
        if target not in draft.keys:
            draft.set(target, value, why=why)


def set_reporting(draft: Draft) -> None:
    """Convert `report_to` with the settings of W&B, and `push_to_hub` with those of the hub."""
    set_report_to(draft)
    _push_to_hub(draft)


def set_report_to(draft: Draft) -> None:
    """Set the services that get the metrics."""
    named = [name.lower() for name in draft.names("report_to", ["tensorboard"])]
    wanted: list[YamlValue] = [name for name in SERVICES if name in named or ("all" in named and name == "tensorboard")]
    if draft.has("report_to"):
        others = [name for name in named if name not in (*SERVICES, "none", "all")]
        whys = ["W&B is used only if it is named"] if "all" in named else []
        whys += [f"{', '.join(others)} is not supported; metrics.jsonl has everything"] if others else []
        draft.set("cluster.report_to", wanted, "report_to", why="; ".join(whys))
    for setting in WANDB_SETTINGS:
        if "wandb" not in wanted:
            draft.note_ignored(setting, "wandb is not in report_to")
        elif draft.has(setting):
            draft.set(f"cluster.{setting}", draft.given[setting], setting)


def _push_to_hub(draft: Draft) -> None:
    if not draft.flag("push_to_hub"):
        draft.note_ignored("push_to_hub", DONE_ANYWAY)
        for setting in HUB_SETTINGS:
            draft.note_ignored(setting, "push_to_hub is not set")
        return
    strategy, why = draft.choice("hub_strategy", STRATEGIES, "every_save")
    draft.set("cluster.push_to_hub.hub_strategy", strategy, "push_to_hub", "hub_strategy", why=why)
    for setting in ("hub_model_id", "hub_private_repo"):
        if draft.has(setting):
            draft.set(f"cluster.push_to_hub.{setting}", draft.given[setting], setting)
    if draft.given.get("hub_model_revision") == "main":
        draft.note_ignored("hub_model_revision", "this branch is used anyway")
    elif draft.has("hub_model_revision"):
        draft.set("cluster.push_to_hub.hub_model_revision", draft.given["hub_model_revision"], "hub_model_revision")
