"""`stages`: what each inherits, and that all are judged before the first is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.contracts.errors import ConfigError
from configs.loading import dump_config, load_config, stage_configs
from configs.schema.run import RunConfig

TWO = """
model: {path: some/model, lora: {r: 8, alpha: 16}}
data: {path: data.jsonl}
rewards: {functions: [accuracy, {name: format, weight: 0.5}]}
learner: {beta: 0.001, learning_rate: 1.0e-6}
stages:
  - {name: few, data: {train_samples: 100}}
  - {name: strict, learner: {beta: 0.01, learning_rate: 5.0e-7}, rewards: {functions: [accuracy]}, seed: 7}
out_dir: runs/two
"""


def load(folder: Path, text: str, *overrides: str) -> RunConfig:
    (folder / "run.yaml").write_text(text)
    return load_config(folder / "run.yaml", overrides)


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return str(caught.value)


def test_a_stage_has_the_settings_above_its_own_and_the_adapter_before(tmp_path: Path) -> None:
    first, second = stage_configs(load(tmp_path, TWO))
    assert (first.data.train_samples, first.learner.beta, first.learner.learning_rate, first.seed) == (100, 0.001, 1e-6, 0)
    assert (second.data.train_samples, second.learner.beta, second.learner.learning_rate, second.seed) == (-1, 0.01, 5e-7, 7)
    assert [spec.name for spec in first.rewards.functions] == ["accuracy", "format"]
    assert [spec.name for spec in second.rewards.functions] == ["accuracy"], "lists are replaced as a whole"
    assert [stage.out_dir for stage in (first, second)] == [Path("runs/two/1-few").absolute(), Path("runs/two/2-strict").absolute()]
    assert (first.model.adapter, second.model.adapter) == (None, str(first.out_dir / "adapter"))
    assert first.model.path == second.model.path == "some/model"
    assert second.model.lora == first.model.lora and second.data.path == "data.jsonl"
    assert not first.stages and not second.stages


def test_an_override_holds_for_every_stage_that_does_not_set_it(tmp_path: Path) -> None:
    first, second = stage_configs(load(tmp_path, TWO, "learner.beta=0.5", "data.max_prompt_length=99"))
    assert (first.learner.beta, second.learner.beta) == (0.5, 0.01)
    assert (first.data.max_prompt_length, second.data.max_prompt_length) == (99, 99)


def test_stages_are_evaluated_as_they_say_and_pushed_to_one_repository(tmp_path: Path) -> None:
    stages = "stages=[{name: few, evaluation: {steps: 5}}, {name: strict, cluster: {push_to_hub: {hub_model_id: me/strict}}}]"
    first, second = stage_configs(load(tmp_path, TWO, "cluster.push_to_hub={}", "evaluation.steps=50", stages))
    assert (first.evaluation.steps, second.evaluation.steps) == (5, 50)
    hubs = [stage.cluster.push_to_hub for stage in (first, second)]
    assert [hub.hub_model_id for hub in hubs if hub] == ["two", "me/strict"]


def test_stages_survive_a_round_trip(tmp_path: Path) -> None:
    config = load(tmp_path, TWO)
    assert load(tmp_path, dump_config(config)) == config
    assert stage_configs(load(tmp_path, dump_config(config)))[1].learner == stage_configs(config)[1].learner


@pytest.mark.parametrize(
    ("settings", "folder"),
    [("learner.warm_start.max_steps=5", "model"), ("model.path=builtin:tiny_qwen2", "base_model"), ("model.adapter=a", None)],
)
def test_later_stages_train_the_model_that_the_first_made(tmp_path: Path, settings: str, folder: str | None) -> None:
    first, second = stage_configs(load(tmp_path, TWO, settings))
    assert second.model.path == (str(first.out_dir / folder) if folder else "some/model")
    assert second.learner.warm_start is None and second.model.adapter == str(first.out_dir / "adapter")


def test_an_adapter_is_merged_once(tmp_path: Path) -> None:
    first, second = stage_configs(load(tmp_path, TWO, "model.adapter=a", "model.merge_adapter=true"))
    assert (first.model.adapter, first.model.merge_adapter) == ("a", True)
    assert (second.model.path, second.model.merge_adapter) == (str(first.out_dir / "merged_model"), False)


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("{name: late, learner: {bta: 0.1}}", "stage 3 (late), does not describe a run:\n  learner.bta: there is no such key; did you mean learner.beta?"),
        ("{name: late, learner: {train_batch_size: 7}}", "learner.train_batch_size 7 is not divisible by actors.num_generations 8"),
        ("{name: late, model: {lora: {r: 4}}}", "stages[2]: a stage sets `model`, but all stages train one adapter on one model"),
        ("{name: late, learner: {warm_start: {}}}", "has learner.warm_start, which comes before all stages"),
        ("{name: late, out_dir: x}", "stages[2].out_dir: there is no such key"),
        ("{name: a/b}", "stages[2].name"),
        ("{learner: {beta: 0.1}}", "stages[2].name: not given"),
        ("{name: late, learner: 3}", "stages[2].learner: 3 is not a mapping"),
    ],
)  # fmt: skip
def test_a_fault_of_any_stage_is_found_when_the_file_is_read(tmp_path: Path, stage: str, told: str) -> None:
    assert told in refusal(tmp_path, TWO.replace("out_dir: runs", f"  - {stage}\nout_dir: runs"))
