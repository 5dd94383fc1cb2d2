"""A user's YAML and overrides become a run, and bad ones a helpful error.

Protected here: every shipped YAML loads and survives a round trip; every fault ends in one ConfigError with the key, the
rule and the remedy, and in none of pydantic's own words.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.contracts.errors import ConfigError
from configs.loading import dump_config, load_config
from configs.schema.rewards import RewardSpec
from configs.schema.run import RunConfig
from tests import REPOSITORY

CONFIGS = REPOSITORY / "configs"
SHIPPED = sorted(path for path in CONFIGS.glob("*.yaml") if not path.stem.endswith("_sft"))
SMALL = "model: {path: builtin:tiny_qwen2}\ndata: {path: builtin:addition}\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return written(tmp_path, SMALL)


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert not any(jargon in message for jargon in ("pydantic", "Input should", "input_value", "validation error", "type=")), message
    return message


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_load_and_survive_a_round_trip(path: Path, tmp_path: Path):
    config = load_config(path)
    assert load_config(written(tmp_path, dump_config(config))) == config


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_name_templates_that_are_shipped(path: Path):
    template = load_config(path).model.chat_template
    assert template is None or (CONFIGS.parent / template).is_file()


def test_the_open_r1_run_has_the_values_of_the_guide():
    config = load_config(CONFIGS / "openr1_distill_1.5b.yaml")
    assert (config.learner.ranks, config.learner.train_batch_size, config.groups_per_step) == (7, 7 * 16 * 4, 28)
    assert (config.learner.beta, config.learner.loss_type, config.learner.epsilon) == (0.04, "bnpo", 0.2)
    assert (config.learner.learning_rate, config.learner.lr_scheduler_type, config.learner.min_lr_rate) == (1e-6, "cosine_with_min_lr", 0.1)
    assert (config.data.max_prompt_length, config.actors.max_completion_length, config.actors.temperature) == (512, 2048, 0.7)
    assert [spec.name for spec in config.rewards.functions] == ["accuracy", "format", "tag_count"]
    assert config.data.system_prompt == (
        "You are a helpful AI Assistant that provides well-reasoned and detailed responses. You first think about the reasoning process "
        "as an internal monologue and then provide the user with the answer. Respond in the following format: "
        "<think>\n...\n</think>\n<answer>\n...\n</answer>"
    )


@settings(deadline=None, max_examples=50)  # reading YAML takes longer than the default deadline on a loaded machine
@given(
    prompt=st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n")),
    rate=st.floats(min_value=1e-30, max_value=1e30),
    params=st.dictionaries(st.text("abc", min_size=1), st.one_of(st.booleans(), st.integers(), st.text(st.characters(codec="ascii")))),
)
def test_any_run_survives_a_round_trip(tmp_path_factory: pytest.TempPathFactory, prompt: str, rate: float, params: dict):
    config = RunConfig.model_validate(
        {
            "model": {"path": "1e-4"},
            "data": {"path": "2024-01-01", "name": "on", "system_prompt": prompt},
            "learner": {"learning_rate": rate},
            "rewards": {"functions": (RewardSpec(name="accuracy", params=params),)},
        }
    )
    assert load_config(written(tmp_path_factory.mktemp("round"), dump_config(config))) == config


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("learner.learning_rate=1e-4", "learner", "learning_rate", 1e-4),
        ("learner.learning_rate=2E5", "learner", "learning_rate", 2e5),
        ("learner.warmup_steps=", "learner", "warmup_steps", None),
        ("data.shuffle=false", "data", "shuffle", False),
        ("data.system_prompt=Answer: yes", "data", "system_prompt", "Answer: yes"),
        ("model.revision=1234567", "model", "revision", "1234567"),
        ("model.chat_template={{ bos_token }}", "model", "chat_template", "{{ bos_token }}"),
        ("data.path=a=b.jsonl", "data", "path", "a=b.jsonl"),
        ("data.columns={theirs: ours}", "data", "columns", {"theirs": "ours"}),
        ("data.decontaminate=[math_500]", "data", "decontaminate", ("math_500",)),
    ],
)
def test_overrides_are_read_as_what_the_key_holds(small: Path, override: str, section: str, name: str, value: object):
    assert getattr(getattr(load_config(small, [override]), section), name) == value


def test_overrides_reach_into_sections_that_are_not_there_and_the_last_one_wins(small: Path):
    config = load_config(small, ["learner.warm_start.max_steps=3", "learner.warm_start.max_steps=4", "rewards.functions=[format]"])
    assert config.learner.warm_start is not None
    assert config.learner.warm_start.max_steps == 4
    assert config.rewards.functions == (RewardSpec(name="format"),)


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("actors.temprature=1", "actors.temprature: there is no such key; did you mean actors.temperature?"),
        ("num_generations=4", "num_generations: there is no such key; did you mean actors.num_generations?"),
        ("learner.num_generations=4", "did you mean actors.num_generations?"),
        ("learnr.max_steps=4", "learnr: there is no such key; did you mean learner?"),
        ("model.lora.rnk=4", "model.lora.rnk: there is no such key"),
        (
            "rewards.functions=[{name: format, wieght: 2}]",
            "rewards.functions[0].wieght: there is no such key; did you mean rewards.functions[0].weight?",
        ),
        (
            "data={mixture: {datasets: [{path: a}, {path: b, wieght: 1}]}}",
            "data.mixture.datasets[1].wieght: there is no such key; did you mean data.mixture.datasets[1].weight?",
        ),
        (
            "data={mixture: {datasets: [{path: a, columns: {question: prompt, answer: prompt}}]}}",
            "data.mixture.datasets[0].columns: gives the name 'prompt' to question and answer; keep one",
        ),
        ("data.columns={a: prompt, b: solution, c: prompt}", "data.columns: gives the name 'prompt' to a and c; keep one"),
        ("data={path: a, split: 'train[:3]', streaming: true}", "split train[:3] with streaming: the rows of a stream are not counted"),
        ("stages=[{name: a, lerner: {}}]", "stages[0].lerner: there is no such key; did you mean stages[0].learner?"),
        (
            "stages=[{name: a, rewards: {functions: [accuracy, {name: format, wieght: 2}]}}]",
            "stage 1 (a), does not describe a run:\n  rewards.functions[1].wieght: there is no such key; did you mean rewards.functions[1].weight?",
        ),
        ("evaluation.data=[gsm8k, {path: a}]", "evaluation.data[1]: {'path': 'a'} is not text"),
        (
            "xyzzy=1",
            "xyzzy: there is no such key; the keys here are model, data, actors, rewards, learner, cluster, evaluation, stages, seed, out_dir",
        ),
        ("learner.max_steps=abc", "learner.max_steps: 'abc' is not a whole number; write a whole number"),
        ("learner.max_steps=1.5", "learner.max_steps: 1.5 is not a whole number"),
        ("learner.learning_rate=-1", "learner.learning_rate: -1 must be more than 0"),
        ("learner.learning_rate=.nan", "learner.learning_rate: nan"),
        ("learner.learning_rate=.inf", "learner.learning_rate: inf is not a finite number; write a finite number"),
        ("actors.top_p=2", "actors.top_p: 2 must be at most 1.0; lower it"),
        (
            "learner.loss_type=ppo",
            "learner.loss_type: 'ppo' is not one of the choices; choose 'grpo', 'bnpo', 'dr_grpo', 'dapo' or 'cispo'",
        ),
        ("model.path=", "model.path: is empty; give a value"),
        ("model.lora.target_modules=7", "model.lora.target_modules: 7 is not"),
        ("model.lora.r=600", "model.lora.r: r 600 is larger than 512, the largest rank that vLLM serves; lower it"),
        ("model.lora.use_dora=true", "model.lora: use_dora True is not supported: vLLM cannot serve DoRA; remove it"),
        (
            "model.lora.init_lora_weights=pissa",
            "model.lora: init_lora_weights 'pissa' is not supported: an adapter starts at zero; PiSSA",
        ),
        (
            "model.lora.modules_to_save=[lm_head]",
            "model.lora: modules_to_save ['lm_head'] is not supported: vLLM serves the base model's own",
        ),
        ("model.lora.target_modules=[q_proj, lm_head]", "model.lora.target_modules: lm_head cannot have an adapter"),
        ("model.quantization=fp4", "model.quantization: 'fp4' is not one of the choices; choose 'none', 'nf4' or 'int8'"),
        ("model.serve_quantized=dequantized", "model: serve_quantized dequantized contradicts quantization none: there is nothing to"),
        ("learner.warm_start=3", "learner.warm_start: 3 is not a section"),
        ("rewards.functions=[]", "rewards.functions: no reward is listed; list at least one"),
        ("learner.train_batch_size=100", "learner.train_batch_size 100 is not divisible by actors.num_generations 8"),
        ("learner.train_batch_size=100", "use 96 or 104"),
        ("learner.train_batch_size=7", "trains whole groups; use 8"),
        ("learner", "override 'learner' does not have the form section.key=value"),
        ("seed.x=1", "override 'seed.x=1'"),
        ("learner.max_steps=[", "override 'learner.max_steps=['"),
    ],
)
def test_bad_values_are_answered_with_key_rule_and_remedy(small: Path, override: str, wanted: str):
    small.write_text(SMALL + "seed: 1\n")
    assert wanted in refusal(small, override)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["loss_type=cispo"], "learner: epsilon_high None with loss_type cispo: there it is the largest ratio itself"),
        (["loss_type=cispo", "epsilon_high=0.28"], "learner: epsilon_high 0.28 with loss_type cispo"),
        (["advantage_estimator=rloo", "scale_rewards=none"], "learner: scale_rewards none has no effect with advantage_estimator rloo"),
        (["importance_sampling_floor=2"], "learner: importance_sampling_floor 2.0 is not below importance_sampling_cap 2.0"),
        (["kl_in_reward=true", "kl_estimator=k1"], "learner: beta 0.0 with kl_in_reward: nothing would be subtracted; set beta"),
        (["kl_in_reward=true", "beta=0.1"], "learner: kl_estimator k3 with kl_in_reward: a reward has no gradient"),
        (
            ["kl_in_reward=true", "beta=0.1", "kl_estimator=k1", "use_bias_correction_kl=true"],
            "learner: use_bias_correction_kl with kl_in_reward",
        ),
        (["num_iterations=0"], "learner.num_iterations: 0 must be more than 0"),
        (["importance_sampling_mode=sequence"], "learner.importance_sampling_mode: 'sequence' is not one of the choices"),
    ],
)
def test_objectives_that_contradict_themselves_are_refused(small: Path, overrides: list[str], wanted: str):
    assert wanted in refusal(small, *(f"learner.{override}" for override in overrides))


@pytest.mark.parametrize("learner", [["advantage_estimator=rloo"], ["kl_in_reward=true", "beta=0.1", "kl_estimator=k1"]])
def test_normalised_rewards_go_only_with_what_compares_them_as_they_are(small: Path, learner: list[str]):
    overrides = [f"learner.{override}" for override in learner]
    assert load_config(small, overrides).learner.num_iterations == 1
    assert "with rewards.aggregation normalize_then_sum" in refusal(small, "rewards.aggregation=normalize_then_sum", *overrides)


@pytest.mark.parametrize(
    ("overrides", "weighs"),
    [
        ([], False),
        (["beta=0.1"], True),
        (["entropy_coef=0.1"], True),
        (["beta=0.1", "kl_estimator=k1", "kl_in_reward=true"], False),
    ],
)
def test_what_gives_a_completion_without_advantage_a_gradient(small: Path, overrides: list[str], weighs: bool):
    assert load_config(small, [f"learner.{override}" for override in overrides]).learner.weighs_every_completion == weighs


def test_flex_attention_is_for_gpus(small: Path):
    assert load_config(small, ["model.attn_implementation=flex_attention"]).model.attn_implementation == "flex_attention"
    refused = refusal(small, "model.attn_implementation=flex_attention", "learner.gpus_per_rank=0")
    assert "flex_attention with learner.gpus_per_rank 0: FlexAttention has no backward on the CPU; use sdpa" in refused


def test_all_faults_are_listed_at_once(tmp_path: Path):
    message = refusal(written(tmp_path, SMALL + "actors: {temprature: 1, top_p: 3}\nlearner: {ranks: 0}\n"))
    assert all(key in message for key in ("run.yaml", "actors.temprature", "actors.top_p", "learner.ranks"))


def test_a_missing_key_is_named_with_its_meaning(tmp_path: Path):
    message = refusal(written(tmp_path, "model: {dtype: float32}\ndata: {path: x}\n"))
    assert "model.path: not given, and there is no default; add `path: ...` (A hub id, a local folder" in message


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("model:\n  path: [a\n", ":3:1:", "expected ',' or ']'"),
        ("model:\n\tpath: a\n", ":2:1:", "indent with spaces"),
        ("seed: 1\nmodel: {path: a}\nseed: 2\n", ":3:1:", "the key 'seed' was given in line 1 already"),
        ("model:\n  path: a\n  path: b\n", ":3:3:", "the key 'path' was given in line 2 already"),
        ("model: {path: \x07}\n", ":1:", "'\\x07' is not allowed"),
        ("", "", "is empty"),
        ("- a\n- b\n", "", "not sections such as `model:`"),
        ("!!python/object/apply:os.system [echo]\n", ":1:1:", "could not determine a constructor"),
    ],
)
def test_unreadable_yaml_names_file_and_line(tmp_path: Path, text: str, place: str, words: str):
    path = written(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}{place}")
    assert words in message


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path, small: Path):
    assert f"did you mean {small}?" in refusal(tmp_path / "runn.yaml")
    assert "cannot be read" in refusal(tmp_path)
    small.write_bytes(b"seed: \xff")
    assert "is not UTF-8 text" in refusal(small)


def test_scientific_numbers_in_files_are_numbers_and_quoted_ones_stay_text(tmp_path: Path):
    path = written(tmp_path, 'model: {path: "1e-4", revision: 2024-01-01}\ndata: {path: x}\nlearner: {learning_rate: 1e-4}\n')
    config = load_config(path)
    assert (config.model.path, config.model.revision, config.learner.learning_rate) == ("1e-4", "2024-01-01", 1e-4)


def test_int8_has_no_dequantised_twin(small: Path):
    message = refusal(small, "model.quantization=int8", "model.serve_quantized=dequantized")
    assert "contradicts quantization int8: int8 also quantises activations" in message and "use nf4, or serve_quantized original" in message


@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        (["model.dtype=float32"], 1e-3),
        (["model.dtype=bfloat16"], 0.1),
        (["model.quantization=nf4"], 0.5),
        (["model.quantization=int8"], 0.1),
        (["model.dtype=float32", "model.quantization=nf4", "model.serve_quantized=dequantized"], 1e-3),
        (["model.quantization=nf4", "actors.canary_tolerance=0.2"], 0.2),
    ],
)
def test_the_canary_is_held_to_what_both_sides_compute(small: Path, overrides: list[str], tolerance: float):
    assert load_config(small, overrides).canary_tolerance == tolerance


def test_a_key_that_is_gone_is_ignored_in_what_an_older_run_wrote(small: Path, capsys: pytest.CaptureFixture[str]):
    config = load_config(small)
    older = dump_config(config).replace("actors:\n", "actors:\n  on_new_adapter: swap\n")
    path = small.parent / "config.yaml"
    path.write_text(older)
    assert "actors.on_new_adapter: there is no such key" in refusal(path), "of a user's own file"
    (small.parent / "metrics.jsonl").touch()
    assert load_config(path) == config
    assert f"{path}: actors.on_new_adapter is ignored" in capsys.readouterr().err
    path.write_text(dump_config(config))
    assert load_config(path) == config and not capsys.readouterr().err
    path.write_text(older.replace("on_new_adapter", "on_old_adapter"))
    assert "actors.on_old_adapter: there is no such key" in refusal(path)
