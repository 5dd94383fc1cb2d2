"""What is made of settings that do not stand for themselves: batches and placement, precision, schedule, data, rewards, checkpoints."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Any

from cluster.errors import ConfigError
from configs.recipe_data import put_held_out_share, put_source
from configs.recipe_draft import Draft, finite
from configs.recipe_keys import DEFAULTS, MEDICAL, REWARD_NAMES, REWARD_PARAMS, REWARDS

SHARED_GPU_SHARE = 0.45
"""Of a GPU that engine and learner share, for each; the rest is what CUDA and fragments take."""

SHARED_GPU_MEMORY = 0.4
"""Share of the memory of such a GPU that the engine may take."""

TRL_DEFAULT = "TRL's default when such recipes were written"

OFFLOAD = "offload_optimizer_device"
"""Setting that an accelerate file alone has, among those of DeepSpeed."""

HELD_OUT = 100
"""Held-out prompts where a recipe evaluates and does not say on how many."""

TRL_LOGGING_STEPS = 10
"""Default of TRL's GRPOConfig, and so of its eval_steps."""

MEDICAL_SYSTEM_PROMPT = (
    "You are a careful medical assistant. Think before you answer: write your reasoning between <think> and </think>, and straight after it "
    "the final answer between <answer> and </answer>, all in one line, as in <think>reasoning</think><answer>answer</answer>"
)
"""Asks for the layout that MedicalGPT's format reward looks for, as the script's own prompt does."""


def is_medical(draft: Draft) -> bool:
    """Whether the recipe is for MedicalGPT's script, which has no settings for prompt column, system prompt and rewards."""
    return any(draft.written(setting) in MEDICAL for setting in draft.given)


def work_out(draft: Draft) -> None:
    """Put everything that takes more than one setting, or another form, and then what the recipe leaves to its version's defaults."""
    for rule in (
        _model,
        _adapter,
        _data,
        _evaluation,
        _schedule,
        _objective,
        _rewards,
        _placement,
        _batch,
        _checkpoints,
        _evaluation_steps,
        _defaults,
    ):
        rule(draft)


def _model(draft: Draft) -> None:
    draft.mapping("model_init_kwargs")
    draft.ignore("model_init_kwargs", "what it holds counts as if given beside it")
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
    if draft.has("attn_implementation"):
        kernel = "eager" if draft.given["attn_implementation"] == "eager" else "sdpa"
        draft.put("model.attn_implementation", kernel, "attn_implementation", why="" if kernel == "eager" else "it calls the flash kernel")
    if draft.given.get("model_revision") == "main":
        draft.ignore("model_revision", "it is the revision that is used anyway")
    elif draft.has("model_revision"):
        draft.put("model.revision", draft.given["model_revision"], "model_revision")
    if draft.given.get("tokenizer_name_or_path", draft.given["model_name_or_path"]) != draft.given["model_name_or_path"]:
        raise ConfigError(
            f"tokenizer_name_or_path: {draft.given['tokenizer_name_or_path']} is not the model: prompts, rollouts and learner share the "
            "model's own tokenizer; remove it, or save the tokenizer into a copy of the model"
        )
    draft.ignore("tokenizer_name_or_path", "it is the model's own")


def _adapter(draft: Draft) -> None:
    four, eight, qlora = draft.flag("load_in_4bit"), draft.flag("load_in_8bit"), draft.flag("qlora")
    if eight and (four or qlora):
        raise ConfigError(
            f"load_in_8bit: true does not go with {'load_in_4bit' if four else 'qlora (which implies 4 bits)'}: a base has one precision; keep one of them"
        )
    if any(map(draft.has, ("qlora", "load_in_4bit", "load_in_8bit"))):
        draft.put("model.quantization", "int8" if eight else "nf4" if four or qlora else "none", "qlora", "load_in_4bit", "load_in_8bit")
    if draft.has("lora_target_modules"):
        names = draft.names("lora_target_modules")
        every = any(name in ("all", "all-linear") for name in names)
        draft.put("model.lora.target_modules", "all-linear" if every else names, "lora_target_modules")
    if draft.flag("use_peft"):
        draft.ignore("use_peft", "an adapter is trained in any case")
        if not draft.has("lora_dropout"):
            draft.put("model.lora.dropout", 0.05, why="the default of TRL's ModelConfig")
    else:
        why = "all weights are trained there, an adapter here: a larger rank and learning rate may be needed"
        draft.ignore("use_peft", why)
        if not draft.has("use_peft") and not draft.has("lora_r"):
            draft.tell("model.lora", "r 16, alpha 32", why)
    if draft.flag("disable_dropout"):
        draft.put("model.lora.dropout", 0.0, "disable_dropout")
    else:
        draft.ignore("disable_dropout", "it asks for what is done anyway")


