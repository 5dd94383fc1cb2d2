"""What users of other systems have is recognised, and answered with our keys; what is ours or TRL's is left alone.

The samples are written for these tests in the form that each system's own examples have.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from cluster.__main__ import app
from configs.contracts.errors import ConfigError
from configs.faults import all_keys
from configs.foreign.answers import SYSTEMS, flat
from configs.foreign.recognition import settings_of
from configs.loading import load_config, load_sft_config
from configs.recipes.command_line import load_run, load_sft
from configs.schema.sft import SftConfig
from tests import REPOSITORY

VERL = """
data: {train_files: a.parquet, val_files: b.parquet, train_batch_size: 128, max_response_length: 1024, truncation: error}
algorithm: {adv_estimator: grpo}
actor_rollout_ref: {model: {path: org/m}, rollout: {n: 8}, actor: {optim: {lr: 1e-6}, clip_ratio_high: 0.28}}
trainer: {total_epochs: 15, nnodes: 1}
"""
LLAMA_FACTORY = """
model_name_or_path: org/m
stage: sft
finetuning_type: lora
lora_target: all
dataset: identity,mine
template: llama3
cutoff_len: 2048
learning_rate: 1.0e-4
plot_loss: true
"""
SWIFT = "{rlhf_type: grpo, model: org/m, dataset: ['a#500'], train_type: lora, num_generations: 16, sleep_level: 1}"
AXOLOTL = """
base_model: org/m
rl: grpo
trl: {beta: 0.001, num_generations: 4, reward_funcs: [rewards.rand]}
datasets: [{path: openai/gsm8k, type: rewards.transform}]
sequence_len: 2048
flash_attention: true
"""
TORCHTUNE = """
model: {_component_: torchtune.models.llama3_1.lora_llama3_1_8b, lora_rank: 8}
tokenizer: {_component_: torchtune.models.llama3.llama3_tokenizer, max_seq_len: 512}
optimizer: {_component_: torch.optim.AdamW, lr: 3e-4}
epochs: 1
"""
NEMO = """
defaults: grpo_math_1B.yaml
grpo: {num_prompts_per_step: 32, num_generations_per_prompt: 16, max_num_steps: 1000}
loss_fn: {reference_policy_kl_penalty: 0.01}
policy: {model_name: org/m, generation: {temperature: 0.7}, dtensor_cfg: {enabled: true}}
cluster: {gpus_per_node: 8}
"""
OTHERS = """
SkyRL: {trainer: {algorithm: {advantage_estimator: grpo}, policy: {model: {path: org/m}}}, generator: {n_samples_per_prompt: 5}}
AReaL: {allocation_mode: x, actor: {path: org/m}, gconfig: {n_samples: 4}, train_dataset: {path: d}}
prime-rl: {model: {name: org/m}, orchestrator: {rollouts_per_example: 16}}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refusal(line: str, command: str = "train") -> str:
    load = load_sft if command == "sft" else load_run
    with pytest.raises(ConfigError) as caught:
        load(shlex.split(line), None, Console(quiet=True))
    return str(caught.value)


def written(name: str, text: str) -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


@pytest.mark.parametrize(
    ("name", "text", "system", "pairs", "without"),
    [
        (
            "v.yaml",
            VERL,
            "verl, for GRPO",
            {
                "actor_rollout_ref.model.path: org/m": "model.path: org/m",
                "data.train_batch_size: 128": "learner.train_batch_size (128 prompts x 8 completions",
            },
            "data.truncation, trainer.nnodes",
        ),
        (
            "l.yaml",
            LLAMA_FACTORY,
            "LLaMA-Factory, for SFT",
            {"cutoff_len: 2048": "data.max_length: 2048", "lora_target: all": "model.lora.target_modules (all-linear for all)"},
            "plot_loss",
        ),
        (
            "s.yaml",
            SWIFT,
            "ms-swift, for GRPO",
            {"model: org/m": "model.path: org/m", "num_generations: 16": "actors.num_generations: 16"},
            "sleep_level",
        ),
        (
            "a.yml",
            AXOLOTL,
            "Axolotl, for GRPO",
            {"trl.beta: 0.001": "learner.beta: 0.001", "sequence_len: 2048": "data.max_prompt_length: 2048"},
            "flash_attention",
        ),
        (
            "t.yaml",
            TORCHTUNE,
            "torchtune, for SFT",
            {"model.lora_rank: 8": "model.lora.r: 8", "tokenizer.max_seq_len: 512": "data.max_length: 512"},
            "model._component_",
        ),
        (
            "n.yaml",
            NEMO,
            "NeMo-RL, for GRPO",
            {"grpo.num_prompts_per_step: 32": "learner.train_batch_size (32 prompts x 16 completions)"},
            "policy.dtensor_cfg.enabled",
        ),
    ],
)
@pytest.mark.parametrize("command", ["train", "sft", "convert", "data", "json"])
def test_a_file_of_another_system_is_answered(name: str, text: str, system: str, pairs: dict[str, str], without: str, command: str) -> None:
    if command == "json":
        name, text, command = "x.json", json.dumps(yaml.safe_load(text)), "train"
    written(name, text)
    result = CliRunner().invoke(app, [command, name])
    assert isinstance(result.exception, ConfigError), result
    told = str(result.exception)
    assert f"{name} is a file of {system}; rollcast reads its own files and recipes of TRL, Open-R1 and MedicalGPT" in told
    assert f"start it with `rollcast {'sft' if 'SFT' in system else 'train'}`" in told
    for theirs, ours in pairs.items():
        assert re.search(rf"^  {re.escape(theirs)} +->  {re.escape(ours)}", told, re.MULTILINE), told
    assert without in told.partition("no counterpart: ")[2]


