"""Settings of TRL's parser and of Open-R1's scripts beside those of the trainer: `env`, `pass_rate_min`, `dataset_configs`, `yes` and `no`."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from configs.contracts.errors import ConfigError
from configs.recipes.command_line import read_recipe, sort_arguments
from configs.recipes.conversion import Conversion, convert
from configs.recipes.kinds import GRPO, SFT
from configs.schema.run import RunConfig
from configs.yaml_files import YamlValue


def converted(settings: Mapping[str, YamlValue]) -> Conversion[RunConfig]:
    return convert(GRPO, {"model_name_or_path": "m", "dataset_name": "d", **settings})


def refusal(settings: Mapping[str, YamlValue]) -> str:
    with pytest.raises(ConfigError) as caught:
        converted(settings)
    return str(caught.value)


def test_pass_rates_become_the_filter_of_the_data() -> None:
    data = converted({"pass_rate_min": 0.1, "pass_rate_max": 0.9}).config.data
    assert (data.min_pass_rate, data.max_pass_rate) == (0.1, 0.9)


def test_variables_of_the_environment_are_refused_with_the_line_that_sets_them() -> None:
    told = refusal({"env": {"HF_HOME": "/my data", "WANDB_API_KEY": "s3cret"}})
    assert "env: variables are set for all processes by the shell, before the command: HF_HOME='/my data' WANDB_API_KEY=… rollcast" in told
    assert "s3cret" not in told
    for value in ("A=1", ["A=1", "B=2"]):
        assert "before the command: A=1" in refusal({"env": value})
    with pytest.raises(ConfigError, match="A=1 B=x rollcast"):
        read_recipe(GRPO, {}, sort_arguments(["--model_name_or_path", "m", "--dataset_name", "d", "--env", "A=1", "B=x"]))
    assert [row.why for row in converted({"env": {}}).rows if row.setting == "env"] == ["it is empty"]


@pytest.mark.parametrize("kind", [GRPO, SFT])
def test_a_setting_that_no_script_reads_says_so(kind: object) -> None:
    found = convert(SFT if kind is SFT else GRPO, {"model_name_or_path": "m", "dataset_name": "d", "dataset_configs": ["main"]})
    assert [row.why for row in found.rows if row.setting == "dataset_configs"] == [
        "Open-R1's script does not read it; name one as dataset_config"
    ]


@pytest.mark.parametrize(
    ("word", "value"), [("yes", True), ("On", True), ("no", False), ("off", False), (1, True), (0, False), ("t", True)]
)
def test_switches_are_read_as_transformers_reads_them(word: YamlValue, value: bool) -> None:
    assert converted({"use_vllm": True, "load_in_4bit": word}).config.model.quantization == ("nf4" if value else "none")
    if not value:
        assert converted({"use_dora": word, "sync_ref_model": word}).config.seed == 42
    assert converted({"save_strategy": "no"}).config.cluster.save_steps == 0
