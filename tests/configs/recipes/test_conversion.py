"""Recipes of TRL, Open-R1 and MedicalGPT become the runs that they describe.

Protected here:
1. The recipes of the two guides give the runs of `configs/`, value by value.
2. No setting is dropped in silence: it becomes a key, is shown with a reason, or ends with a ConfigError that names it, whatever its value.
3. What changes the algorithm and was a default of TRL when the recipe was written is written down.
4. The written file loads to the same run, and is no recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError
from configs.loading import load_config
from configs.recipes import command_line, conversion
from configs.recipes.command_line import is_recipe, sort_arguments
from configs.recipes.conversion import Conversion
from configs.recipes.grpo_keys import DEFAULTS, GRPO_KEYS
from configs.recipes.kinds import GRPO
from configs.schema.run import RunConfig
from configs.yaml_files import read_yaml
from tests import REPOSITORY

RECIPES = REPOSITORY / "examples" / "recipes"
ZERO2 = RECIPES / "zero2.yaml"
ANYTHING: tuple[Any, ...] = (
    *(True, False, 0, 1, 8, -1, 0.5, "", "text", "no", [], ["text"], [1, 1, 1], {}, {"text": 1}, {"revision": "v2"}),
    *(
        "auto",
        "server",
        "bf16",
        "nf4",
        "grpo",
        "linear",
        "token",
        "token_truncate",
        "CAUSAL_LM",
        "adamw_torch",
        "sum_then_normalize",
        "accuracy",
    ),
    *("none", "Qwen/Qwen2.5-0.5B-Instruct", [{"path": "a"}], {"datasets": [{"id": "a"}]}),
)
"""Values of every kind, a right one for each setting among them."""

RIGHT: dict[str, list[Any]] = {}
"""Setting -> `alone` of it, once found."""

SMALL = {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "dataset_name": "openai/gsm8k"}


def convert(settings: Mapping[str, Any], launch: Mapping[str, Any] | None = None) -> Conversion[RunConfig]:
    return conversion.convert(GRPO, settings, launch)


def read_recipe(path: Path, *arguments: str) -> Conversion[RunConfig]:
    return command_line.read_recipe(GRPO, read_yaml(path), sort_arguments(arguments), path)


def of_guide(name: str) -> Conversion[RunConfig]:
    options = ["--nproc_per_node", "2"] if name.startswith("medical") else ["--config_file", str(ZERO2)]
    return read_recipe(RECIPES / f"{name}.yaml", *options)


def without_accounts(config: RunConfig) -> RunConfig:
    """The files of `configs/` train without accounts: they report to TensorBoard, and push nothing."""
    kept = {"report_to": ("tensorboard",), "push_to_hub": None}
    return config.model_copy(update={"cluster": config.cluster.model_copy(update=kept)})


def become(setting: str, conversion: Conversion[RunConfig]) -> set[str]:
    """The keys of the run that a setting became, or the reason why it has no effect."""
    return {row.target or row.why for row in conversion.rows if row.setting == setting}


def outcome(settings: dict[str, Any]) -> tuple[Conversion[RunConfig] | None, str]:
    """The conversion, or what the error says. Any error but ConfigError is one of the code."""
    try:
        return convert(settings), ""
    except ConfigError as error:
        return None, str(error)


def refusal(**settings: Any) -> str:
    conversion, refused = outcome(SMALL | settings)
    assert conversion is None
    return refused


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml") if path != ZERO2))
def test_a_recipe_of_the_guides_is_the_run_of_that_name(name: str) -> None:
    assert without_accounts(of_guide(name).config) == load_config(REPOSITORY / "configs" / f"{name}.yaml")


def test_a_recipe_of_the_guides_reports_and_pushes_as_it_says() -> None:
    cluster = of_guide("openr1_distill_1.5b").config.cluster
    assert (cluster.report_to, cluster.log_completions) == (("wandb",), True)
    assert cluster.push_to_hub is not None and cluster.push_to_hub.hub_strategy == "every_save"


def test_the_guides_open_r1_run() -> None:
    config = of_guide("openr1_distill_1.5b").config
    assert (config.actors.num_workers, config.actors.gpus_per_worker, config.learner.ranks, config.learner.gpus_per_rank) == (1, 1, 7, 1)
    assert (config.learner.train_batch_size, config.groups_per_step) == (448, 28)
    assert (config.learner.lr_scheduler_type, config.learner.min_lr_rate) == ("cosine_with_min_lr", 0.1)
    assert [(spec.name, spec.weight) for spec in config.rewards.functions] == [("accuracy", 1), ("format", 1), ("tag_count", 1)]
    assert (config.data.system_prompt or "").endswith("<think>\n...\n</think>\n<answer>\n...\n</answer>")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*_*.yaml")), ids=lambda path: path.stem)
def test_a_written_run_loads_to_the_same_and_is_no_recipe(path: Path, tmp_path: Path) -> None:
    conversion = of_guide(path.stem)
    written = tmp_path / "run.yaml"
    written.write_text(conversion.to_yaml(), encoding="utf-8")
    assert load_config(written) == conversion.config
    assert is_recipe(read_yaml(path)) and not is_recipe(read_yaml(written))
    with pytest.raises(ConfigError, match="is a run of rollcast already .*train it as it is"):
        read_recipe(written)


def test_a_written_run_survives_texts_that_look_like_something_else(tmp_path: Path) -> None:
    odd = {
        "system_prompt": "1e-4 # no comment: yes\n\n  indented\n",
        "chat_template": "{{ a }} # b",
        "dataset_config": "no",
        "output_dir": "1234",
    }
    conversion = convert(SMALL | odd)
    written = tmp_path / "run.yaml"
    written.write_text(conversion.to_yaml(), encoding="utf-8")
    config = load_config(written)
    assert config == conversion.config
    assert (config.data.system_prompt, config.model.chat_template, config.data.name) == tuple(odd.values())[:3]


@pytest.mark.parametrize("key", sorted(GRPO_KEYS.known))
def test_no_setting_is_dropped_in_silence_whatever_its_value(key: str) -> None:
    name, explained = GRPO_KEYS.old_names.get(key, key), 0
    for value in ANYTHING:
        conversion, refused = outcome({**SMALL, key: value})
        if conversion:
            assert become(key, conversion), (key, value)
            explained += 1
        else:
            inside = value if key == "model_init_kwargs" and isinstance(value, dict) else ()
            assert any(said in refused for said in (key, name, *inside, "learner", "actors.")), (value, refused)
    assert explained or GRPO_KEYS.refused.get(name, [None])[0] == (), f"no value of {key} can be converted"


def alone(key: str) -> list[Any]:
    """Values under which a setting can be converted by itself."""
    return [value for value in ANYTHING if outcome({**SMALL, key: value})[0]]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_setting_is_dropped_in_silence_beside_others(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from(sorted(GRPO_KEYS.known - set(SMALL))), min_size=2, max_size=20, unique=True))
    recipe = {key: data.draw(st.sampled_from(values)) for key in keys if (values := RIGHT.setdefault(key, alone(key)))}
    conversion, _ = outcome(SMALL | recipe)
    if conversion:
        assert [key for key in recipe if not become(key, conversion)] == []


@pytest.mark.parametrize(
    "pair",
    [
        {"save_strategy": "no", "save_steps": 0.5},
        {"train_file_dir": "data", "dataset_test_split": "test"},
        {"warmup_steps": 3, "warmup_ratio": 0.1},
        {"vllm_importance_sampling_correction": False, "vllm_importance_sampling_mode": "token_mask"},
        {"do_eval": True, "dataset_test_split": "test"},
        {"use_vllm": True, "vllm_device": "auto"},
        {"dataset_mixture": {"datasets": [{"id": "a"}]}, "dataset_config": "b", "dataset_train_split": "c", "datasets": [{"path": "d"}]},
        {"dataset_mixture": {"datasets": [{"id": "a"}]}, "test_split_size": 0.1, "dataset_test_split": "test", "eval_strategy": "steps"},
        {"dataset_streaming": True, "streaming": True, "max_steps": 10},
    ],
    ids=" ".join,
)
def test_no_setting_is_dropped_in_silence_beside_one_that_wins(pair: dict[str, Any]) -> None:
    conversion = convert(SMALL | pair)
    assert all(become(key, conversion) for key in pair)


def test_null_is_not_given() -> None:
    conversion = convert(SMALL | {"beta": None, "delta": None})
    assert become("beta", conversion) == become("delta", conversion) == {"it is empty"}
    assert conversion.config.learner.beta == 0.04


def test_what_was_a_default_of_trl_is_written_down() -> None:
    conversion = convert(SMALL)
    text = conversion.to_yaml()
    for target, value in DEFAULTS.items():
        assert f"{target.rpartition('.')[2]}: " in text, target
        assert (target, value) in [(row.target, row.value) for row in conversion.rows]
    learner = conversion.config.learner
    assert (learner.beta, learner.loss_type, learner.scale_rewards, learner.epsilon) == (0.04, "bnpo", "group", 0.2)
    assert (conversion.config.seed, conversion.config.actors.max_completion_length) == (42, 256)


@pytest.mark.parametrize("key", ["beta", "loss_type", "epsilon", "temperature", "seed"])
def test_what_a_recipe_says_wins_over_the_default(key: str) -> None:
    value = {"beta": 0.0, "loss_type": "dapo", "epsilon": 0.1, "temperature": 0.7, "seed": 1}[key]
    rows = [row for row in convert(SMALL | {key: value}).rows if row.target.rpartition(".")[2] == key]
    assert [(row.setting, row.value) for row in rows] == [(key, value)]


@pytest.mark.parametrize(
    ("settings", "gpus", "batch"),
    [
        ({"use_vllm": True, "num_processes": 7}, (1, 1, 7, 1), 7 * 64),  # Open-R1: the engine has a GPU beside those that train
        ({"use_vllm": True, "vllm_mode": "server", "num_processes": 6, "vllm_tensor_parallel_size": 2}, (1, 2, 6, 1), 6 * 64),
        ({"use_vllm": True, "vllm_mode": "colocate", "num_processes": 8}, (1, 1, 7, 1), 8 * 64),  # shared there, split here
        ({"use_vllm": False, "nproc_per_node": 2}, (1, 1, 1, 1), 2 * 64),
        ({}, (1, 0.45, 1, 0.45), 64),
        ({"use_cpu": True, "num_processes": 2}, (1, 0, 2, 0), 2 * 64),
    ],
)
def test_gpus_and_batch(settings: dict[str, Any], gpus: tuple[float, ...], batch: int) -> None:
    config = convert(SMALL | {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 4} | settings).config
    assert (config.actors.num_workers, config.actors.gpus_per_worker, config.learner.ranks, config.learner.gpus_per_rank) == gpus
    assert config.learner.train_batch_size == batch


def test_several_steps_on_one_batch_of_samples_are_seldom_broadcasts() -> None:
    plan = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_processes": 4}
    for setting in ({"steps_per_generation": 8}, {"generation_batch_size": 8 * 8 * 4}):
        cluster = convert(SMALL | plan | setting).config.cluster
        assert (cluster.sync_every_steps, cluster.max_staleness) == (4, 4)
    assert convert(SMALL | plan | {"steps_per_generation": 2}).config.cluster.sync_every_steps == 1
    assert "are not a multiple of the 64 of one optimizer step" in refusal(**plan, steps_per_generation=3)
    assert "set the same thing" in refusal(**plan, steps_per_generation=4, generation_batch_size=64)


def test_a_sequence_longer_than_the_usual_micro_batch_fits() -> None:
    assert convert(SMALL | {"max_completion_length": 32768}).config.learner.token_budget == 32768 + 512


@pytest.mark.parametrize(
    ("settings", "warmup"),
    [
        ({"warmup_ratio": 0.1}, (0.1, None)),
        ({"warmup_ratio": 0.1, "warmup_steps": 0}, (0.1, None)),  # transformers' default, which would end our warm-up
        ({"warmup_steps": 0.05}, (0.05, None)),
        ({"warmup_ratio": 0.1, "warmup_steps": 30}, (0.0, 30)),
    ],
)
def test_warm_up(settings: dict[str, Any], warmup: tuple[float, int | None]) -> None:
    learner = convert(SMALL | settings).config.learner
    assert (learner.warmup_ratio, learner.warmup_steps) == warmup


def test_a_floor_of_the_learning_rate_is_a_share_of_it() -> None:
    schedule = {"lr_scheduler_type": "cosine_with_min_lr", "learning_rate": 1e-5, "lr_scheduler_kwargs": {"min_lr": 1e-6}}
    assert convert(SMALL | schedule).config.learner.min_lr_rate == pytest.approx(0.1, rel=1e-12)  # one rounding of a quotient
    assert "lr_scheduler_kwargs, min_lr: 'low' is not a number" in refusal(lr_scheduler_kwargs={"min_lr": "low"})
    assert "num_cycles is not supported" in refusal(lr_scheduler_kwargs={"num_cycles": 2})
    assert "lr_scheduler_type -> learner.lr_scheduler_type: 'polynomial' is not one of the choices" in refusal(
        lr_scheduler_type="polynomial"
    )


def test_rewards_with_weights_and_parameters() -> None:
    rewards = {
        "reward_funcs": ["cosine", "repetition_penalty", "soft_overlong_punishment", "my.package.brevity", "mine.py:worth"],
        "reward_weights": [1, 0.5, 1.0, 2.0, 1],
        "cosine_max_len": 2000,
        "repetition_n_grams": 4,
        "soft_punish_cache": 64,
        "code_language": "cpp",
    }
    conversion = convert(SMALL | rewards)
    assert [(spec.name, spec.weight, spec.params) for spec in conversion.config.rewards.functions] == [
        ("cosine", 1.0, {"min_value_wrong": 0.0, "max_len": 2000}),  # 0 is the default of Open-R1's script, -1 of the function
        ("repetition_penalty", 0.5, {"ngram_size": 4}),
        ("soft_overlong_punishment", 1.0, {"soft_punish_cache": 64}),
        ("my.package:brevity", 2.0, {}),
        ("mine.py:worth", 1.0, {}),
    ]
    assert become("code_language", conversion) == {"code_format is not among the rewards"}


def test_rewards_that_are_wrong() -> None:
    assert "2 weights for 1 rewards (format); give one weight for each reward" in refusal(reward_funcs=["format"], reward_weights=[1, 2])
    assert "there is no reward 'acuracy'; did you mean 'accuracy'" in refusal(reward_funcs=["acuracy"])
    assert "there is no reward 'rougeL'; did you mean 'rouge_l'?" in refusal(reward_funcs=["rougeL"])
    assert "there is no reward 'xmlcount_reward_func'; did you mean 'tag_count'?" in refusal(reward_funcs=["xmlcount_reward_func"])


def test_names_of_trl_and_open_r1_are_built_in_rewards() -> None:
    rewards = convert(SMALL | {"reward_funcs": ["think_format_reward", "get_cosine_scaled_reward", "len_reward"]}).config.rewards
    assert [spec.name for spec in rewards.functions] == ["think_format", "cosine", "length"]


def test_a_recipe_for_medicalgpt_gets_what_its_script_has() -> None:
    conversion = convert({"model_name_or_path": "Qwen/Qwen2.5-3B-Instruct", "train_file_dir": "data", "train_samples": 500})
    config = conversion.config
    assert (config.data.path, config.data.prompt_column, config.data.train_samples, config.data.eval_samples) == (
        "data",
        "question",
        500,
        100,
    )
    assert config.data.test_split_size == 0.1
    assert [spec.params for spec in config.rewards.functions] == [{"answer_style": "answer_tag"}, {"layout": "inline"}]
    assert "<answer>" in (config.data.system_prompt or "")


@pytest.mark.parametrize(("given_k", "top_k"), [(0, -1), (-1, -1), (20, 20)])
def test_sampling_from_all_tokens(given_k: int, top_k: int) -> None:
    assert convert(SMALL | {"top_k": given_k}).config.actors.top_k == top_k


def test_mixtures_of_open_r1_and_trl() -> None:
    parts = [
        {"id": "a/b", "config": "main", "columns": ["problem", "solution"], "weight": 0.5},
        {"id": "c/d", "columns": ["solution", "problem"]},
    ]
    data = convert(SMALL | {"dataset_mixture": {"datasets": parts, "seed": 42, "test_split_size": 0.1}, "dataset_config": "x"}).config.data
    assert data.mixture is not None
    assert [part.model_dump(exclude_none=True) for part in data.mixture.datasets] == [
        {"path": "a/b", "name": "main", "split": "train", "columns": ("problem", "solution"), "weight": 0.5},
        {"path": "c/d", "split": "train", "columns": ("solution", "problem")},
    ]
    assert (data.path, data.name, data.mixture.seed, data.mixture.test_split_size, data.eval_samples) == (None, None, 42, 0.1, 0)
    trl = convert(
        {**SMALL, "datasets": [{"path": "a/b", "name": "main", "split": "train[:10]"}], "test_split_size": 20, "do_eval": True}
    ).config.data
    assert trl.mixture is not None
    assert (trl.mixture.datasets[0].name, trl.mixture.datasets[0].split, trl.mixture.test_split_size) == ("main", "train[:10]", 20)
    assert (trl.eval_path, trl.eval_samples) == (None, 100)


def test_mixtures_that_are_wrong() -> None:
    assert "dataset_mixture: a data set has no wieght; did you mean weight?" in refusal(
        dataset_mixture={"datasets": [{"id": "a", "wieght": 1}]}
    )
    assert "dataset_mixture: a data set has no id; add its hub id" in refusal(dataset_mixture={"datasets": [{"config": "a"}]})
    assert "dataset_mixture: it lists no datasets; write {datasets:" in refusal(dataset_mixture={"seed": 1})
    assert "datasets: fraction of a data set is not supported" in refusal(datasets=[{"path": "a", "fraction": 0.5}])
    assert "datasets: 'a' is not a list of data sets; write [{path: ...}" in refusal(datasets="a")
    assert "dataset_mixture -> data.mixture.datasets[0].weight: 2 must be at most 1" in refusal(
        dataset_mixture={"datasets": [{"id": "a", "weight": 2}]}
    )
    unequal = {"datasets": [{"id": "a", "columns": ["x", "y"]}, {"id": "b", "columns": ["x", "z"]}]}
    assert "the columns of the data sets must be the same, but a alone has y; b alone has z;" in refusal(dataset_mixture=unequal)
    assert "mixture with streaming: it needs all rows" in refusal(
        dataset_mixture={"datasets": [{"id": "a"}]}, dataset_streaming=True, max_steps=1
    )


def test_streaming_needs_a_number_of_steps() -> None:
    data = convert(SMALL | {"dataset_streaming": True, "max_steps": 10}).config.data
    assert data.streaming
    assert "learner.max_steps is not given and data.streaming is on" in refusal(dataset_streaming=True)
    assert "dataset_streaming and streaming contradict each other" in refusal(dataset_streaming=True, streaming=False)


def test_evaluation() -> None:
    assert convert(SMALL | {"do_eval": False}).config.data.eval_samples == 0
    assert convert(SMALL | {"do_eval": True}).config.data.eval_path is None
    data = convert(SMALL | {"eval_strategy": "steps", "dataset_test_split": "validation"}).config.data
    assert (data.eval_path, data.eval_split, data.eval_samples) == ("openai/gsm8k", "validation", 100)


def test_evaluation_while_training() -> None:
    asked = SMALL | {"eval_strategy": "steps"}
    assert convert(SMALL).config.evaluation.steps == 0
    assert convert(asked | {"eval_steps": 40, "num_generations_eval": 3}).config.evaluation.model_dump(
        include={"steps", "num_generations"}
    ) == {
        "steps": 40,
        "num_generations": 3,
    }
    assert convert(asked | {"logging_steps": 5}).config.evaluation.steps == 5
    assert convert(asked | {"eval_steps": 0.1, "max_steps": 250}).config.evaluation.steps == 25
    assert convert(asked | {"eval_steps": 0.1}).config.evaluation.steps == 0
    assert convert(SMALL | {"eval_steps": 40}).config.evaluation.steps == 0
    synced = asked | {"eval_steps": 10, "gradient_accumulation_steps": 2, "steps_per_generation": 8}
    assert (convert(synced).config.cluster.sync_every_steps, convert(synced).config.evaluation.steps) == (4, 12)


def test_checkpoints() -> None:
    assert convert(SMALL | {"save_strategy": "no", "save_steps": 10}).config.cluster.save_steps == 0
    assert convert(SMALL | {"save_strategy": "steps", "save_steps": 25}).config.cluster.save_steps == 25
    assert convert(SMALL | {"save_steps": 0.05, "max_steps": 500}).config.cluster.save_steps == 25
    shared = convert(SMALL | {"save_steps": 0.05})
    assert shared.config.cluster.save_steps == 50
    assert "their number is not known here" in become("save_steps", shared).pop()


def test_precision() -> None:
    assert convert(SMALL | {"torch_dtype": "auto"}).config.model.dtype == "bfloat16"
    assert convert(SMALL | {"dtype": "float32"}).config.model.dtype == "float32"
    assert convert(SMALL | {"dtype": "float32", "bf16": True}).config.model.dtype == "bfloat16"
    assert "torch_dtype: 'float16' is not one of the choices; choose auto, bfloat16, float32" in refusal(torch_dtype="float16")
    assert "use bf16" in refusal(fp16=True)


def test_adapter() -> None:
    lora = convert(SMALL | {"use_peft": True, "lora_r": 8, "lora_target_modules": ["q_proj", "v_proj"]}).config.model.lora
    assert (lora.r, lora.dropout, lora.target_modules) == (8, 0.05, ("q_proj", "v_proj"))  # 0.05: TRL's default, not ours
    assert convert(SMALL | {"lora_target_modules": "all", "use_peft": True, "disable_dropout": True}).config.model.lora.dropout == 0
    assert "a base has one precision" in refusal(load_in_4bit=True, load_in_8bit=True)
    assert "qlora (which implies 4 bits)" in refusal(qlora=True, load_in_8bit=True)


@pytest.mark.parametrize(
    ("settings", "key", "value"),
    [
        ({"qlora": True}, "model.quantization", "nf4"),
        ({"load_in_8bit": True}, "model.quantization", "int8"),
        ({"mask_truncated_completions": True}, "learner.mask_truncated_completions", True),
        ({"num_iterations": 2}, "learner.num_iterations", 2),
        ({"importance_sampling_level": "sequence", "loss_type": "grpo"}, "learner.importance_sampling_level", "sequence"),
        ({"vllm_importance_sampling_correction": False}, "learner.importance_sampling_mode", "none"),
        ({"vllm_importance_sampling_mode": "sequence_mask"}, "learner.importance_sampling_mode", "sequence_mask"),
        ({"vllm_importance_sampling_clip_min": 0.1}, "learner.importance_sampling_floor", 0.1),
        ({"use_rslora": True}, "model.lora.use_rslora", True),
    ],
)
def test_settings_of_the_objective_and_the_base(settings: dict[str, Any], key: str, value: Any) -> None:
    assert (key, value) in [(row.target, row.value) for row in convert(SMALL | settings).rows]


def test_unknown_and_doubled_settings() -> None:
    assert "learning_rat: there is no such setting" in refusal(learning_rat=1) and "did you mean learning_rate?" in refusal(learning_rat=1)
    assert "torch_dtype and dtype are the same setting" in refusal(torch_dtype="auto", dtype="auto")
    assert "model_name_or_path is not given" in outcome({"dataset_name": "a"})[1]
    assert "dataset_name is not given" in outcome({"model_name_or_path": "a"})[1]


def test_faults_name_the_setting_that_they_come_from() -> None:
    assert "lora_r -> model.lora.r: r 1024 is larger than 512" in refusal(use_peft=True, lora_r=1024)
    assert "learning_rate -> learner.learning_rate: 'fast' is not a number" in refusal(learning_rate="fast")
    assert "per_device_train_batch_size: 1.5 is not a positive whole number" in refusal(per_device_train_batch_size=1.5)


def test_settings_inside_model_init_kwargs_count() -> None:
    config = convert(SMALL | {"model_init_kwargs": {"torch_dtype": "float32", "revision": "v2", "attn_implementation": "eager"}}).config
    assert (config.model.dtype, config.model.revision, config.model.attn_implementation) == ("float32", "v2", "eager")


def test_secrets_are_not_shown() -> None:
    conversion = convert(SMALL | {"hub_token": "hf_secret"})
    assert "hf_secret" not in conversion.to_yaml() + "".join(row.origin + row.outcome for row in conversion.rows)


def test_a_setting_given_twice_with_one_value_is_that_value(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    head = "model_name_or_path: a/b\ndataset_name: c/d\n"
    recipe.write_text(f"{head}do_eval: false\nbeta: 0.1\ndo_eval: false\n")  # as in a recipe that Open-R1 published
    assert read_recipe(recipe).config.data.eval_samples == 0
    recipe.write_text(f"{head}do_eval: false\nbeta: 0.1\ndo_eval: true\n")
    with pytest.raises(ConfigError, match="'do_eval' was given in line 3 already"):
        read_recipe(recipe)


def test_options_win_over_the_file_and_overrides_over_both() -> None:
    options = ["--temperature", "0.5", "--epsilon", "0.1", "learner.epsilon=0.3", "--config_file", str(ZERO2)]
    conversion = read_recipe(RECIPES / "openr1_distill_1.5b.yaml", *options)
    assert (conversion.config.actors.temperature, conversion.config.learner.epsilon) == (0.5, 0.3)
    assert [row.why for row in conversion.rows if row.setting == "epsilon"] == ["learner.epsilon=0.3 wins"]


def test_an_accelerate_file() -> None:
    launch = {"num_processes": 3, "mixed_precision": "bf16", "deepspeed_config.zero_stage": 3}
    conversion = convert(SMALL | {"use_vllm": True}, launch)
    assert (conversion.config.learner.ranks, conversion.config.model.dtype) == (3, "bfloat16")
    assert "here whole on each GPU" in become("accelerate: deepspeed_config.zero_stage", conversion).pop()
    assert convert(SMALL, {"deepspeed_config.offload_optimizer_device": "cpu"}).config.learner.offload_optimizer
    assert convert(SMALL | {"use_vllm": True, "num_processes": 5}, launch).config.learner.ranks == 5
    for wrong, told in (
        ({"num_proceses": 1}, "did you mean num_processes?"),
        ({"deepspeed_config.offload_param_device": "cpu"}, "stays on the GPU"),
        ({"mixed_precision": "fp16"}, "use bf16"),
        ({"deepspeed_config.offload_optimizer_device": "nvme"}, "choose none, cpu"),
    ):
        with pytest.raises(ConfigError, match=told):
            convert(SMALL, wrong)
