"""`report_to`, W&B's settings and the hub's: what a recipe says of them is what the run does."""

from __future__ import annotations

from typing import Any

import pytest

from configs.contracts.errors import ConfigError
from configs.loading import config_of, dump_config
from configs.recipes.conversion import Conversion
from configs.schema.run import RunConfig
from configs.yaml_files import parse_yaml
from tests.configs.recipes.test_conversion import convert

SMALL = {"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "dataset_name": "openai/gsm8k"}


def become(conversion: Conversion[RunConfig], setting: str) -> set[str]:
    return {row.target or row.why for row in conversion.rows if row.setting == setting}


@pytest.mark.parametrize(
    ("given", "report_to"),
    [
        ("none", ()),
        ("all", ("tensorboard",)),
        ("wandb", ("wandb",)),
        (["wandb", "tensorboard"], ("tensorboard", "wandb")),
        (["mlflow", "wandb"], ("wandb",)),
    ],
)
def test_report_to(given: Any, report_to: tuple[str, ...]) -> None:
    assert convert(SMALL | {"report_to": given}).config.cluster.report_to == report_to


def test_a_service_that_is_not_supported_is_named() -> None:
    (row,) = [row for row in convert(SMALL | {"report_to": ["mlflow", "wandb"]}).rows if row.setting == "report_to"]
    assert row.why.startswith("mlflow is not supported")
    (row,) = [row for row in convert(SMALL | {"report_to": ["all", "mlflow"]}).rows if row.setting == "report_to"]
    assert "W&B is used only if it is named; mlflow is not supported" in row.why


def test_settings_of_wandb_count_where_it_is_on() -> None:
    named = {"wandb_project": "p", "wandb_entity": "e", "wandb_run_group": "g", "run_name": "n"}
    cluster = convert(SMALL | named | {"report_to": "wandb"}).config.cluster
    assert (cluster.wandb_project, cluster.wandb_entity, cluster.wandb_run_group, cluster.run_name) == ("p", "e", "g", "n")
    without = convert(SMALL | named)
    assert without.config.cluster.wandb_project is None and without.config.cluster.run_name == "n"
    assert become(without, "wandb_project") == {"wandb is not in report_to"}


@pytest.mark.parametrize(("strategy", "becomes"), [("end", "end"), ("every_save", "every_save"), ("all_checkpoints", "every_save")])
def test_push_to_hub(strategy: str, becomes: str) -> None:
    hub = {"hub_model_id": "me/model", "hub_strategy": strategy, "hub_private_repo": True, "hub_model_revision": "v1", "hub_token": "hf_x"}
    section = convert(SMALL | hub | {"push_to_hub": True}).config.cluster.push_to_hub
    assert section is not None
    assert (section.hub_model_id, section.hub_strategy, section.hub_private_repo, section.hub_model_revision) == (
        "me/model",
        becomes,
        True,
        "v1",
    )


def test_nothing_is_pushed_unless_asked_for() -> None:
    conversion = convert(SMALL | {"hub_model_id": "me/model", "hub_strategy": "end", "push_to_hub": False})
    assert conversion.config.cluster.push_to_hub is None
    assert become(conversion, "hub_model_id") == become(conversion, "hub_strategy") == {"push_to_hub is not set"}


def test_the_main_branch_is_none_of_its_own() -> None:
    section = convert(SMALL | {"push_to_hub": True, "hub_model_revision": "main"}).config.cluster.push_to_hub
    assert section is not None and section.hub_model_revision is None


def test_completions_are_logged() -> None:
    cluster = convert(SMALL | {"log_completions": True, "num_completions_to_print": 2, "wandb_log_unique_prompts": True}).config.cluster
    assert (cluster.log_completions, cluster.num_completions_to_print, cluster.log_unique_prompts) == (True, 2, True)


def run_of(**cluster: Any) -> Any:
    return config_of({"model": {"path": "a/b"}, "data": {"path": "c/d"}, "cluster": cluster}, "a file")


def test_what_cannot_work_is_refused() -> None:
    for settings, told in (
        ({"wandb_project": "p"}, "wandb_project is set, and report_to"),
        ({"log_completions": True, "logged_groups_per_step": 0}, "log_completions with logged_groups_per_step 0"),
        ({"push_to_hub": {"hub_model_id": "a/b/c"}}, "'a/b/c' is not the name of a repository"),
        ({"report_to": ["mlflow"]}, "is not one of the choices"),
        ({"push_to_hub": {"hub_strategy": "checkpoint"}}, "is not one of the choices"),
    ):
        with pytest.raises(ConfigError, match=told):
            run_of(**settings)


def test_the_sections_are_read_back() -> None:
    config = run_of(report_to="wandb", wandb_project="p", push_to_hub={"hub_model_id": "me/model"})
    tree = parse_yaml(dump_config(config))
    assert isinstance(tree, dict) and config_of(tree, "its own file") == config