def _data(draft: Draft) -> None:
    put_source(draft)
    put_held_out_share(draft, is_medical(draft))
    if draft.has("train_samples"):
        wanted = int(draft.number("train_samples", -1))
        draft.put("data.train_samples", wanted if wanted > 0 else -1, "train_samples")
    if not is_medical(draft):
        return
    if not draft.has("dataset_prompt_column"):
        draft.put("data.prompt_column", "question", why="the column that MedicalGPT's script reads")
    if not draft.has("system_prompt"):
        draft.put("data.system_prompt", MEDICAL_SYSTEM_PROMPT, why="MedicalGPT's script has one of this meaning")


def _evaluation(draft: Draft) -> None:
    asked = draft.flag("do_eval") or str(draft.given.get("eval_strategy", "no")).lower() not in ("no", "false")
    medical, split = is_medical(draft), draft.has("dataset_test_split")
    if asked and not medical and "path" in draft.tree["data"] and (split or draft.has("eval_strategy")):
        draft.put("data.eval_path", draft.tree["data"]["path"], "eval_strategy", "do_eval", why="before and after training")
        draft.put("data.eval_split", draft.given.get("dataset_test_split", "test"), "dataset_test_split")
        draft.put("data.eval_samples", HELD_OUT, "eval_strategy", "do_eval", why="so many rows of that split, before and after training")
        return
    if asked or medical:
        why = "so many held-out rows are evaluated, before and after training"
        draft.put("data.eval_samples", HELD_OUT, "eval_strategy", "do_eval", why=why)
    else:
        draft.put("data.eval_samples", 0, "eval_strategy", "do_eval", why="it trains on every row of the split")
    draft.ignore("dataset_test_split", "the recipe does not evaluate on it")


def _schedule(draft: Draft) -> None:
    if draft.has("lr_scheduler_type"):
        draft.put("learner.lr_scheduler_type", draft.given["lr_scheduler_type"], "lr_scheduler_type")
    kwargs = dict(draft.mapping("lr_scheduler_kwargs"))
    if "min_lr" in kwargs and (rate := draft.number("learning_rate", DEFAULTS["learner.learning_rate"])) > 0:
        kwargs["min_lr_rate"] = finite(kwargs.pop("min_lr"), f"{draft.written('lr_scheduler_kwargs')}, min_lr") / rate
    if "min_lr_rate" in kwargs:
        draft.put("learner.min_lr_rate", kwargs.pop("min_lr_rate"), "lr_scheduler_kwargs")
    else:
        draft.ignore("lr_scheduler_kwargs", "nothing is in it")
    if kwargs:
        raise ConfigError(f"{draft.written('lr_scheduler_kwargs')}: {', '.join(kwargs)} is not supported; only min_lr_rate and min_lr are")
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


def _objective(draft: Draft) -> None:
    if draft.has("scale_rewards"):
        scales = {True: "group", False: "none", "group": "group", "batch": "batch", "none": "none", "True": "group", "False": "none"}
        draft.put("learner.scale_rewards", draft.choice("scale_rewards", scales, "group"), "scale_rewards")
    if draft.has("top_k"):
        draft.put("actors.top_k", draft.given["top_k"] or -1, "top_k")
    if draft.has("multi_objective_aggregation"):
        ways = {"sum_then_normalize": "sum", "normalize_then_sum": "normalize_then_sum"}
        draft.put("rewards.aggregation", draft.choice("multi_objective_aggregation", ways, None), "multi_objective_aggregation")
    corrected = not draft.has("vllm_importance_sampling_correction") or draft.flag("vllm_importance_sampling_correction")
    mode = draft.given.get("vllm_importance_sampling_mode", "token_truncate") if corrected else "none"
    if draft.has("vllm_importance_sampling_mode") or not corrected:
        draft.put("learner.importance_sampling_mode", mode, "vllm_importance_sampling_mode", "vllm_importance_sampling_correction")
    else:
        draft.ignore("vllm_importance_sampling_correction", "it asks for what is done anyway")


