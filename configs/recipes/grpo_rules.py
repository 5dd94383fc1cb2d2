"""Conversion rules for GRPO settings that need more than a rename: data, placement, generation, objective, rewards, evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from configs.contracts.errors import ConfigError
from configs.recipes.data_rules import set_held_out_share, set_source
from configs.recipes.draft import DONE_ANYWAY, Draft, finite
from configs.recipes.grpo_keys import DEFAULTS, MEDICAL, MEDICAL_PARAMS, OPEN_R1_PARAMS, REWARD_PARAMS, REWARDS
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
    set_reporting,
    set_schedule,
    set_target_modules,
)
from configs.schema.model import BUILTIN
from configs.schema.reward_names import REWARD_NAMES, other_reward
from configs.schema.sources import REASONING_GYM
from configs.yaml_files import YamlValue

SHARED_GPU_SHARE = 0.45
"""Share of one GPU that engine and learner each get if they share it; CUDA and fragmentation take the rest."""

SHARED_GPU_MEMORY = 0.4
"""Share of the memory of such a GPU that the engine may use."""

TRL_DEFAULT = "TRL's default when such recipes were written"
"""Why a key is set that the recipe does not set."""

TRL_LOGGING_STEPS = 10
"""Default of `logging_steps`, and so of `eval_steps`, in TRL's GRPOConfig."""

MEDICAL_SYSTEM_PROMPT = (
    "You are a careful medical assistant. Think before you answer: write your reasoning between <think> and </think>, and straight "
    "after it the final answer between <answer> and </answer>, all in one line, as in <think>reasoning</think><answer>answer</answer>"
)
"""Asks for the layout that MedicalGPT's format reward looks for, as the script's own prompt does."""


def is_medical(draft: Draft) -> bool:
    """Recognise a recipe for MedicalGPT's script, which fixes the prompt column, the system prompt and the rewards."""
    return any(draft.written(setting) in MEDICAL for setting in draft.given)


def apply_rules(draft: Draft) -> None:
    """Set every key that needs more than a copied value, and then the defaults that the recipe relies on."""
    for rule in (
        require_environment,
        _model,
        _adapter,
        _data,
        _evaluation,
        _schedule,
        _objective,
        _rewards,
        _placement,
        _batch,
        set_checkpoints,
        _evaluation_steps,
        set_reporting,
        _defaults,
    ):
        rule(draft)


def _model(draft: Draft) -> None:
    set_model(draft, "prompts, rollouts and learner share the model's own tokenizer")


def _adapter(draft: Draft) -> None:
    set_quantization(draft)
    if draft.has("lora_target_modules"):
        set_target_modules(draft, draft.names("lora_target_modules"))
    if draft.flag("use_peft"):
        draft.note_ignored("use_peft", "an adapter is always trained")
        if not draft.has("lora_dropout"):
            draft.set("model.lora.dropout", 0.05, why="the default of TRL's ModelConfig")
    else:
        why = "the recipe trains all weights, and here an adapter is trained: it may need a larger rank and learning rate"
        draft.note_ignored("use_peft", why)
        if not draft.has("use_peft") and not draft.has("lora_r"):
            draft.note_default("model.lora", "r 16, alpha 32", why)
    if draft.flag("disable_dropout"):
        draft.set("model.lora.dropout", 0.0, "disable_dropout")
    else:
        draft.note_ignored("disable_dropout", DONE_ANYWAY)


def _data(draft: Draft) -> None:
    set_source(draft, folder_first=True)
    set_held_out_share(draft, is_medical(draft))
    if draft.has("train_samples"):
        wanted = int(draft.number("train_samples", -1))
        draft.set("data.train_samples", wanted if wanted > 0 else -1, "train_samples")
    if not is_medical(draft):
        return
    if not draft.has("dataset_prompt_column"):
        draft.set("data.prompt_column", "question", why="the column that MedicalGPT's script reads")
    if not draft.has("system_prompt"):
        draft.set("data.system_prompt", MEDICAL_SYSTEM_PROMPT, why="MedicalGPT's script has a prompt with this meaning")


def _evaluation(draft: Draft) -> None:
    asked = is_evaluated(draft)
    medical, split, path = is_medical(draft), draft.has("dataset_test_split"), draft.keys.get("data.path", BUILTIN)
    if asked and not medical and not str(path).startswith((BUILTIN, REASONING_GYM)) and (split or draft.has("eval_strategy")):
        draft.set("data.eval_path", path, "eval_strategy", "do_eval", why="before and after training")
        draft.set("data.eval_split", draft.given.get("dataset_test_split", "test"), "dataset_test_split", why="" if split else TEST_SPLIT)
        why = "rows of that split, evaluated before and after training"
        draft.set("data.eval_samples", HELD_OUT, "eval_strategy", "do_eval", why=why)
        return
    if asked or medical:
        why = "held-out rows, evaluated before and after training"
        draft.set("data.eval_samples", HELD_OUT, "eval_strategy", "do_eval", why=why)
    else:
        draft.set("data.eval_samples", 0, "eval_strategy", "do_eval", why="the recipe trains on every row of the split")
    draft.note_ignored("dataset_test_split", "the recipe does not evaluate on it")


