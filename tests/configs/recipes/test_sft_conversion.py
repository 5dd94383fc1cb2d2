"""SFT recipes of TRL, Open-R1 and MedicalGPT become the fine-tunings that they describe.

Protected here:
1. An Open-R1 recipe and MedicalGPT's shell line give the fine-tuning that they describe, value by value.
2. No setting is dropped in silence: it becomes a key, is shown with a reason, or ends with a ConfigError that names it, whatever its value.
3. What was a default of the trainer is written down.
4. The written file loads to the same fine-tuning, and is no recipe.
5. A recipe of the other kind is known for what it is.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError
from configs.loading import load_sft_config
from configs.recipes import command_line
from configs.recipes import conversion as recipe_conversion
from configs.recipes.command_line import is_recipe, sort_arguments
from configs.recipes.conversion import Conversion
from configs.recipes.kinds import SFT
from configs.recipes.sft_keys import MEDICAL, SFT_KEYS
from configs.schema.sft import SftConfig
from configs.yaml_files import read_yaml
from tests import REPOSITORY
from tests.configs.recipes.test_conversion import ANYTHING, convert, read_recipe

RECIPES = REPOSITORY / "examples" / "recipes"
OPEN_R1 = RECIPES / "sft" / "openr1_codeforces_7b.yaml"
MEDICAL_LINE = (
    "--nproc_per_node 2 --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --train_file_dir ./data/finetune --validation_file_dir ./data/valid "
    "--per_device_train_batch_size 4 --per_device_eval_batch_size 4 --do_train --do_eval --template_name qwen --use_peft True "
    "--max_train_samples 1000 --max_eval_samples 10 --model_max_length 2048 --num_train_epochs 1 --learning_rate 2e-5 --warmup_ratio 0.05 "
    "--weight_decay 0.05 --logging_strategy steps --logging_steps 10 --eval_steps 50 --evaluation_strategy steps --save_steps 500 "
    "--save_strategy steps --save_total_limit 13 --gradient_accumulation_steps 8 --preprocessing_num_workers 4 --output_dir out-sft "
    "--overwrite_output_dir --ddp_timeout 30000 --logging_first_step True --target_modules all --lora_rank 8 --lora_alpha 16 "
    "--lora_dropout 0.05 --torch_dtype bfloat16 --bf16 --qlora True --load_in_4bit True --device_map auto --report_to tensorboard "
    "--ddp_find_unused_parameters False --gradient_checkpointing True --cache_dir ./cache --flash_attn True"
)
SMALL = {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "dataset_name": "open-r1/s1K-1.1"}
OF_MEDICAL = {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "train_file_dir": "data/finetune"}
VALUES = (*ANYTHING, "keep_start", "bfd", "nll", "qwen", "random", "sequential", "layout.jinja", ["q_proj,v_proj"])
"""Values of every kind, a right one for each setting among them."""

RIGHT: dict[str, list[Any]] = {}
"""Setting -> `alone` of it, once found."""


def convert_sft(
    settings: Mapping[str, Any], launch: Mapping[str, Any] | None = None, overrides: Sequence[str] = ()
) -> Conversion[SftConfig]:
    return recipe_conversion.convert(SFT, settings, launch, overrides)


def of_line(line: str) -> Conversion[SftConfig]:
    arguments = sort_arguments(shlex.split(line), SFT)
    return command_line.read_recipe(SFT, read_yaml(arguments.recipe) if arguments.recipe else {}, arguments, arguments.recipe)


def become(setting: str, conversion: Conversion[SftConfig]) -> set[str]:
    """The keys of the run that a setting became, or the reason why it has no effect."""
    return {row.target or row.why for row in conversion.rows if row.setting == setting}


def outcome(settings: dict[str, Any]) -> tuple[Conversion[SftConfig] | None, str]:
    """The conversion, or what the error says. Any error but ConfigError is one of the code."""
    try:
        return convert_sft(settings), ""
    except ConfigError as error:
        return None, str(error)


def refusal(**settings: Any) -> str:
    conversion, refused = outcome(SMALL | settings)
    assert conversion is None
    return refused


def test_an_open_r1_recipe() -> None:
    config = of_line(f"--config {OPEN_R1} --config_file {RECIPES / 'zero2.yaml'}").config
    learner, data = config.learner, config.data
    assert (config.model.path, config.model.dtype, learner.use_peft, learner.gradient_checkpointing) == (
        "Qwen/Qwen2.5-Coder-7B-Instruct",
        "bfloat16",
        False,
        True,
    )
    assert (data.path, data.name, data.messages_column, data.max_length, data.too_long, data.eval_samples) == (
        "open-r1/codeforces-cots",
        "solutions_decontaminated",
        "messages",
        32768,
        "truncate",
        0,
    )
    processes = read_yaml(RECIPES / "zero2.yaml")["num_processes"]
    assert isinstance(processes, int)
    assert (learner.ranks, learner.train_batch_size, learner.token_budget) == (processes, 2 * 8 * processes, 32768)
    assert (learner.learning_rate, learner.lr_scheduler_type, learner.min_lr_rate, learner.warmup_ratio) == (
        1e-5,
        "cosine_with_min_lr",
        0.1,
        0.03,
    )
    assert (learner.num_train_epochs, learner.max_grad_norm, config.seed, str(config.out_dir)) == (
        10,
        0.2,
        42,
        "runs/openr1_codeforces_7b_sft",
    )


def test_the_shell_line_of_open_r1s_page() -> None:
    """With which OpenR1-Distill-7B was trained."""
    conversion = of_line(
        "--model_name_or_path open-r1/Qwen2.5-Math-7B-RoPE-300k --dataset_name open-r1/Mixture-of-Thoughts --dataset_config all "
        "--eos_token '<|im_end|>' --learning_rate 4.0e-5 --num_train_epochs 5 --max_seq_length 32768 --per_device_train_batch_size 2 "
        "--gradient_checkpointing --bf16 --use_liger_kernel --output_dir data/OpenR1-Distill-7B --num_processes 8"
    )
    config = conversion.config
    assert (config.model.path, config.model.eos_token, config.model.dtype) == (
        "open-r1/Qwen2.5-Math-7B-RoPE-300k",
        "<|im_end|>",
        "bfloat16",
    )
    assert (config.data.path, config.data.name, config.data.messages_column) == ("open-r1/Mixture-of-Thoughts", "all", "messages")
    assert (config.learner.ranks, config.learner.train_batch_size, config.learner.num_train_epochs) == (8, 16, 5)
    assert (config.learner.learning_rate, config.data.max_length, config.learner.use_peft) == (4e-5, 32768, False)


def test_the_shell_line_of_medicalgpt() -> None:
    config = of_line(MEDICAL_LINE).config
    learner, data, lora = config.learner, config.data, config.model.lora
    assert (data.path, data.messages_column, data.eval_path, data.eval_samples, data.train_samples, data.max_length) == (
        "./data/finetune",
        "conversations",
        "./data/valid",
        10,
        1000,
        2048,
    )
    assert (learner.use_peft, config.model.quantization, lora.r, lora.alpha, lora.dropout, lora.target_modules) == (
        True,
        "nf4",
        8,
        16,
        0.05,
        "all-linear",
    )
    assert (learner.ranks, learner.train_batch_size, learner.eval_steps, config.cluster.save_steps) == (2, 4 * 8 * 2, 50, 500)
    assert (learner.learning_rate, learner.warmup_ratio, learner.weight_decay, learner.lr_scheduler_type) == (2e-5, 0.05, 0.05, "linear")


@pytest.mark.parametrize("line", [f"--config {OPEN_R1}", MEDICAL_LINE], ids=["open_r1", "medical_gpt"])
def test_a_written_fine_tuning_loads_to_the_same_and_is_no_recipe(line: str, tmp_path: Path) -> None:
    conversion = of_line(line)
    written = tmp_path / "sft.yaml"
    written.write_text(conversion.to_yaml(), encoding="utf-8")
    assert load_sft_config(written) == conversion.config
    assert not is_recipe(read_yaml(written))
    assert "Converted by `rollcast convert --sft`" in conversion.to_yaml()


@pytest.mark.parametrize("key", sorted(SFT_KEYS.known))
def test_no_setting_is_dropped_in_silence_whatever_its_value(key: str) -> None:
    name, explained = SFT_KEYS.old_names.get(key, key), 0
    for value in VALUES:
        conversion, refused = outcome({**SMALL, key: value})
        if conversion:
            assert become(key, conversion), (key, value)
            explained += 1
        else:
            inside = value if key == "model_init_kwargs" and isinstance(value, dict) else ()
            assert any(said in refused for said in (key, name, *inside)), (value, refused)
    assert explained or SFT_KEYS.refused.get(name, [None])[0] == (), f"no value of {key} can be converted"


def alone(key: str) -> list[Any]:
    """Values under which a setting can be converted by itself."""
    return [value for value in VALUES if outcome({**SMALL, key: value})[0]]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_no_setting_is_dropped_in_silence_beside_others(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from([SMALL, OF_MEDICAL]))
    keys = data.draw(st.lists(st.sampled_from(sorted(SFT_KEYS.known - set(base))), min_size=2, max_size=20, unique=True))
    recipe = {key: data.draw(st.sampled_from(values)) for key in keys if (values := RIGHT.setdefault(key, alone(key)))}
    conversion, _ = outcome(base | recipe)
    if conversion:
        assert [key for key in recipe if not become(key, conversion)] == []


@pytest.mark.parametrize(
    "pair",
    [
        {"train_file_dir": "data", "validation_file_dir": "more", "do_eval": True, "dataset_test_split": "test"},
        {"do_eval": True, "eval_strategy": "epoch", "eval_steps": 0.1, "dataset_test_split": "validation"},
        {"do_eval": True, "eval_strategy": "no", "eval_steps": 10, "max_eval_samples": 5},
        {"do_eval": False, "eval_steps": 10, "max_eval_samples": 5, "validation_file_dir": "more"},
        {"max_seq_length": 512, "max_source_length": 10, "max_target_length": 20},
        {"chat_template": "{{ a }}", "chat_template_path": "b.jinja"},
        {"use_peft": False, "lora_rank": 4, "lora_alpha": 8, "use_rslora": True, "peft_path": "a", "target_modules": "q_proj"},
        {"dataset_name": "builtin:addition", "eval_strategy": "steps", "dataset_test_split": "test"},
        {"packing": True, "packing_strategy": "bfd", "padding_free": True, "eval_packing": True},
    ],
    ids=" ".join,
)
def test_no_setting_is_dropped_in_silence_beside_one_that_wins(pair: dict[str, Any]) -> None:
    conversion = convert_sft(SMALL | pair)
    assert [key for key in pair if not become(key, conversion)] == []


def test_defaults_of_the_trainers_are_written_down() -> None:
    trl, medical = convert_sft(SMALL), convert_sft(OF_MEDICAL)
    for conversion in (trl, medical):
        said = {row.target: row.value for row in conversion.rows if not row.setting}
        for target in ("learning_rate", "lr_scheduler_type", "num_train_epochs", "max_grad_norm", "use_peft"):
            assert f"learner.{target}" in said
            assert f"  {target}: " in conversion.to_yaml()
        assert {"data.max_length", "data.too_long", "data.messages_column", "model.dtype", "seed"} <= said.keys()
    learner = trl.config.learner
    assert (learner.learning_rate, learner.lr_scheduler_type, learner.num_train_epochs, learner.train_batch_size) == (2e-5, "linear", 3, 8)
    assert (learner.use_peft, learner.gradient_checkpointing, trl.config.data.max_length, trl.config.seed) == (False, True, 1024, 42)
    learner, lora = medical.config.learner, medical.config.model.lora
    assert (learner.learning_rate, learner.use_peft, learner.gradient_checkpointing, medical.config.data.max_length) == (
        5e-5,
        True,
        False,
        512,
    )
    assert (lora.r, lora.alpha, lora.dropout) == (8, 32, 0.05)


@pytest.mark.parametrize(
    ("setting", "value", "key"),
    [("learning_rate", 1e-4, "learning_rate"), ("max_length", 64, "max_length"), ("seed", 1, "seed"), ("use_peft", True, "use_peft")],
)
def test_what_a_recipe_says_wins_over_the_default(setting: str, value: Any, key: str) -> None:
    rows = [row for row in convert_sft(SMALL | {setting: value}).rows if row.target.rpartition(".")[2] == key]
    assert [(row.setting, row.value) for row in rows] == [(setting, value)]


@pytest.mark.parametrize(
    ("settings", "ranks", "gpus", "batch"),
    [
        ({"num_processes": 8}, 8, 1, 2 * 4 * 8),
        ({"nproc_per_node": 2, "nnodes": 1}, 2, 1, 2 * 4 * 2),
        ({}, 1, 1, 2 * 4),
        ({"use_cpu": True, "num_processes": 2}, 2, 0, 2 * 4 * 2),
    ],
)
def test_ranks_and_batch(settings: dict[str, Any], ranks: int, gpus: int, batch: int) -> None:
    learner = convert_sft(SMALL | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4} | settings).config.learner
    assert (learner.ranks, learner.gpus_per_rank, learner.train_batch_size) == (ranks, gpus, batch)


def test_an_accelerate_file() -> None:
    conversion = convert_sft(
        SMALL, {"num_processes": 8, "deepspeed_config.zero_stage": 3, "deepspeed_config.offload_optimizer_device": "cpu"}
    )
    assert (conversion.config.learner.ranks, conversion.config.learner.offload_optimizer) == (8, True)
    assert "stages 1 to 3 compute the same step" in become("accelerate: deepspeed_config.zero_stage", conversion).pop()
    with pytest.raises(ConfigError, match="offload_param_device: cpu is not supported: the model stays on the GPU; set it to none"):
        convert_sft(SMALL, {"deepspeed_config.offload_param_device": "cpu"})


def test_lengths() -> None:
    assert convert_sft(SMALL | {"max_seq_length": 4096}).config.data.max_length == 4096
    assert convert_sft(OF_MEDICAL | {"max_source_length": 256, "max_target_length": 512}).config.data.max_length == 768
    assert convert_sft(OF_MEDICAL | {"max_source_length": 1024}).config.data.max_length == 1024 + 256
    assert convert_sft(SMALL | {"max_length": 40960}).config.learner.token_budget == 40960
    assert convert_sft(SMALL).config.learner.token_budget == 16384
    assert "max_length: null is not supported: memory is planned for a greatest length" in refusal(max_length=None)
    assert "max_seq_length: null" in refusal(max_seq_length=None)


def test_an_adapter_is_trained_where_it_is_asked_for() -> None:
    asked = {"use_peft": True, "lora_r": 32, "lora_alpha": 16, "use_rslora": True, "lora_target_modules": ["q_proj", "v_proj"]}
    config = convert_sft(SMALL | asked).config
    lora = config.model.lora
    assert (config.learner.use_peft, lora.r, lora.alpha, lora.use_rslora, lora.dropout) == (True, 32, 16, True, 0.05)
    assert lora.target_modules == ("q_proj", "v_proj")
    assert convert_sft(OF_MEDICAL | {"target_modules": "q_proj,v_proj"}).config.model.lora.target_modules == ("q_proj", "v_proj")
    assert convert_sft(OF_MEDICAL | {"peft_path": "runs/a"}).config.model.adapter == "runs/a"
    told = [row.why for row in convert_sft(SMALL | {"use_peft": True}).rows if row.target == "model.lora.target_modules"]
    assert "PEFT would choose by the architecture" in told[0]


def test_without_use_peft_every_weight_is_trained() -> None:
    given = {"lora_r": 32, "lora_target_modules": ["q_proj"]}
    conversion = convert_sft(SMALL | given)
    assert not conversion.config.learner.use_peft and "lora" not in str(conversion.tree["model"])
    assert become("lora_r", conversion) == {"all weights are trained, as use_peft is not set"}
    assert not convert_sft(OF_MEDICAL | {"use_peft": False}).config.learner.use_peft
    assert "load_in_4bit: true without use_peft is not supported: quantised weights have no gradient" in refusal(load_in_4bit=True)
    assert convert_sft(SMALL | {"load_in_8bit": True, "use_peft": True}).config.model.quantization == "int8"


def test_where_rows_come_from() -> None:
    assert "dataset_name is not given" in outcome({"model_name_or_path": "a"})[1]
    data = convert_sft(OF_MEDICAL | {"dataset_name": "shibing624/medical", "dataset_config_name": "finetune"}).config.data
    assert (data.path, data.name, data.messages_column) == ("shibing624/medical", "finetune", "conversations")  # as the script prefers it
    assert convert_sft(SMALL | {"dataset_train_split": "train_sft"}).config.data.split == "train_sft"
    assert convert_sft(SMALL).config.data.shuffle and convert_sft(SMALL | {"shuffle_dataset": False}).config.data.shuffle
    assert not convert_sft(SMALL | {"train_sampling_strategy": "sequential"}).config.data.shuffle
    rows = convert_sft(SMALL, overrides=["data.messages_column=null"]).config.data
    assert (rows.messages_column, rows.prompt_column, rows.completion_column) == (None, "prompt", "completion")


def test_evaluation() -> None:
    assert convert_sft(SMALL).config.data.eval_samples == 0
    split = convert_sft(SMALL | {"eval_strategy": "steps", "eval_steps": 20, "dataset_test_split": "validation"}).config
    assert (split.data.eval_path, split.data.eval_split, split.data.eval_samples) == ("open-r1/s1K-1.1", "validation", 100)
    assert split.learner.eval_steps == 20
    held_out = convert_sft(SMALL | {"do_eval": True}).config
    assert (held_out.data.eval_path, held_out.data.eval_samples, held_out.learner.eval_steps) == (None, 100, 0)
    assert convert_sft(SMALL | {"eval_strategy": "steps"}).config.learner.eval_steps == 10  # TRL's logging_steps
    assert convert_sft(OF_MEDICAL | {"evaluation_strategy": "steps"}).config.learner.eval_steps == 500  # transformers'
    assert convert_sft(SMALL | {"eval_strategy": "steps", "eval_steps": 0.1, "max_steps": 250}).config.learner.eval_steps == 25
    assert convert_sft(SMALL | {"eval_strategy": "steps", "eval_steps": 0.1}).config.learner.eval_steps == 100
    assert convert_sft(SMALL | {"eval_strategy": "epoch"}).config.learner.eval_steps == 100
    folder = convert_sft(OF_MEDICAL | {"do_eval": True, "validation_file_dir": "more", "max_eval_samples": -1}).config.data
    assert (folder.eval_path, folder.eval_samples) == ("more", 100)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"neftune_noise_alpha": 5}, "neftune_noise_alpha: 5 is not supported: embeddings get no noise; remove it"),
        ({"neft_alpha": 8}, "neft_alpha: 8 is not supported"),
        ({"dataset_text_field": "text"}, "split other rows into data.prompt_column and data.completion_column"),
        ({"dataset_mixture": {"datasets": [{"id": "a", "wieght": 1}]}}, "dataset_mixture: a data set has no wieght; did you mean weight?"),
        ({"dataset_mixture": {"seed": 1}}, "dataset_mixture: it lists no datasets; write {datasets:"),
        ({"dataset_mixture": {"datasets": [{"id": "a", "weight": 2}]}}, "data.mixture.datasets[0].weight: 2 must be at most 1"),
        (
            {"dataset_mixture": {"datasets": [{"id": "a"}], "test_split_size": 2.5}},
            "2.5 is neither a share between 0 and 1 nor a number of rows",
        ),
        ({"datasets": [{"path": "a", "fraction": 0.5}]}, "datasets: fraction of a data set is not supported"),
        ({"completion_only_loss": False}, "only the assistant's tokens have a loss; remove it"),
        ({"train_on_inputs": True}, "only the assistant's tokens have a loss"),
        ({"packing": True, "packing_strategy": "wrapped"}, "packing_strategy: wrapped is not supported: no sequence is split over rows"),
        ({"loss_type": "dft"}, "loss_type: dft is not supported"),
        (
            {"template_name": "phoenix"},
            "template_name: phoenix is not supported, only alpaca, baichuan, baichuan2, chatml, deepseek, deepseek3, llama2, llama3, mistral, qwen",
        ),
        ({"chat_template_path": "Qwen/Qwen3-0.6B"}, "is not a Jinja file; give the chat_template.jinja of that tokenizer"),
        ({"nnodes": 2}, "count the processes of all nodes in num_processes"),
        ({"fp16": True}, "the learner has no loss scaling; use bf16"),
        ({"optim": "adafactor"}, "the optimizer is AdamW with float32 weights and moments"),
        ({"tokenizer_name_or_path": "other"}, "the result is saved with the model's own tokenizer"),
        ({"packin": True}, "packin: there is no such setting of TRL, Open-R1 or MedicalGPT; did you mean packing?"),
        ({"max_seq_length": 8, "max_length": 8}, "max_seq_length and max_length are the same setting"),
        ({"max_length": "long"}, "max_length -> data.max_length: 'long' is not a whole number"),
    ],
)
def test_what_cannot_be_followed_is_refused(given: dict[str, Any], told: str) -> None:
    assert told in refusal(**given)


def test_what_is_trained_on_is_said() -> None:
    (told,) = [row for row in convert_sft(SMALL).rows if row.target == "loss"]
    assert "TRL trains on every token of a conversation unless assistant_only_loss is true" in told.why
    for conversion in (convert_sft(SMALL | {"assistant_only_loss": True}), convert_sft(OF_MEDICAL)):
        assert not [row for row in conversion.rows if row.target == "loss"]


def test_packed_batches_are_larger_there() -> None:
    assert "a step counts sequences here and packed rows there" in become("packing", convert_sft(SMALL | {"packing": True})).pop()
    assert become("packing", convert_sft(SMALL | {"packing": False})) == {"rows are always packed, with the same loss"}


def test_secrets_are_not_shown() -> None:
    for name in ("hub_token", "hf_hub_token"):
        conversion = convert_sft(SMALL | {name: "hf_secret"})
        assert "hf_secret" not in conversion.to_yaml() + "".join(f"{row}{row.origin}{row.outcome}" for row in conversion.rows)


def test_a_recipe_of_the_other_kind_is_known() -> None:
    grpo = r"num_generations: only recipes of GRPO have such settings, .*; use rollcast train, or rollcast convert$"
    with pytest.raises(ConfigError, match=grpo):
        convert_sft(SMALL | {"num_generations": 8})
    sft = (
        r"packing, max_length: only recipes of supervised fine-tuning have such settings, .*; use rollcast sft, or rollcast convert --sft$"
    )
    with pytest.raises(ConfigError, match=sft):
        convert(SMALL | {"packing": True, "max_length": 8})
    with pytest.raises(ConfigError, match="use rollcast sft"):
        read_recipe(OPEN_R1)
    with pytest.raises(ConfigError, match="max_length: there is no such setting .*; did you mean"):
        convert(SMALL | {"num_generations": 8, "max_length": 8})  # of both: a recipe of GRPO with a name that it has not
    for launcher in ({"nnodes": 1}, {"master_port": 29500}):  # of a launcher, which tells of no trainer
        assert convert(SMALL | launcher).rows and convert_sft(SMALL | launcher).rows
    with pytest.raises(ConfigError, match="nnodes: 2 is not supported: count the processes of all nodes in num_processes"):
        convert(SMALL | {"nnodes": 2})


def test_a_setting_alone_tells_medicalgpts_script() -> None:
    settings = {"max_seq_length": 64, "dataset_name": "a"} | {"model_name_or_path": "b"}
    assert convert_sft(settings).config.data.messages_column == "messages"
    for name in ("lora_rank", "model_max_length", "target_modules"):
        assert name in MEDICAL
    assert convert_sft(SMALL | {"lora_rank": 4}).config.data.messages_column == "conversations"