def _rewards(draft: Draft) -> None:
    medical = is_medical(draft)
    default = ("accuracy", "format") if medical else ("accuracy", "format", "tag_count")
    names = [_reward_name(draft, name) for name in draft.names("reward_funcs", default)]
    weights = draft.given.get("reward_weights", [1.0] * len(names))
    weights = weights if isinstance(weights, list) else [weights]
    if len(weights) != len(names):
        raise ConfigError(
            f"{draft.written('reward_weights')}: {len(weights)} weights for {len(names)} rewards ({', '.join(names)}); give one for each"
        )
    functions = [_reward(name, weight, _reward_params(draft, name, medical)) for name, weight in zip(names, weights, strict=True)]
    origin = "MedicalGPT's script has these two" if medical else "the default of Open-R1's script"
    draft.put("rewards.functions", functions, "reward_funcs", "reward_weights", why="" if draft.has("reward_funcs") else origin)
    for setting, reward, there in (("code_provider", "code", "e2b"), ("ioi_provider", "ioi_code", "piston")):
        if reward in names and not draft.has(setting):
            draft.tell(f"rewards.functions, {reward}.provider", "local", f"Open-R1's script runs programs at {there} by default")
    for setting, takers in REWARD_PARAMS.items():
        taking = [f"{reward}.{param}" for reward, param in takers if reward in names]
        if not taking:
            draft.ignore(setting, f"{' and '.join(reward for reward, _ in takers)} is not among the rewards")
        for param in taking:
            draft.say(setting, f"rewards.functions, {param}")


def _reward_name(draft: Draft, name: str) -> str:
    name = REWARD_NAMES.get(name, name)
    if name in REWARDS or ":" in name:
        return name
    if "." in name:
        return ":".join(name.rsplit(".", 1))
    near = get_close_matches(name, [*REWARDS, *REWARD_NAMES], n=1)
    hint = f"did you mean {near[0]}?" if near else f"built in are {', '.join(REWARDS)}, and your own are written path/to/file.py:function"
    raise ConfigError(f"{draft.written('reward_funcs')}: there is no reward {name}; {hint}")


def _reward_params(draft: Draft, name: str, medical: bool) -> dict[str, Any]:
    params = {param: draft.given[setting] for setting, takers in REWARD_PARAMS.items() for reward, param in takers
              if reward == name and draft.has(setting)}  # fmt: skip
    version = {
        "accuracy": {"answer_style": "answer_tag"} if medical else {"on_unparsable_answer": "skip"},
        "format": {"layout": "inline"} if medical else {},
        "cosine": {"min_value_wrong": 0.0},  # the script's default, where the function alone has -1
        "cf_code": {"scoring_mode": "weighted_sum"},
    }
    return version.get(name, {}) | params


def _reward(name: str, weight: Any, params: dict[str, Any]) -> Any:
    if weight == 1 and not params:
        return name
    return {"name": name} | ({"weight": weight} if weight != 1 else {}) | ({"params": params} if params else {})


def _placement(draft: Draft) -> None:
    """GPUs. `num_processes` counts learner ranks where the engine has GPUs of its own, and all GPUs where it has not."""
    processes, width = draft.count("num_processes", 1), draft.count("vllm_tensor_parallel_size", 1)
    mode = draft.choice("vllm_mode", {"server": "server", "colocate": "colocate", None: "server"}, None)
    own = draft.flag("use_vllm") and mode == "server"
    on_cpu, alone = draft.flag("use_cpu"), not own and processes == 1 and width == 1
    ranks = processes if own or on_cpu or alone else max(1, processes - width)
    gpus, share = (0, 0) if on_cpu else (SHARED_GPU_SHARE, SHARED_GPU_SHARE) if alone else (width, 1)
    beside = "engine and learner share one" if alone else f"{width} for the engine, {ranks} for the learner"
    where = "all on the CPU" if on_cpu else f"GPUs: {beside}"
    unknown = "" if draft.has("num_processes") else "; give --accelerate FILE or --num_processes N for more"
    draft.put("actors.gpus_per_worker", gpus, "use_vllm", "vllm_mode", "vllm_tensor_parallel_size", "use_cpu", why=where)
    draft.put("learner.ranks", ranks, "num_processes", why=f"{where}{unknown}")
    draft.put("learner.gpus_per_rank", share, why=where)
    if draft.has(OFFLOAD):
        draft.put("learner.offload_optimizer", draft.choice(OFFLOAD, {"none": False, "cpu": True}, None), OFFLOAD)
    if draft.has("vllm_gpu_memory_utilization"):
        draft.put("actors.gpu_memory_utilization", draft.given["vllm_gpu_memory_utilization"], "vllm_gpu_memory_utilization")
    elif alone and not on_cpu:
        draft.put("actors.gpu_memory_utilization", SHARED_GPU_MEMORY, why="the rest is the learner's")


