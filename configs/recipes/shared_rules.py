"""What is made of settings that recipes of every trainer have: model and precision, adapter, schedule, batch, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from configs.contracts.errors import ConfigError
from configs.recipes.draft import Draft, finite

OFFLOAD = "offload_optimizer_device"
"""Setting that an accelerate file alone has, among those of DeepSpeed."""

HELD_OUT = 100
"""Held-out rows where a recipe evaluates and does not say on how many."""

TOKEN_BUDGET = 16384
"""Default of `learner.token_budget`."""


def put_model(draft: Draft, tokenizer_rule: str) -> None:
    """Precision, attention and revision of the model.

    Args:
        tokenizer_rule: why the tokenizer cannot be another than the model's own.

    Raises:
        ConfigError: a precision that cannot be trained in, or another tokenizer.
    """
    draft.mapping("model_init_kwargs")
    draft.ignore("model_init_kwargs", "what it holds counts as if given beside it")
    _put_dtype(draft)
    if draft.has("attn_implementation"):
        kernel = "eager" if draft.given["attn_implementation"] == "eager" else "sdpa"
        draft.put("model.attn_implementation", kernel, "attn_implementation", why="" if kernel == "eager" else "it calls the flash kernel")
    if draft.given.get("model_revision") == "main":
        draft.ignore("model_revision", "it is the revision that is used anyway")
    elif draft.has("model_revision"):
        draft.put("model.revision", draft.given["model_revision"], "model_revision")
    if draft.given.get("tokenizer_name_or_path", draft.given["model_name_or_path"]) != draft.given["model_name_or_path"]:
        raise ConfigError(
            f"tokenizer_name_or_path: {draft.given['tokenizer_name_or_path']} is not the model: {tokenizer_rule}; remove it, or save the "
            "tokenizer into a copy of the model"
        )
    draft.ignore("tokenizer_name_or_path", "it is the model's own")


def _put_dtype(draft: Draft) -> None:
    dtype, half = (
        draft.choice("dtype", {"auto": "bfloat16", "bfloat16": "bfloat16", "float32": "float32", None: None}, None),
        draft.flag("fp16"),
    )
    if half:
        raise ConfigError(f"{draft.written('fp16')}: true is not supported: the learner has no loss scaling; use bf16")
    draft.ignore("fp16", "it asks for what is done anyway")
    if draft.has("bf16"):
        dtype = "bfloat16" if draft.flag("bf16") else dtype or "float32"
    if dtype:
        draft.put("model.dtype", dtype, "dtype", "bf16")


def put_quantization(draft: Draft) -> None:
    """The precision of a quantised base."""
    four, eight, qlora = draft.flag("load_in_4bit"), draft.flag("load_in_8bit"), draft.flag("qlora")
    if eight and (four or qlora):
        raise ConfigError(
            f"load_in_8bit: true does not go with {'load_in_4bit' if four else 'qlora (which implies 4 bits)'}: a base has one precision; keep one of them"
        )
    if any(map(draft.has, ("qlora", "load_in_4bit", "load_in_8bit"))):
        draft.put("model.quantization", "int8" if eight else "nf4" if four or qlora else "none", "qlora", "load_in_4bit", "load_in_8bit")


def put_target_modules(draft: Draft, names: Sequence[str]) -> None:
    """Modules that get an adapter, by their names or all of them."""
    every = any(name in ("all", "all-linear") for name in names)
    draft.put("model.lora.target_modules", "all-linear" if every else list(names), "lora_target_modules")


def put_schedule(draft: Draft, default_rate: float) -> None:
    """The course of the learning rate.

    Args:
        default_rate: learning rate of a recipe that gives none.
    """
    if draft.has("lr_scheduler_type"):
        draft.put("learner.lr_scheduler_type", draft.given["lr_scheduler_type"], "lr_scheduler_type")
    kwargs = dict(draft.mapping("lr_scheduler_kwargs"))
    if "min_lr" in kwargs and (rate := draft.number("learning_rate", default_rate)) > 0:
        kwargs["min_lr_rate"] = finite(kwargs.pop("min_lr"), f"{draft.written('lr_scheduler_kwargs')}, min_lr") / rate
    if "min_lr_rate" in kwargs:
        draft.put("learner.min_lr_rate", kwargs.pop("min_lr_rate"), "lr_scheduler_kwargs")
    else:
        draft.ignore("lr_scheduler_kwargs", "nothing is in it")
    if kwargs:
        raise ConfigError(f"{draft.written('lr_scheduler_kwargs')}: {', '.join(kwargs)} is not supported; only min_lr_rate and min_lr are")
    _put_warmup(draft)


def _put_warmup(draft: Draft) -> None:
    steps = draft.number("warmup_steps", 0)
    if steps >= 1:
        draft.put("learner.warmup_steps", int(steps), "warmup_steps")
    elif steps > 0:
        draft.put("learner.warmup_ratio", steps, "warmup_steps", why="below 1 it is a share of all steps")
    else:
        draft.ignore("warmup_steps", "0 leaves it to warmup_ratio")
    if steps > 0:
        draft.ignore("warmup_ratio", "warmup_steps wins")
    elif draft.has("warmup_ratio"):
        draft.put("learner.warmup_ratio", draft.given["warmup_ratio"], "warmup_ratio")


def put_offload(draft: Draft) -> None:
    """Where the optimizer's state lies."""
    if draft.has(OFFLOAD):
        draft.put("learner.offload_optimizer", draft.choice(OFFLOAD, {"none": False, "cpu": True}, None), OFFLOAD)


