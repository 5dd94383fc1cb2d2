"""`rollcast sft` and stages on the command line, as far as nothing is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from cluster.output.display import RunDisplay
from cluster.output.run_dir import RunDirectory
from cluster.train.prepare import _compare_end_tokens, _compare_templates
from cluster.train.prepare_sft import prepare_sft
from cluster.train.stages import run_stages
from configs.contracts.errors import ConfigError
from configs.loading import load_config, load_sft_config
from learner.model.tiny_model import CHAT_TEMPLATE, build_tokenizer

STAGES = "stages=[{name: few, learner: {beta: 0.001}}, {name: strict, learner: {beta: 0.25}}]"


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_a_dry_run_shows_ranks_batch_and_memory(tmp_path: Path) -> None:
    output = shown("sft", "configs/quickstart_sft.yaml", "--dry-run", "--address", "local", f"out_dir={tmp_path}/x")
    assert "address: local" in output and "learner 0" in output and "rollout" not in output
    assert "batch: 32 sequences a step" in output and "optimizer state" in output
    assert not (tmp_path / "x").exists()


def test_a_dry_run_shows_every_stage(tmp_path: Path) -> None:
    output = shown("train", "configs/quickstart.yaml", STAGES, f"out_dir={tmp_path}/x", "--dry-run")
    first, _, second = output.partition("# stage 2 of 2: 2-strict")
    assert "# stage 1 of 2: 1-few" in first and "beta: 0.001" in first and "beta: 0.25" in second
    assert f"adapter: {tmp_path}/x/1-few/adapter" in second.replace("\n", "") and "adapter: null" in first


@pytest.mark.parametrize(
    "command", [("sft", "configs/quickstart_sft.yaml"), ("train", "configs/quickstart.yaml"), ("train", "configs/quickstart.yaml", STAGES)]
)
def test_a_dry_run_tells_that_a_finished_run_is_begun_anew(tmp_path: Path, command: tuple[str, ...]) -> None:
    with RunDirectory.open(tmp_path / "x", "auto") as directory:
        (directory.checkpoints / "step-000003").mkdir()
        directory.write_summary({"exit_reason": "finished", "steps": 3})
    given = (*command, "--dry-run", f"out_dir={tmp_path}/x", "learner.max_steps=5")
    assert f"{tmp_path}/x had a finished run of 3 steps: it is kept as {tmp_path}/x.1, and this run begins anew" in shown(*given)
    assert "begins anew" not in shown(*given, "--resume", f"{tmp_path}/x/checkpoints/step-000003")
    assert (tmp_path / "x/summary.json").exists(), "a dry run moves nothing"


def test_stages_resume_by_themselves(tmp_path: Path) -> None:
    config = load_config("configs/quickstart.yaml", [STAGES, f"out_dir={tmp_path}/x"])
    with pytest.raises(ConfigError, match="cannot continue from a chosen checkpoint; use --resume auto to continue, or none"):
        run_stages(config, tmp_path / "x/2-strict/checkpoints/step-000001")


@pytest.mark.parametrize(("template", "told"), [(CHAT_TEMPLATE, False), (CHAT_TEMPLATE + "!", True)])
def test_another_chat_template_than_the_adapters_is_told(
    tmp_path: Path, template: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = build_tokenizer()
    trained.save_pretrained(tmp_path)
    now = build_tokenizer()
    now.chat_template = template
    _compare_templates(str(tmp_path), now, RunDisplay())
    assert ("trained with another chat template" in capsys.readouterr().out) == told


@pytest.mark.parametrize(("trained", "told"), [("<|im_end|>", False), ("<think>", True)])
def test_another_end_token_than_the_adapters_is_told(tmp_path: Path, trained: str, told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = build_tokenizer()
    tokenizer.eos_token = trained
    tokenizer.save_pretrained(tmp_path)
    _compare_end_tokens(str(tmp_path), build_tokenizer(), RunDisplay())
    said = "end answers with <think>, and this run ends them with <|im_end|>; to keep it, set model.eos_token=<think>"
    assert (said in capsys.readouterr().out.replace("\n", " ")) == told


@pytest.mark.parametrize(("end", "told"), [("<|im_end|>", False), ("<think>", True)])
def test_answers_that_end_with_another_token_than_engines_stop_at_are_warned_about(
    tmp_path: Path, end: str, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"out_dir={tmp_path / 'run'}", f"model.eos_token={end}", "data.train_samples=4"]
    config = load_sft_config(Path("configs/quickstart_sft.yaml"), settings)
    with RunDirectory.open(config.out_dir, "none") as directory:
        prepare_sft(config, directory, RunDisplay())
    warning = "the chat template makes answers end with '<|im_end|>', and the end token is '<think>': the model will not learn to stop"
    assert (warning in capsys.readouterr().out) == told


@pytest.mark.parametrize("streaming", [False, True])
def test_what_a_fine_tuning_does_not_use_is_told(tmp_path: Path, streaming: bool, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows").mkdir()
    row = {"prompt": "1+1?", "demonstration": "2", "id": 7, "images": ["a.png"]}
    (tmp_path / "rows/a.jsonl").write_text("".join(json.dumps({**row, "prompt": f"{n}+1?"}) + "\n" for n in range(8)))
    (tmp_path / "rows/more.txt").write_text("left out")
    settings = [
        f"out_dir={tmp_path / 'run'}",
        f"data.path={tmp_path}/rows",
        "data.eval_samples=0",
        f"data.streaming={streaming}",
        "learner.max_steps=2",
    ]
    config = load_sft_config(Path("configs/quickstart_sft.yaml"), settings)
    with RunDirectory.open(config.out_dir, "none") as directory:
        prepare_sft(config, directory, RunDisplay())
    said = capsys.readouterr().out
    assert f"WARNING: not read, in folder {tmp_path}/rows: more.txt" in said
    assert "WARNING: column 'images' (first [\"a.png\"]) is used by nothing; rows with them cannot be trained on here" in said
    assert said.count("columns that nothing uses, with their first value: id (7)\n") == 1
