"""Stages, as far as no stage has to be trained: what finished stages leave is read, put together and copied."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.train.stages import run_stages
from configs.loading import dump_config, load_config, stage_configs

STAGES = "stages=[{name: few, learner: {beta: 0.001}}, {name: strict, learner: {beta: 0.25}}]"


def test_finished_stages_are_not_run_again_and_their_summaries_are_put_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config("configs/quickstart.yaml", [STAGES, f"out_dir={tmp_path}/x"])
    summaries = [
        {"exit_reason": "finished", "steps": 20, "accuracy_before": 0.25, "accuracy_after": 0.5, "reward_before": 1.5},
        {"exit_reason": "data exhausted", "steps": 30, "accuracy_after": 0.75},
    ]
    for stage, summary in zip(stage_configs(config), summaries, strict=True):
        (stage.out_dir / "adapter").mkdir(parents=True)
        (stage.out_dir / "adapter" / "adapter_config.json").write_text(stage.out_dir.name)
        (stage.out_dir / "config.yaml").write_text(dump_config(stage))
        (stage.out_dir / "summary.json").write_text(json.dumps(summary))
    found = run_stages(config)
    assert found == json.loads((tmp_path / "x/summary.json").read_text())
    assert found == {
        "stages": [
            {
                "name": "1-few",
                "steps": 20,
                "accuracy_before": 0.25,
                "accuracy_after": 0.5,
                "reward_before": 1.5,
                "reward_after": None,
                "exit_reason": "finished",
            },
            {
                "name": "2-strict",
                "steps": 30,
                "accuracy_before": None,
                "accuracy_after": 0.75,
                "reward_before": None,
                "reward_after": None,
                "exit_reason": "data exhausted",
            },
        ],
        "steps": 50,
        "accuracy_before": 0.25,
        "accuracy_after": 0.75,
        "reward_before": 1.5,
        "reward_after": None,
        "exit_reason": "data exhausted",
    }
    assert (tmp_path / "x/adapter/adapter_config.json").read_text() == "2-strict"
    assert (tmp_path / "x/report.html").exists()
    assert capsys.readouterr().out.count("already finished\n") == 2


@pytest.mark.parametrize("content", ["[", "[]", "null", "\0"])
def test_a_damaged_config_of_a_finished_stage_does_not_end_the_run(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config("configs/quickstart.yaml", [STAGES, f"out_dir={tmp_path}/x"])
    for stage in stage_configs(config):
        (stage.out_dir / "adapter").mkdir(parents=True)
        (stage.out_dir / "adapter" / "adapter_config.json").write_text("{}")
        (stage.out_dir / "config.yaml").write_text(content)
        (stage.out_dir / "summary.json").write_text('{"exit_reason": "finished", "steps": 1}')
    assert run_stages(config)["steps"] == 2
    assert capsys.readouterr().out.count("with settings that are not known any more") == 2