def put_batch(draft: Draft, longest: int) -> tuple[int, int, int]:
    """The batch of one optimizer step; returns rows a device, accumulation and processes.

    Args:
        longest: most tokens of a sequence.
    """
    processes = draft.count("num_processes", 1)
    each, accumulated = draft.count("per_device_train_batch_size", 8), draft.count("gradient_accumulation_steps", 1)
    why = f"{each} x {accumulated} x {processes} processes"
    draft.put(
        "learner.train_batch_size", each * accumulated * processes, "per_device_train_batch_size", "gradient_accumulation_steps", why=why
    )
    if longest > TOKEN_BUDGET:
        draft.put("learner.token_budget", longest, why="the longest sequence must fit into one micro-batch")
    return each, accumulated, processes


def put_checkpoints(draft: Draft) -> None:
    """How often a checkpoint and a line of the log are written."""
    strategy = str(draft.given.get("save_strategy", "steps")).lower()
    if strategy in ("no", "false"):
        draft.put("cluster.save_steps", 0, "save_strategy", why="only at the end")
        draft.ignore("save_steps", "save_strategy is no")
    else:
        every = "checkpoints are written every 50 steps" if not draft.has("save_steps") else "save_steps holds"
        draft.ignore(
            "save_strategy", "it asks for what is done anyway" if strategy == "steps" else f"an epoch's steps are not known here: {every}"
        )
        _put_interval(draft, "save_steps", "cluster.save_steps")
    _put_interval(draft, "logging_steps", "cluster.logging_steps")


def _put_interval(draft: Draft, setting: str, target: str) -> None:
    steps, last = draft.number(setting, 0), draft.number("max_steps", -1)
    if steps >= 1:
        draft.put(target, int(steps), setting)
    elif steps and last > 0:
        draft.put(target, math.ceil(steps * last), setting, why="a share of max_steps")
    else:
        draft.ignore(setting, f"a share of all steps, whose number is not known here: {target} keeps its default")


def eval_strategy(draft: Draft) -> str:
    """`no`, `steps` or `epoch`; `no` where it is not given."""
    return str(draft.given.get("eval_strategy", "no")).lower()


def is_evaluated(draft: Draft) -> bool:
    """Whether the recipe evaluates at all."""
    return draft.flag("do_eval") or eval_strategy(draft) not in ("no", "false")


def eval_interval(draft: Draft, default_logging_steps: int) -> float:
    """Steps from one evaluation to the next; 0 where they are a share of a number of steps that is not known.

    Args:
        default_logging_steps: of the trainer, and so of `eval_steps`.
    """
    every = draft.number("eval_steps", draft.number("logging_steps", default_logging_steps))
    return math.ceil(every * max(0.0, draft.number("max_steps", -1))) if 0 < every < 1 else every


def put_defaults(draft: Draft, defaults: Mapping[str, Any], why: str) -> None:
    """What the recipe leaves to the defaults of its version."""
    for target, value in defaults.items():
        place: Any = draft.tree
        for name in target.split("."):
            place = place.get(name) if isinstance(place, dict) else None
        if place is None:
            draft.put(target, value, why=why)