def _schedule(draft: Draft) -> None:
    set_schedule(draft, finite(DEFAULTS["learner.learning_rate"], "learning_rate"))


def _objective(draft: Draft) -> None:
    if draft.has("scale_rewards"):
        scales: dict[str | float | None, str] = {True: "group", False: "none", "True": "group", "False": "none"}
        scales |= {scale: scale for scale in ("group", "batch", "none")}
        draft.set("learner.scale_rewards", draft.choice("scale_rewards", scales, "group"), "scale_rewards")
    if draft.has("top_k"):
        draft.set("actors.top_k", draft.given["top_k"] or -1, "top_k")
    if draft.has("multi_objective_aggregation"):
        ways: dict[str | float | None, str] = {"sum_then_normalize": "sum", "normalize_then_sum": "normalize_then_sum"}
        draft.set("rewards.aggregation", draft.choice("multi_objective_aggregation", ways, None), "multi_objective_aggregation")
    corrected = not draft.has("vllm_importance_sampling_correction") or draft.flag("vllm_importance_sampling_correction")
    mode = draft.given.get("vllm_importance_sampling_mode", "token_truncate") if corrected else "none"
    if draft.has("vllm_importance_sampling_mode") or not corrected:
        draft.set("learner.importance_sampling_mode", mode, "vllm_importance_sampling_mode", "vllm_importance_sampling_correction")
    else:
        draft.note_ignored("vllm_importance_sampling_correction", DONE_ANYWAY)


def _rewards(draft: Draft) -> None:
    medical = is_medical(draft)
    default = ("accuracy", "format") if medical else ("accuracy", "format", "tag_count")
    names = [_reward_name(draft, name) for name in draft.names("reward_funcs", default)]
    functions = [
        _reward(name, weight, _reward_params(draft, name, medical)) for name, weight in zip(names, _weights(draft, names), strict=True)
    ]
    origin = "MedicalGPT's script has these two" if medical else "the default of Open-R1's script"
    draft.set("rewards.functions", functions, "reward_funcs", "reward_weights", why="" if draft.has("reward_funcs") else origin)
    for setting, reward, there in (("code_provider", "code", "e2b"), ("ioi_provider", "ioi_code", "piston")):
        if reward in names and not draft.has(setting):
            why = f"Open-R1's script runs programs at {there} by default"
            draft.note_default(f"rewards.functions, {reward}.provider", "local", why)
    _note_reward_settings(draft, names)


def _weights(draft: Draft, names: Sequence[str]) -> list[YamlValue]:
    given = draft.given.get("reward_weights", [1.0] * len(names))
    weights = given if isinstance(given, list) else [given]
    if len(weights) != len(names):
        raise ConfigError(
            f"{draft.written('reward_weights')}: {len(weights)} weights for {len(names)} rewards ({', '.join(names)}); give one "
            "weight for each reward"
        )
    return weights


def _note_reward_settings(draft: Draft, names: Sequence[str]) -> None:
    """Note which reward takes each setting of a reward."""
    for setting, takers in REWARD_PARAMS.items():
        taking = [f"{reward}.{param}" for reward, param in takers if reward in names]
        if not taking:
            draft.note_ignored(setting, f"{' and '.join(reward for reward, _ in takers)} is not among the rewards")
        for param in taking:
            draft.note_use(setting, f"rewards.functions, {param}")


def _reward_name(draft: Draft, name: str) -> str:
    name = REWARD_NAMES.get(name, name)
    if name in REWARDS or ":" in name:
        return name
    if "." in name:
        return ":".join(name.rsplit(".", 1))
    hint = other_reward(name, REWARDS) or f"; choose one of {', '.join(REWARDS)}, or write path/to/file.py:function for your own"
    raise ConfigError(f"{draft.written('reward_funcs')}: there is no reward {name!r}{hint}")


def _reward_params(draft: Draft, name: str, medical: bool) -> dict[str, YamlValue]:
    """Collect the parameters of a reward: those that the recipe gives, and those that its script has, which are noted."""
    params = {param: draft.given[setting] for setting, takers in REWARD_PARAMS.items() for reward, param in takers
              if reward == name and draft.has(setting)}  # fmt: skip
    of_script = (MEDICAL_PARAMS if medical else {}).get(name) or OPEN_R1_PARAMS.get(name, {})
    added: dict[str, YamlValue] = {param: value for param, (value, _) in of_script.items() if param not in params}
    for param, value in added.items():
        draft.note_default(f"rewards.functions, {name}.{param}", value, of_script[param][1])
    return added | params


def _reward(name: str, weight: YamlValue, params: dict[str, YamlValue]) -> YamlValue:
    """One entry of `rewards.functions`, as short as it can be written."""
    if weight == 1 and not params:
        return name
    return {"name": name, **({"weight": weight} if weight != 1 else {}), **({"params": params} if params else {})}


