"""`rollcast convert` and `rollcast train` of a recipe, as a user runs them. Nothing starts: every `train` is a dry run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from cluster.__main__ import app
from cluster.inspection.dry_run import show_dry_run, show_sft_dry_run
from configs.contracts.errors import ConfigError
from configs.loading import load_config, load_sft_config
from configs.recipes.command_line import load_run
from tests import REPOSITORY
from tests.configs.recipes.test_conversion import without_accounts

RECIPES = REPOSITORY / "examples" / "recipes"
GUIDE = [str(RECIPES / "openr1_distill_1.5b.yaml"), "--accelerate", str(RECIPES / "zero2.yaml")]
SHELL_LINE = (
    "--nproc_per_node 2 --model_name_or_path builtin:tiny_qwen2 --train_file_dir data/grpo --reward_weights 1 -0.5 --beta 0.001 --bf16 True"
)


@pytest.fixture(autouse=True)
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "200")


def rollcast(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def shown(*arguments: str) -> str:
    result = rollcast(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def refused(*arguments: str) -> str:
    error = rollcast(*arguments).exception
    assert isinstance(error, ConfigError), error
    return str(error)


def test_the_guides_recipe_dry_runs_to_one_and_seven_gpus() -> None:
    output = shown("train", *GUIDE, "--dry-run")
    assert re.search(r"GPU 0 +│ rollout 0 +│", output) and re.search(r"GPU 7 +│ learner 6 +│", output) and "GPU 8" not in output
    assert "448 completions = 28 prompts x 16 generations a step" in output
    assert "lr_scheduler_type: cosine_with_min_lr" in output
    assert re.search(r"reward_funcs: accuracy, format, tag_count +rewards.functions", output)
    assert re.search(r"learner.beta: 0.04 +TRL's default when such recipes were written", output)
    assert re.search(r"push_to_hub: true +cluster.push_to_hub.hub_strategy: every_save", output)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_command_in_the_head_of_a_config_dry_runs(path: Path) -> None:
    """The commands for one GPU and for several."""
    lines = re.findall(r"^# +rollcast (train|sft) (.+)$", path.read_text(), re.MULTILINE)
    assert f"configs/{path.name}" in [shlex.split(line)[0] for _, line in lines]
    for command, line in lines:
        file, *overrides = shlex.split(line)
        console = Console(width=200, record=True, quiet=True)
        if command == "sft":
            show_sft_dry_run(load_sft_config(REPOSITORY / file, overrides), console)
        else:
            show_dry_run(load_config(REPOSITORY / file, overrides), console)


def test_medical_runs_use_two_gpus_or_share_one() -> None:
    two, one = (
        shown("train", *line.split(), "--dry-run")
        for line in re.findall(r"^# +rollcast train (.+)$", (REPOSITORY / "configs/medical_lora.yaml").read_text(), re.MULTILINE)
    )
    assert re.search(r"GPU 0 +│ rollout 0 +│", two) and re.search(r"GPU 1 +│ learner 0 +│", two)
    assert re.search(r"GPU 0 +│ rollout 0, learner 0 +│", one) and "GPU 1" not in one


def test_a_run_that_was_written_is_the_run_that_is_trained(tmp_path: Path) -> None:
    written = tmp_path / "run.yaml"
    shown("convert", *GUIDE, "--beta", "0.01", "-o", str(written))
    resolved = shown("train", str(written), "--dry-run")
    assert shown("train", *GUIDE, "--dry-run", "--beta", "0.01").endswith(resolved)
    assert "beta: 0.01" in resolved


def test_a_shell_line_needs_no_file() -> None:
    output = shown("train", *shlex.split(SHELL_LINE), "learner.epsilon=0.3", "--dry-run")
    assert "beta: 0.001" in output and "epsilon: 0.3" in output and "16 completions = 2 prompts x 8" in output
    assert re.search(r"weight: -0.5\n", output)


def test_a_launchers_line_works_as_it_is() -> None:
    recipe, _, accelerate = GUIDE
    assert shown("convert", "--config_file", accelerate, "--config", recipe) == shown("convert", *GUIDE)


def test_a_recipe_is_read_once() -> None:
    """From a pipe, as `rollcast train <(make_recipe)` has it, there is nothing to read a second time."""
    read_end, write_end = os.pipe()
    with open(write_end, "wb") as pipe:
        pipe.write(Path(GUIDE[0]).read_bytes())
    try:
        config = load_run([f"/dev/fd/{read_end}", "--config_file", GUIDE[2]], None, Console(quiet=True))
    finally:
        os.close(read_end)
    assert without_accounts(config) == load_config("configs/openr1_distill_1.5b.yaml")


def test_what_is_printed_is_the_file_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster", "convert", *GUIDE]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=True)
    (tmp_path / "run.yaml").write_text(done.stdout)
    assert without_accounts(load_config(tmp_path / "run.yaml")) == load_config("configs/openr1_distill_1.5b.yaml")
    assert "no effect here" in done.stderr and "no effect here" not in done.stdout


def test_a_narrow_terminal_cuts_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = shown("convert", *GUIDE).partition("# Converted")[0]
    assert "gradient_checkpointing_kwargs" in table.replace("\n", "") and "…" not in table


def test_what_is_refused(tmp_path: Path) -> None:
    assert "--bogus: configs/quickstart.yaml is a file of rollcast" in refused(
        "train", "configs/quickstart.yaml", "--bogus", "3", "--dry-run"
    )
    assert "--accelerate: " in refused("train", "configs/quickstart.yaml", *GUIDE[1:], "--dry-run")
    assert "is a run of rollcast already (it has model, data" in refused("convert", "configs/quickstart.yaml")
    assert "there is no such setting of TRL, Open-R1 or MedicalGPT; did you mean beta?" in refused("convert", *GUIDE, "--betta", "1")
    assert "are two recipes" in refused("convert", *GUIDE, "--config", "other.yaml")
    assert "cannot be written" in refused("convert", *GUIDE, "-o", str(tmp_path / "missing" / "run.yaml"))
    (tmp_path / "notes.yaml").write_text("title: a b\n")
    assert "has no setting of a known recipe" in refused("convert", str(tmp_path / "notes.yaml"))
    assert "notes.yaml does not describe a run" in refused("train", str(tmp_path / "notes.yaml"), "--dry-run")


def test_a_misspelt_option_suggests_the_nearest() -> None:
    assert "--resum: configs/quickstart.yaml is a file of rollcast" in refused("train", "configs/quickstart.yaml", "--resum", "none")
    assert "did you mean --resume?" in refused("train", "configs/quickstart.yaml", "--resum", "none")
    assert "did you mean --dry-run?" in refused("train", "configs/quickstart.yaml", "--dryrun")
    assert "did you mean 'learner'?" in refused("train", "configs/quickstart.yaml", "lerner.max_steps=3")


def test_a_cluster_is_named_for_a_recipe_as_well() -> None:
    assert "address: head:6379" in shown("train", *GUIDE, "--dry-run", "--address", "head:6379")