@pytest.mark.parametrize(("system", "tree"), yaml.safe_load(OTHERS).items())
def test_systems_of_the_same_kind_are_named_as_well(system: str, tree: dict[str, object]) -> None:
    told = refusal(written("x.yaml", json.dumps(tree)))
    assert f"x.yaml is a file of {system}, for GRPO" in told and "model.path: org/m" in told


@pytest.mark.parametrize(
    ("line", "system", "pair"),
    [
        ("python3 -m verl.trainer.main_ppo algorithm.adv_estimator=rloo trainer.save_freq=3", "verl, for RLOO", "cluster.save_steps: 3"),
        ("python3 -m verl.trainer.main_ppo data.train_files=a +trainer.test_freq=5", "verl", "evaluation.steps: 5"),
        ("algorithm.adv_estimator=grpo actor_rollout_ref.rollout.n=3", "verl, for GRPO", "actors.num_generations: 3"),
        ("torchrun --nproc_per_node=8 -m verl.trainer.fsdp_sft_trainer model.partial_pretrain=m", "verl, for SFT", "model.path: m"),
        (
            "python3 -m openrlhf.cli.train_ppo_ray --pretrain m --n_samples_per_prompt 8 --advantage_estimator group_norm",
            "OpenRLHF, for GRPO",
            "actors.num_generations: 8",
        ),
        ("deepspeed --module openrlhf.cli.train_sft --pretrain m --max_len 2048", "OpenRLHF, for SFT", "data.max_length: 2048"),
        ("--pretrain m --prompt_data d", "OpenRLHF", "data.path: d"),
        (
            "ray job submit --address=x -- python3 -m openrlhf.cli.train_ppo_ray --pretrain m --advantage_estimator rloo",
            "OpenRLHF, for RLOO",
            "model.path: m",
        ),
        (
            "CUDA_VISIBLE_DEVICES=0 swift rlhf --rlhf_type grpo --model m --dataset a b",
            "ms-swift, for GRPO",
            "data.path (several are data.mixture)",
        ),
        ("swift sft --model m --max_length 512", "ms-swift, for SFT", "data.max_length: 512"),
        ("llamafactory-cli train l.yaml learning_rate=3", "LLaMA-Factory, for SFT", "learner.learning_rate: 3"),
        ("llamafactory-cli train --stage sft --model_name_or_path m", "LLaMA-Factory, for SFT", "model.path: m"),
        ("axolotl train a.yml", "Axolotl, for GRPO", "actors.num_generations: 4"),
        ("accelerate launch -m axolotl.cli.train a.yml", "Axolotl, for GRPO", "actors.num_generations: 4"),
        (
            "tune run --nproc_per_node 2 lora_finetune_distributed --config llama3_1/8B_lora epochs=2",
            "torchtune, for SFT",
            "learner.num_train_epochs: 2",
        ),
        ("uv run examples/run_grpo_math.py --config n.yaml grpo.max_num_steps=10", "NeMo-RL, for GRPO", "learner.max_steps: 10"),
        (
            "python3 train.py --hf-checkpoint m --rollout-batch-size 32 --n-samples-per-prompt 8",
            "slime, for GRPO",
            "learner.train_batch_size (32 prompts x 8 completions)",
        ),
    ],
)
@pytest.mark.parametrize("form", ["typed", "quoted", "script"])
def test_a_line_that_starts_another_system_is_answered(line: str, system: str, pair: str, form: str) -> None:
    for name, text in (("l.yaml", LLAMA_FACTORY), ("a.yml", AXOLOTL), ("n.yaml", NEMO)):
        written(name, text)
    source = "this"
    if form == "script":
        broken = " \\\n    ".join(shlex.quote(word) for word in shlex.split(line))
        source = written(
            "run.sh", f'#!/bin/bash\nset -x\nexport HYDRA_FULL_ERROR=1\n# a comment -- with words\n{broken} "$@" 2>&1 | tee log.txt\n'
        )
    told = refusal(source if form == "script" else shlex.quote(line) if form == "quoted" else line)
    assert f"{source} is a command line of {system}" in told and pair in told, told
    assert "tee" not in told and "2>&1" not in told