def _placement(draft: Draft) -> None:
    """Set the GPUs. `num_processes` counts learner ranks if the engine has GPUs of its own, and otherwise all GPUs."""
    processes, width = draft.count("num_processes", 1), draft.count("vllm_tensor_parallel_size", 1)
    own = draft.choice("vllm_mode", {"server": True, "colocate": False, None: True}, None) and draft.flag("use_vllm")
    on_cpu, alone = draft.flag("use_cpu"), not own and processes == 1 and width == 1
    ranks = processes if own or on_cpu or alone else max(1, processes - width)
    gpus, share = (0, 0) if on_cpu else (SHARED_GPU_SHARE, SHARED_GPU_SHARE) if alone else (width, 1)
    split = "engine and learner share one" if alone else f"{width} for the engine, {ranks} for the learner"
    where = "everything on the CPU" if on_cpu else f"GPUs: {split}"
    unknown = "" if draft.has("num_processes") else "; give --accelerate FILE or --num_processes N for more"
    draft.set("actors.gpus_per_worker", gpus, "use_vllm", "vllm_mode", "vllm_tensor_parallel_size", "use_cpu", why=where)
    draft.set("learner.ranks", ranks, "num_processes", why=f"{where}{unknown}")
    draft.set("learner.gpus_per_rank", share, why=where)
    set_offload(draft)
    if draft.has("vllm_gpu_memory_utilization"):
        draft.set("actors.gpu_memory_utilization", draft.given["vllm_gpu_memory_utilization"], "vllm_gpu_memory_utilization")
    elif alone and not on_cpu:
        draft.set("actors.gpu_memory_utilization", SHARED_GPU_MEMORY, why="the rest is the learner's")


def _batch(draft: Draft) -> None:
    longest = draft.count("max_prompt_length", 512) + draft.count("max_completion_length", 256)
    each, accumulated, processes = set_batch(draft, longest)
    generations = draft.count("num_generations", int(finite(DEFAULTS["actors.num_generations"], "num_generations")))
    whole = generations // math.gcd(each * accumulated, generations)  # so many processes, or a multiple, make whole groups
    if processes % whole:
        nearest = max(whole, round(processes / whole) * whole)
        draft.note_remedy("learner.train_batch_size", f" x num_processes {processes}: with --num_processes {nearest} it is divisible")
    _generation(draft, each * processes, accumulated, each * accumulated * processes)


def _generation(draft: Draft, forward: int, accumulated: int, batch: int) -> None:
    """Set how many optimizer steps train on samples of one policy. The adapter is broadcast only after these steps.

    Args:
        forward: completions of one forward pass over all processes.
        accumulated: forward passes of an optimizer step.
        batch: completions of an optimizer step.
    """
    if draft.has("generation_batch_size") and draft.has("steps_per_generation"):
        raise ConfigError("generation_batch_size and steps_per_generation set the same thing; keep one of them")
    if draft.has("generation_batch_size"):
        sampled, setting = draft.count("generation_batch_size", batch), "generation_batch_size"
    else:
        sampled, setting = draft.count("steps_per_generation", accumulated) * forward, "steps_per_generation"
    if sampled <= batch:
        draft.note_ignored(setting, "a step takes as many groups as it needs")
        draft.note_default("cluster.max_staleness", 1, "sampling goes on while the learner trains; 0 is TRL's synchronous order")
        return
    if sampled % batch:
        raise ConfigError(
            f"{setting}: {sampled} completions sampled together are not a multiple of the {batch} of one optimizer step; "
            f"make it {sampled // batch} or {sampled // batch + 1} times as many"
        )
    draft.set("cluster.sync_every_steps", sampled // batch, setting, why="optimizer steps on samples of one policy")
    draft.set("cluster.max_staleness", sampled // batch, setting, why="one more than needed, so that sampling goes on meanwhile")


def _evaluation_steps(draft: Draft) -> None:
    """Set the interval of evaluations during training, if the recipe gives one in steps."""
    strategy, every = eval_strategy(draft), eval_interval(draft, TRL_LOGGING_STEPS)
    if strategy != "steps" or not every:
        why = "it is a share of all steps, and their number is not known here" if strategy == "steps" else "eval_strategy is not steps"
        draft.note_ignored("eval_steps", why)
        draft.note_ignored("num_generations_eval", "held-out prompts are answered once, greedily, before and after training")
        return
    synced = int(finite(draft.keys.get("cluster.sync_every_steps", 1), "sync_every_steps"))
    why = "as often as it logs: TRL's default" if not draft.has("eval_steps") else ""
    why = f"engines get a new adapter every {synced} steps" if every % synced else why
    draft.set("evaluation.steps", math.ceil(every / synced) * synced, "eval_steps", "eval_strategy", why=why)
    if draft.has("num_generations_eval"):
        draft.set("evaluation.num_generations", draft.count("num_generations_eval", 1), "num_generations_eval")
    else:
        draft.note_default("evaluation.num_generations", 1, "greedy; TRL samples num_generations completions")


def _defaults(draft: Draft) -> None:
    set_defaults(draft, DEFAULTS, TRL_DEFAULT)
