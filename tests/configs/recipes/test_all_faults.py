"""Every fault of a kind is named at once: unknown and refused settings of a recipe, of its mixture and of an accelerate file, and stray words."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from rich.console import Console

import rollcast
from configs.contracts.errors import ConfigError
from configs.loading import load_config
from configs.recipes.command_line import load_run, sort_arguments
from configs.recipes.conversion import convert
from configs.recipes.kinds import GRPO, SFT
from configs.yaml_files import YamlValue


def refusal(settings: Mapping[str, YamlValue], launch: Mapping[str, YamlValue] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        convert(GRPO, {"model_name_or_path": "m", "dataset_name": "d", **settings}, launch)
    return str(caught.value)


def test_all_unknown_settings_are_named_with_the_nearest() -> None:
    told = refusal({"betta": 1, "learning_rte": 2, "beta": 0.1, "xyzzy": 3})
    assert "betta: there is no such setting of TRL, Open-R1 or MedicalGPT; did you mean beta?" in told
    assert "learning_rte: there is no such setting of TRL, Open-R1 or MedicalGPT; did you mean learning_rate?" in told
    assert "xyzzy: there is no such setting" in told and told.count("\n") == 2
    with pytest.raises(ConfigError) as caught:
        convert(SFT, {"model_name_or_path": "m", "max_lenght": 2, "pakcing": True})
    assert "did you mean max_length?" in str(caught.value) and "did you mean packing?" in str(caught.value)


def test_all_refused_settings_are_named() -> None:
    told = refusal({"delta": 2.0, "min_p": 0.1, "use_dora": True})
    assert all(f"{name}: " in told for name in ("delta", "min_p", "use_dora"))


def test_all_unknown_keys_of_an_accelerate_file_and_of_a_mixture_are_named() -> None:
    told = refusal({}, {"num_proceses": 2, "mixed_precison": "bf16", "debug": False})
    assert "did you mean num_processes?" in told and "did you mean mixed_precision?" in told
    told = refusal({"dataset_mixture": {"datasets": [{"id": "a", "wieght": 1, "splitt": "x"}]}})
    assert "did you mean weight?" in told and "did you mean split?" in told
    assert "there is no key sead and no key sizes" in refusal({"dataset_mixture": {"datasets": [{"id": "a"}], "sead": 1, "sizes": 1}})


def test_all_stray_words_and_the_faults_of_all_stages_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        sort_arguments(["lerner.max_steps=3", "modle.path=x"])
    assert "did you mean 'learner'?" in str(caught.value) and "did you mean 'model'?" in str(caught.value)
    stages = "stages=[{name: a, learner: {betta: 1}}, {name: b, actors: {temprature: 1}}, {name: c}]"
    with pytest.raises(ConfigError) as caught:
        load_config("configs/quickstart.yaml", [stages])
    assert "learner.betta" in str(caught.value) and "actors.temprature" in str(caught.value)


def test_strays_options_and_unknown_keys_of_one_command_are_named_together() -> None:
    given = ["configs/quickstart.yaml", "actors.temprature=1", "lerner.x=2", "data.promt_column=3", "--bogus", "4"]
    with pytest.raises(ConfigError) as caught:
        load_run(given, None, Console(quiet=True))
    told = str(caught.value)
    assert "did you mean 'learner'?" in told and "did you mean actors.temperature?" in told and "did you mean data.prompt_column?" in told
    assert "--bogus: configs/quickstart.yaml is a file of rollcast" in told
    with pytest.raises(ConfigError) as caught:
        load_run(["lerner.x=2", "--model_name_or_path", "m", "--dataset_name", "d", "--betta", "1"], None, Console(quiet=True))
    assert "lerner.x=2" in str(caught.value)


def test_unknown_settings_are_named_beside_those_of_the_other_kind() -> None:
    told = refusal({"eos_token": "x", "betta": 1})
    assert "eos_token: only recipes of supervised fine-tuning have such settings" in told and "betta: there is no such setting" in told
    told = refusal({"eos_token": "x", "num_generations": 8, "betta": 1})
    assert "eos_token: there is no such setting in recipes of GRPO, only in those of supervised fine-tuning" in told
    assert "betta: there is no such setting of TRL, Open-R1 or MedicalGPT; did you mean beta?" in told


def test_a_mapping_from_python_may_be_a_recipe_and_one_of_another_system_is_answered() -> None:
    recipe: dict[str, YamlValue] = {"model_name_or_path": "m", "dataset_name": "d", "beta": 0.5, "system_prompt": "End with #### 42"}
    config = rollcast.load_config(recipe)
    assert (config.learner.beta, config.data.system_prompt) == (0.5, "End with #### 42")
    assert rollcast.load_config(recipe, ["learner.beta=0.25", "data.path=a #1"]).data.path == "a #1"
    with pytest.raises(ConfigError, match="did you mean beta"):
        rollcast.load_config({"model_name_or_path": "m", "betta": 1})
    with pytest.raises(ConfigError, match="the configuration is a file of verl, for RLOO"):
        rollcast.load_config({"algorithm": {"adv_estimator": "rloo"}, "actor_rollout_ref": {"model": {"path": "m"}}})
