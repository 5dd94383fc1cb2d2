"""What is made of settings of GRPO that do not stand for themselves: data, placement, generation, objective, rewards, evaluation."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import Any

from configs.contracts.errors import ConfigError
from configs.recipes.data_rules import put_held_out_share, put_source
from configs.recipes.draft import Draft
from configs.recipes.grpo_keys import DEFAULTS, MEDICAL, REWARD_NAMES, REWARD_PARAMS, REWARDS
from configs.recipes.reporting_rules import reporting
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

SHARED_GPU_SHARE = 0.45
"""Of a GPU that engine and learner share, for each; the rest is what CUDA and fragments take."""

SHARED_GPU_MEMORY = 0.4
"""Share of the memory of such a GPU that the engine may take."""

TRL_DEFAULT = "TRL's default when such recipes were written"

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
        put_checkpoints,
        _evaluation_steps,
        reporting,
        _defaults,
    ):
        rule(draft)


def _model(draft: Draft) -> None:
    put_model(draft, "prompts, rollouts and learner share the model's own tokenizer")


def _adapter(draft: Draft) -> None:
    put_quantization(draft)
    if draft.has("lora_target_modules"):
        put_target_modules(draft, draft.names("lora_target_modules"))
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
    asked = is_evaluated(draft)
    medical, split, path = is_medical(draft), draft.has("dataset_test_split"), draft.tree["data"].get("path", BUILTIN)
    if asked and not medical and not path.startswith(BUILTIN) and (split or draft.has("eval_strategy")):
        draft.put("data.eval_path", path, "eval_strategy", "do_eval", why="before and after training")
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
    put_schedule(draft, DEFAULTS["learner.learning_rate"])


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
    put_offload(draft)
    if draft.has("vllm_gpu_memory_utilization"):
        draft.put("actors.gpu_memory_utilization", draft.given["vllm_gpu_memory_utilization"], "vllm_gpu_memory_utilization")
    elif alone and not on_cpu:
        draft.put("actors.gpu_memory_utilization", SHARED_GPU_MEMORY, why="the rest is the learner's")


def _batch(draft: Draft) -> None:
    longest = draft.count("max_prompt_length", 512) + draft.count("max_completion_length", 256)
    each, accumulated, processes = put_batch(draft, longest)
    _generation(draft, each * processes, accumulated, each * accumulated * processes)


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


def _evaluation_steps(draft: Draft) -> None:
    """How often the run is evaluated while it trains, where the recipe says so in steps."""
    strategy, every = eval_strategy(draft), eval_interval(draft, TRL_LOGGING_STEPS)
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


def _defaults(draft: Draft) -> None:
    put_defaults(draft, DEFAULTS, TRL_DEFAULT)
