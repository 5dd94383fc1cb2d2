"""Launchers' lines and shell scripts, among them MedicalGPT's own (shibing624/MedicalGPT, Apache 2.0, scripts/, unchanged), as arguments."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from configs.contracts.errors import ConfigError
from configs.launch.shell_lines import launch_in, launch_of
from tests import REPOSITORY

KEPT = ("--nproc_per_node", "2", "--beta", "0.01", "--max_steps", "-1")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("COLUMNS", "200")


def refused(*arguments: str) -> str:
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, ConfigError), error
    return str(error)


def dry_run(*arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.parametrize(
    "before",
    [
        "",
        "torchrun",
        "CUDA_VISIBLE_DEVICES=0,1 NCCL_DEBUG=INFO nohup torchrun",
        "python -u",
        "/usr/bin/python3.12",
        "python -m torch.distributed.run",
        "deepspeed",
        "accelerate launch",
        "nohup uv run accelerate launch",
    ],
)
@pytest.mark.parametrize("after", ["", "&", "> log.txt 2>&1 &", ">>log", "2>&1 | tee log", "&& echo done", "\\", "\\ "])
def test_words_of_launchers_and_shells_are_dropped(before: str, after: str) -> None:
    script = ["src/grpo_training.py"] if before else []
    words = [*before.split(), *KEPT[:2], *script, *KEPT[2:], *([after] if after.startswith("\\") else after.split())]
    assert launch_of(words).arguments == KEPT


def test_a_quoted_line_and_a_path_that_looks_like_a_launcher() -> None:
    assert launch_of([f"torchrun {' '.join(KEPT[:2])} x.py {' '.join(KEPT[2:])} &"]).arguments == KEPT
    assert launch_of(["run", "learner.beta=1"]).arguments == ("run", "learner.beta=1")
    assert launch_of(["out.yaml", "out_dir=A=1"]).arguments == ("out.yaml", "out_dir=A=1")


def test_a_script_is_read_with_its_variables_comments_and_continued_lines(tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(
        'MODEL=me/model  # a comment\nexport OUT="runs/a b"\ncd "$(dirname $0)"\necho "--starting"\n\n'
        'python x.py --model_name_or_path ${MODEL} \\  \n  `# QLoRA` \\\n  --output_dir "$OUT" --beta ${BETA:-0.5} \\\n  "$@"\n'
    )
    assert launch_in(script).arguments == ("--model_name_or_path", "me/model", "--output_dir", "runs/a b", "--beta", "0.5")
    script.write_text("python x.py --model_name_or_path $NOWHERE_SET\n")
    with pytest.raises(ConfigError, match=r"uses \$NOWHERE_SET, which neither it nor the environment sets"):
        launch_in(script)
    script.write_text("python a.py --x 1\npython b.py --x 1\n")
    with pytest.raises(ConfigError, match="starts 2 trainings"):
        launch_in(script)


def test_medicalgpts_grpo_script_dry_runs_as_it_is_and_options_win(scripts: Path) -> None:
    output = dry_run("train", str(scripts / "run_grpo.sh"), "--beta", "0.5", "--model_name_or_path", "builtin:tiny_qwen2")
    assert "8 completions = 2 prompts x 4 generations a step" in output and "beta: 0.5" in output
    assert "--beta is given more than once; the last, 0.5, counts" in output


@pytest.mark.parametrize("trainer", ["dpo", "ppo", "orpo"])
def test_scripts_of_other_trainers_are_named(trainer: str, scripts: Path) -> None:
    told = refused("train", str(scripts / f"run_{trainer}.sh"))
    assert f"trains by {trainer.upper()}, and rollcast trains by GRPO" in told


def test_a_script_of_the_other_command_names_it(scripts: Path) -> None:
    assert "use rollcast sft" in refused("train", str(scripts / "run_sft.sh"))
    assert "use rollcast train" in refused("sft", *shlex.split("python grpo_training.py --model_name_or_path x"))
    assert "trains by DPO" in refused("sft", *shlex.split("trl dpo --config x.yaml"))


@pytest.mark.parametrize(
    ("line", "trainer"),
    [
        ("--beta 0.1 --precompute_ref_log_probs true", "DPO"),
        ("--beta 0.1 --loss_type sigmoid", "DPO"),
        ("--desirable_weight 1.0", "KTO"),
        ("--loss_type kto", "KTO"),
        ("--kl_coef 0.05 --num_ppo_epochs 4", "PPO"),
        ("--orpo_beta 0.1", "ORPO"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sft"])
def test_recipes_of_other_trainers_are_named(command: str, line: str, trainer: str) -> None:
    told = refused(command, "--model_name_or_path", "x", *line.split())
    assert trainer in told and "rollcast trains by GRPO (rollcast train)" in told


def test_a_file_of_the_other_command_names_it_and_a_run_directory_means_its_config(tmp_path: Path) -> None:
    assert refused("train", "configs/quickstart_sft.yaml").endswith("use rollcast sft configs/quickstart_sft.yaml")
    assert refused("data", "configs/quickstart_sft.yaml").endswith("use rollcast sft configs/quickstart_sft.yaml")
    assert refused("sft", "configs/quickstart.yaml").endswith("use rollcast train configs/quickstart.yaml")
    assert "is a folder without config.yaml" in refused("train", str(tmp_path))
    (tmp_path / "config.yaml").write_text(Path("configs/quickstart.yaml").read_text())
    assert dry_run("train", str(tmp_path), "seed=77") == dry_run("train", "configs/quickstart.yaml", "seed=77")


def test_an_error_about_a_recipe_names_its_own_settings_and_a_number_of_processes_that_works() -> None:
    recipe = ("train", "examples/recipes/openr1_distill_1.5b.yaml", "--num_generations", "14", "--num_processes")
    told = refused(*recipe, "8", "--dry-run")
    assert "actors.num_generations is num_generations" in told and "per_device_train_batch_size, gradient_accumulation_steps" in told
    assert told.endswith("num_processes 8: with --num_processes 7 it is divisible)")
    assert "448 completions = 32 prompts x 14" in dry_run(*recipe, "7")
