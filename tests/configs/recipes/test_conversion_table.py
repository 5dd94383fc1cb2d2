"""The tables of a conversion: which settings the short form shows, and that no width breaks a name or loses a value."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from configs.recipes.command_line import Arguments, convert_recipe, read_recipe
from configs.recipes.conversion_table import folded, show_rows
from configs.recipes.draft import Row
from configs.recipes.kinds import GRPO, SFT
from configs.yaml_files import YamlValue, read_yaml
from tests import REPOSITORY

RECIPES = sorted((REPOSITORY / "examples" / "recipes").glob("**/*.yaml"))
ACCELERATE = REPOSITORY / "examples" / "recipes" / "zero2.yaml"
WIDTHS = (60, 80, 120, 200)


def table(rows: list[Row], width: int = 120, *, verbose: bool = False) -> str:
    console = Console(file=StringIO(), width=width, emoji=False)
    show_rows(rows, console, verbose=verbose)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def conversion(path: Path, width: int, tmp_path: Path, *arguments: str, verbose: bool = False) -> str:
    console = Console(file=StringIO(), width=width, emoji=False)
    sft = path.parent.name == "sft"
    convert_recipe([str(path), *arguments], ACCELERATE, tmp_path / "run.yaml", console, sft=sft, verbose=verbose)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def words(text: str) -> set[str]:
    """The words of a text, without the lines of a table and with the parts of a dotted key or a path one by one."""
    return set(re.split(r"[\s│─./:,]+", text))


@pytest.mark.parametrize("path", [path for path in RECIPES if path != ACCELERATE], ids=lambda path: path.stem)
def test_no_width_breaks_a_name_or_loses_a_value(path: Path, tmp_path: Path) -> None:
    whole = words(conversion(path, 1000, tmp_path, verbose=True))
    for width in WIDTHS:
        shown = conversion(path, width, tmp_path, verbose=True)
        table_lines = shown.partition("\n")[2].rpartition("written:")[0].splitlines()
        assert max(map(len, table_lines)) <= width
        assert words(shown) == whole, width


def test_the_short_form_leaves_out_only_what_keeps_its_name_and_value() -> None:
    kept = [
        Row("beta", 0.04, "learner.beta", 0.04),
        Row("lora_r", 16, "model.lora.r", 16),
        Row("report_to", "wandb", "cluster.report_to", ["wandb"]),
    ]
    told = [
        Row("model_name_or_path", "a/b", "model.path", "a/b"),
        Row("qlora", False, "model.quantization", "none"),
        Row("dtype", "auto", "model.dtype", "bfloat16"),
        Row("datasets", [{"id": "a", "weight": 0.5}], "data.mixture.datasets", [{"path": "a", "weight": 0.5}]),
        Row("beta2", 0.5, "learner.beta", 0.5),
        Row("epsilon", 0.2, "learner.epsilon", 0.3, "learner.epsilon=0.3 wins"),
        Row("", None, "seed", 42, "the default"),
        Row("packing", True, why="rows are always packed"),
    ]
    short, long = table([*kept, *told]), table([*kept, *told], verbose=True)
    assert "lora_r" not in short and "report_to" not in short and "3 more keys taken as they are (--verbose shows them)" in short
    for row in told:
        assert (row.origin if row.setting else row.outcome) in short and row.why in short
    for row in (*kept, *told):
        assert (row.origin if row.setting else row.outcome) in long
    assert "more key" not in long
    assert "1 more key taken as it is (--verbose shows it)" in table(kept[:1])


def test_a_reason_that_several_keys_share_is_said_once() -> None:
    rows = [Row("", None, f"learner.key_{number}", number, "the default of the trainer") for number in range(3)]
    for width in WIDTHS:
        assert table(rows, width).count("the default of the trainer") == 1


def test_long_values_are_whole_at_every_width(tmp_path: Path) -> None:
    path = "/data/" + "/".join(f"a_folder_with_a_long_name_{number}" for number in range(12)) + "/rows.jsonl"
    rewards = [f"reward_number_{number}" for number in range(12)]
    rows = [Row("dataset_name", path, "data.path", path), Row("reward_funcs", rewards, "rewards.functions", rewards)]
    for width in WIDTHS:
        shown = table(rows, width)
        assert shown.count("a_folder_with_a_long_name_11/") == 2 and shown.count("rows.jsonl") == 2
        assert words(path) | set(rewards) <= words(shown)
    prose = Row("system_prompt", "think " * 100, "data.system_prompt", "think " * 100)
    assert prose.origin.endswith("think ...") and len(prose.origin) < 200


def test_a_long_word_breaks_behind_slashes_and_at_dots_of_keys() -> None:
    assert folded("accelerate: deepspeed_config.deepspeed_multinode_launcher: standard", 32) == [
        "accelerate: deepspeed_config.",
        "  deepspeed_multinode_launcher:",
        "  standard",
    ]
    assert folded("path: /some/where/else", 14) == ["path: /some/", "  where/else"]
    assert folded("learning_rate: 0.00005", 8) == ["learning_rate:", "  0.00005"]
    assert folded("提示: 你是一个谨慎的医生", 14) == ["提示: 你是一个", "  谨慎的医生"]


def test_a_long_word_in_a_reason_is_whole() -> None:
    remedy = "model.chat_template=configs/templates/a_name_that_is_longer_than_the_column.jinja"
    row = Row("template_name", "llama3", "model.chat_template", "configs/templates/llama3.jinja", f"give it to GRPO too: {remedy}")
    for width in WIDTHS:
        shown = table([row], width)
        assert words(remedy) <= words(shown) and "…" not in shown


def test_brackets_in_a_value_are_no_markup() -> None:
    for width in WIDTHS:
        assert "[red]x[/red]" in table(
            [Row("system_prompt", "[red]x[/red]", "data.system_prompt", "[red]x[/red]", "a [b]reason[/b]")], width
        )


def test_settings_that_make_one_key_and_keys_of_one_setting_share_a_row() -> None:
    parts: list[YamlValue] = [{"id": "a/b", "weight": 0.5, "name": None}]
    mixture: YamlValue = {"datasets": parts, "seed": 0, "shuffled": True}
    rows = [
        Row("do_eval", True, "data.eval_samples", 100, "held-out rows"),
        Row("eval_strategy", "steps", "data.eval_samples", 100, "held-out rows"),
        *(Row("dataset_mixture", mixture, f"data.mixture.{key}", value) for key, value in (("seed", 0), ("name", None))),
    ]
    for width in WIDTHS:
        shown = table(rows, width)
        assert [shown.count(text) for text in ("do_eval", "eval_strategy", "data.eval_samples", "dataset_mixture")] == [1, 1, 1, 1]
        assert "data.mixture.seed: 0" in shown and "data.mixture.name: null" in shown and "None" not in shown
    assert rows[-1].origin == "dataset_mixture: {datasets: [{id: a/b, weight: 0.5, name: null}], seed: 0, shuffled: true}"


@pytest.mark.parametrize("path", [path for path in RECIPES if path != ACCELERATE], ids=lambda path: path.stem)
@pytest.mark.parametrize("settings", [{}, {"do_eval": True}, {"do_eval": True, "eval_strategy": "epoch"}], ids=" ".join)
def test_every_key_that_a_recipe_does_not_set_has_its_reason(path: Path, settings: dict[str, YamlValue]) -> None:
    given = {key: value for key, value in read_yaml(path).items() if key not in ("dataset_test_split", "eval_strategy")}
    rows = read_recipe(SFT if path.parent.name == "sft" else GRPO, given, Arguments(None, ACCELERATE, settings, (), ())).rows
    assert [row.outcome for row in rows if not row.setting and not row.why] == []


def test_parameters_that_a_reward_gets_unasked_are_shown_with_their_reason() -> None:
    recipe: dict[str, YamlValue] = {
        "model_name_or_path": "a/b",
        "dataset_name": "c/d",
        "reward_funcs": ["accuracy", "cosine", "cf_code", "format"],
    }
    rows = read_recipe(GRPO, recipe, Arguments(None, None, {}, (), ())).rows
    shown, told = words(table([*rows])), {row.outcome: row.why for row in rows if not row.setting}
    for param in ("accuracy.on_unparsable_answer: skip", "cosine.min_value_wrong: 0", "cf_code.scoring_mode: weighted_sum"):
        assert words(param) <= shown and "Open-R1's" in told[f"rewards.functions, {param}"]
    given = read_recipe(GRPO, recipe | {"cosine_min_value_wrong": -1.0}, Arguments(None, None, {}, (), ())).rows
    assert not [row for row in given if row.target.endswith("cosine.min_value_wrong") and not row.setting]
    medical = read_recipe(GRPO, recipe | {"train_file_dir": "folder"}, Arguments(None, None, {}, (), ())).rows
    assert {"accuracy.answer_style: answer_tag", "format.layout: inline"} <= {row.outcome.partition(", ")[2] for row in medical}
