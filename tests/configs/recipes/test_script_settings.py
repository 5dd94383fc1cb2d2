"""Settings of TRL's parser and of Open-R1's scripts beside those of the trainer: `env`, `pass_rate_min`, `dataset_configs`, `yes` and `no`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.rows.rows import load_part
from configs.contracts.errors import ConfigError
from configs.loading import load_config
from configs.recipes.command_line import read_recipe, sort_arguments
from configs.recipes.conversion import Conversion, convert
from configs.recipes.kinds import GRPO, SFT
from configs.schema.data import DataSection
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


def test_files_that_a_recipe_lists_are_listed_in_the_run(tmp_path: Path) -> None:
    def data(settings: Mapping[str, YamlValue]) -> DataSection:
        found = convert(GRPO, {"model_name_or_path": "m", **settings})
        (tmp_path / "run.yaml").write_text(found.to_yaml())
        assert load_config(tmp_path / "run.yaml") == found.config
        return found.config.data

    listed = data({"dataset_name": "json", "data_files": {"train": ["a #1.jsonl", "b*.jsonl.gz"], "test": "c.jsonl"}})
    assert (listed.path, listed.data_files) == (None, {"train": ("a #1.jsonl", "b*.jsonl.gz"), "test": "c.jsonl"})
    assert data({"data_files": "007.jsonl"}).data_files == "007.jsonl"
    inside = data({"dataset_name": "org/d", "data_files": ["x/a.parquet"], "dataset_train_split": "train"})
    assert (inside.path, inside.data_files) == ("org/d", ("x/a.parquet",))
    mixture = data({"datasets": [{"path": "json", "data_files": "a.jsonl"}, {"path": "org/d"}]}).mixture
    assert mixture and [part.data_files for part in mixture.datasets] == ["a.jsonl", None]
    typed = read_recipe(GRPO, {}, sort_arguments(["--model_name_or_path", "m", "--data_files", "a #1.jsonl", "b: 2.jsonl"])).config.data
    assert typed.data_files == ("a #1.jsonl", "b: 2.jsonl")
    with pytest.raises(ConfigError, match="dataset_name: json is a format and no data set; list its files as data_files"):
        data({"dataset_name": "json"})


def test_rows_of_listed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "a #1.jsonl").write_text('{"prompt": "2 + 3 =", "solution": "5"}\n')
    config = convert(GRPO, {"model_name_or_path": "m", "dataset_name": "json", "data_files": str(tmp_path / "a #1.jsonl")}).config
    rows = load_part(config.data.part)
    assert (len(rows), rows.values("solution", [0])) == (1, ["5"])