def test_variables_of_a_script_are_filled_in_and_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/users/me")
    head = "MODEL=org/m\nDATA=${DATA:-$HOME/data}\n"
    line = "python3 -m openrlhf.cli.train_sft --pretrain $MODEL --dataset $DATA/a.jsonl --use_wandb abc123 --wandb_key abc123 --eos_token '<s>'\n"
    told = refusal(written("run.sh", head + line), "sft")
    assert "model.path: org/m" in told and "data.path: /users/me/data/a.jsonl" in told
    assert "abc123" not in told and "use_wandb: …" in told


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        (LLAMA_FACTORY.replace("stage: sft", "stage: dpo"), "LLaMA-Factory, for DPO"),
        (LLAMA_FACTORY.replace("stage: sft", "stage: pt"), "LLaMA-Factory, for pre-training"),
        (LLAMA_FACTORY.replace("stage: sft", "stage: rm"), "LLaMA-Factory, for reward modelling"),
        (AXOLOTL.replace("rl: grpo", "rl: kto"), "Axolotl, for KTO"),
        (SWIFT.replace("grpo", "simpo"), "ms-swift, for SIMPO"),
        (VERL.replace("adv_estimator: grpo", "adv_estimator: gae"), "verl, for PPO"),
        (NEMO.replace("grpo:", "dpo:"), "NeMo-RL, for DPO"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sft"])
def test_another_objective_is_named(text: str, objective: str, command: str) -> None:
    told = refusal(written("x.yaml", text), command)
    assert f"x.yaml is a file of {objective}; rollcast trains by GRPO" in told
    assert told.endswith(f"so run it with {objective.partition(',')[0]}")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("ds.json", '{"zero_optimization": {"stage": 2}, "bf16": {"enabled": "auto"}}', "is a configuration of DeepSpeed"),
        (
            "zero2.yaml",
            "compute_environment: LOCAL_MACHINE\nnum_processes: 8\n",
            "give it beside a recipe: rollcast train RECIPE --accelerate zero2.yaml",
        ),
        ("m/adapter_config.json", '{"peft_type": "LORA", "r": 8}', "start from it with model.adapter=m"),
        ("m/trainer_state.json", '{"log_history": [], "global_step": 3}', "is the state of a Trainer of transformers"),
        ("m/config.json", '{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}', "train it with model.path=m"),
        ("m/generation_config.json", '{"transformers_version": "5.0", "eos_token_id": 2}', "describes how a model samples"),
        ("m/tokenizer_config.json", '{"tokenizer_class": "X"}', "describes a tokenizer"),
        ("m/training_args.bin", "PK", "holds TrainingArguments as a pickle"),
        ("m/model.safetensors", "x", "holds weights; give a YAML file, with model.path=m"),
        ("rows.jsonl", "{}", "holds rows; give a YAML file, with data.path=rows.jsonl"),
        ("rows.json", '[{"prompt": "a"}]', "holds 1 rows; give a YAML file, with data.path=rows.json"),
        ("run/summary.json", '{"exit_reason": "finished"}', "give its settings, run/config.yaml"),
        (
            "d/dataset_info.json",
            '{"a": {"file_name": "a.json", "columns": {"prompt": "q"}}, "b": {"hf_hub_url": "x/y", "ranking": true}}',
            "a: data.path=d/a.json (columns prompt q)\n  b: data.path=x/y (preference pairs: not trained here)",
        ),
        ("x.json", '{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ("x.toml", "a = ", "is not readable as TOML"),
        ("n.py", "print(1)", "is a Python script, and settings are wanted"),
        ("dpo_x.py", "from trl import DPOConfig\nDPOConfig(beta=0.1)", "trains by DPO"),
    ],
)
def test_a_file_that_holds_no_settings_says_what_it_is_and_where_it_belongs(name: str, text: str, wanted: str) -> None:
    Path(name).parent.mkdir(exist_ok=True)
    assert wanted in refusal(written(name, text))


