"""A model that cannot be trained is refused by its config.json, first of all: the real commands, a folder without weights, a hub."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.__main__ import app
from configs.contracts.errors import ConfigError
from tests.cluster.hub_server import Repository, running_hub

PHI3 = {"model_type": "phi3", "sliding_window": 100}
GEMMA3 = {"model_type": "gemma3_text", "sliding_window": 512}
GRPO = ("configs/quickstart.yaml", "learner.warm_start=null", "actors.max_completion_length=128", "cluster.report_to=[wandb]")
SFT = ("configs/quickstart_sft.yaml", "cluster.report_to=[wandb]")
STAGES = "stages=[{name: short, data: {max_prompt_length: 8}}, {name: long, data: {max_prompt_length: 99}}]"


@pytest.mark.parametrize(("settings", "told"), [(PHI3, "sees only the last 100 tokens"), (GEMMA3, "layers of kind sliding_attention")])
@pytest.mark.parametrize(
    "command",
    [("train", *GRPO), ("train", *GRPO, STAGES), ("sft", *SFT), ("train", *GRPO, "--dry-run"), ("sft", *SFT, "--dry-run"), ("data", *GRPO)],
    ids=["train", "stages", "sft", "train dry", "sft dry", "data"],
)
def test_every_command_refuses_it_before_wandb_and_leaves_nothing(
    command: tuple[str, ...], settings: dict[str, object], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "")  # were W&B asked first, its error would be another
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings))
    error = CliRunner().invoke(app, [*command, f"model.path={tmp_path}/model", f"out_dir={tmp_path}/run"]).exception
    assert isinstance(error, ConfigError) and told in str(error), error
    assert not (tmp_path / "run").exists()


def test_on_the_hub_it_is_refused_without_torch_and_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom cluster.inspection.dry_run import show_sft_dry_run\nfrom configs.loading import load_sft_config\n"
        "from rich.console import Console\n"
        "for path in ('me/nothing', 'me/gemma'):\n"
        "    try: show_sft_dry_run(load_sft_config('configs/quickstart_sft.yaml', [f'model.path={path}']), Console(quiet=True))\n"
        "    except Exception as error: print(path, error, 'torch' in sys.modules)\n"
    )
    with running_hub() as hub:
        hub.repositories["me/gemma"] = Repository(private=False, branches={"main": {"config.json": json.dumps(GEMMA3).encode()}})
        ran = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=hub.environment(tmp_path), timeout=60, check=True
        )
        assert len(hub.requests) == 2, hub.requests
    assert ran.stdout.startswith("me/gemma model.path me/gemma has layers of kind sliding_attention")
    assert ran.stdout.rstrip().endswith("False"), ran.stdout + ran.stderr