def _batch(draft: Draft) -> None:
    processes = draft.count("num_processes", 1)
    each, accumulated = draft.count("per_device_train_batch_size", 8), draft.count("gradient_accumulation_steps", 1)
    batch = each * accumulated * processes
    why = f"{each} x {accumulated} x {processes} processes"
    draft.put("learner.train_batch_size", batch, "per_device_train_batch_size", "gradient_accumulation_steps", why=why)
    longest = draft.count("max_prompt_length", 512) + draft.count("max_completion_length", 256)
    if longest > 16384:
        draft.put("learner.token_budget", longest, why="the longest sequence must fit into one micro-batch")
    _generation(draft, each * processes, accumulated, batch)


def _generation(draft: Draft, forward: int, accumulated: int, batch: int) -> None:
    """Several optimizer steps on one batch of completions: the adapter is broadcast that seldom."""
    if draft.has("generation_batch_size") and draft.has("steps_per_generation"):
        raise ConfigError("generation_batch_size and steps_per_generation say the same; keep one of them")
    if draft.has("generation_batch_size"):
        sampled, setting = draft.count("generation_batch_size", batch), "generation_batch_size"
    else:
        sampled, setting = draft.count("steps_per_generation", accumulated) * forward, "steps_per_generation"
    if sampled <= batch:
        draft.ignore(setting, "a step takes as many groups as it needs")
        draft.tell("cluster.max_staleness", 1, "sampling goes on while the learner trains; 0 is the synchronous order of TRL")
        return
    if sampled % batch:
        raise ConfigError(
            f"{setting}: {sampled} completions sampled together are not a multiple of the {batch} of one optimizer step; "
            f"make it {sampled // batch} or {sampled // batch + 1} times as many"
        )
    draft.put("cluster.sync_every_steps", sampled // batch, setting, why="optimizer steps on samples of one policy")
    draft.put("cluster.max_staleness", sampled // batch, setting, why="one step more, so that sampling goes on meanwhile")


def _checkpoints(draft: Draft) -> None:
    strategy = str(draft.given.get("save_strategy", "steps")).lower()
    if strategy in ("no", "false"):
        draft.put("cluster.save_steps", 0, "save_strategy", why="only at the end")
        draft.ignore("save_steps", "save_strategy is no")
    else:
        every = "checkpoints are written every 50 steps" if not draft.has("save_steps") else "save_steps holds"
        draft.ignore(
            "save_strategy", "it asks for what is done anyway" if strategy == "steps" else f"an epoch's steps are not known here: {every}"
        )
        _every(draft, "save_steps", "cluster.save_steps")
    _every(draft, "logging_steps", "cluster.logging_steps")


def _evaluation_steps(draft: Draft) -> None:
    """How often the run is evaluated while it trains, where the recipe says so in steps."""
    strategy = str(draft.given.get("eval_strategy", "no")).lower()
    every = draft.number("eval_steps", draft.number("logging_steps", TRL_LOGGING_STEPS))
    if 0 < every < 1:
        every = math.ceil(every * max(0.0, draft.number("max_steps", -1)))
    if strategy != "steps" or not every:
        why = "it is a share of all steps, whose number is not known here" if strategy == "steps" else "eval_strategy is not steps"
        draft.ignore("eval_steps", why)
        draft.ignore("num_generations_eval", "held-out prompts are answered once, greedily, before and after training")
        return
    synced = draft.tree.get("cluster", {}).get("sync_every_steps", 1)
    why = "as often as it logs, TRL's default" if not draft.has("eval_steps") else ""
    why = f"engines have a new adapter every {synced} steps" if every % synced else why
    draft.put("evaluation.steps", math.ceil(every / synced) * synced, "eval_steps", "eval_strategy", why=why)
    if draft.has("num_generations_eval"):
        draft.put("evaluation.num_generations", draft.count("num_generations_eval", 1), "num_generations_eval")
    else:
        draft.tell("evaluation.num_generations", 1, "greedy; TRL samples num_generations completions")


def _every(draft: Draft, setting: str, target: str) -> None:
    steps, last = draft.number(setting, 0), draft.number("max_steps", -1)
    if steps >= 1:
        draft.put(target, int(steps), setting)
    elif steps and last > 0:
        draft.put(target, math.ceil(steps * last), setting, why="a share of max_steps")
    else:
        draft.ignore(setting, f"a share of all steps, whose number is not known here: {target} keeps its default")


def _defaults(draft: Draft) -> None:
    for target, value in DEFAULTS.items():
        place: Any = draft.tree
        for name in target.split("."):
            place = place.get(name) if isinstance(place, dict) else None
        if place is None:
            draft.put(target, value, why=TRL_DEFAULT)