def test_a_notebook_becomes_options_of_a_recipe() -> None:
    cells = (
        "!pip install unsloth\n%load_ext x\nfrom unsloth import FastLanguageModel\nmax_seq_length = 1024\nlora_rank = 32",
        "model, tok = FastLanguageModel.from_pretrained(model_name = 'org/m', load_in_4bit = True)\n"
        "model = FastLanguageModel.get_peft_model(model, r = lora_rank, target_modules = ['q_proj', 'v_proj'])",
        "def right(prompts, **more):\n    return []\ndataset = load_dataset('openai/gsm8k', 'main', split = 'train')",
        "args = GRPOConfig(learning_rate = 5e-6, num_generations = 8, max_completion_length = max_seq_length - 256)\n"
        "trainer = GRPOTrainer(model = model, reward_funcs = [right], args = args)",
    )
    notebook = {"cells": [{"cell_type": "markdown", "source": "# x"}, *({"cell_type": "code", "source": [cell]} for cell in cells)]}
    told = refusal(written("x.ipynb", json.dumps(notebook)))
    line = "--model_name_or_path org/m --load_in_4bit true --lora_r 32 --lora_target_modules q_proj v_proj --dataset_name openai/gsm8k"
    assert (
        f"x.ipynb is a notebook that trains by GRPO, which is not run; its settings are options of a recipe:\n  rollcast train {line}"
        in told
    )
    assert "only running it tells their values: max_completion_length" in told and "--reward_funcs file.py:right" in told
    options = told.split("rollcast train ")[1].partition("\n")[0]
    config = load_run([*shlex.split(options), "--reward_funcs", "accuracy"], None, Console(quiet=True))
    assert (config.model.path, config.model.lora.r, config.data.name, config.actors.num_generations) == ("org/m", 32, "main", 8)


def test_json_and_toml_are_read_as_files_of_rollcast_and_as_recipes() -> None:
    own = {"model": {"path": "builtin:tiny_qwen2"}, "data": {"path": "builtin:addition"}, "learner": {"learning_rate": 1e-5}}
    config = load_run([written("a.json", json.dumps(own))], None, Console(quiet=True))
    assert config.learner.learning_rate == 1e-5
    toml = '[model]\npath = "builtin:tiny_qwen2"\n[data]\npath = "builtin:addition"\n[learner]\nlearning_rate = 1e-5\n'
    assert load_run([written("a.toml", toml)], None, Console(quiet=True)) == config
    recipe = load_run([written("r.json", '{"model_name_or_path": "m", "dataset_name": "d", "beta": 0.5}')], None, Console(quiet=True))
    assert recipe.learner.beta == 0.5


def test_what_is_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with names of other systems in it."""
    monkeypatch.chdir(REPOSITORY)
    for path in sorted((REPOSITORY / "configs").glob("*.yaml")):
        sft = path.stem.endswith("_sft")
        load, read = (load_sft, load_sft_config) if sft else (load_run, load_config)
        given = ["out_dir=runs/axolotl train verl swift sft", "model.path=openrlhf.cli/x", "data.path=a/swift rlhf"]
        assert load([str(path), *given], None, Console(quiet=True)) == read(path, given)
    for path in sorted((REPOSITORY / "examples/recipes").glob("*.yaml")):
        if path.stem not in ("zero2", "zero3"):
            load = load_sft if "sft" in path.stem else load_run
            assert load([str(path), "--num_processes", "7"], None, Console(quiet=True)).seed == 42


def test_counterparts_are_keys_of_a_run_or_a_fine_tuning() -> None:
    known = {*all_keys(), *all_keys(SftConfig)}
    for system in SYSTEMS:
        assert len(system.counterparts) > 8
        for theirs, found in system.counterparts.items():
            assert set(found.keys) <= known, (system.name, theirs, found.keys)
            for name in re.findall(r"\{([\w.]+)(?:\|[^}]*)?\}", found.note):
                assert name in system.counterparts or name.endswith(("num_nodes", ".name")), (system.name, theirs, name)


def test_settings_of_lines_and_files() -> None:
    words = ["x.py", "--a", "1", "2", "--b=c", "--flag", "--d-e", "-0.5", "+f.g=h=i", "~k.l=m"]
    assert dict(settings_of(words)) == {"a": ["1", "2"], "b": "c", "flag": True, "d_e": "-0.5", "f.g": "h=i", "k.l": "m"}
    assert flat({"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 1}]}) == {"a.b.c": 1, "a.d": {}, "e": [{"f": 1}]}
