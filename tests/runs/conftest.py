"""Runs that several files look at."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.runs.training import SFT, SMALL, Training, run_to_end, training

SHORT_SFT = (
    "data.train_samples=1000",
    "learner.max_steps=40",
    "learner.eval_steps=15",
    "cluster.save_steps=10",
    "data.eval_samples=20",
    "model.lora.dropout=0.1",
)
STAGES = "stages=[{name: few, data: {train_samples: 200}}, {name: all, learner: {beta: 0.01, learning_rate: 5.0e-4}}]"


@dataclass(frozen=True)
class KilledStages:
    """Two stages of GRPO on a merged adapter, killed in the second one and run again to the end."""

    ended: Training
    first_metrics: bytes
    """metrics.jsonl of the first stage at the time of the kill."""


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return run_to_end(tmp_path_factory.mktemp("runs") / "sft", *SHORT_SFT, command=SFT)


@pytest.fixture(scope="session")
def killed_stages(tuned: Training, tmp_path_factory: pytest.TempPathFactory) -> KilledStages:
    """The learning rate is so large that the few steps change greedy answers."""
    folder = tmp_path_factory.mktemp("runs") / "stages"
    settings = (*SMALL, "learner.beta=0.001", "learner.max_steps=4", "learner.learning_rate=0.02", "learner.warmup_steps=0")
    settings += ("cluster.max_staleness=0", "cluster.save_steps=1", STAGES)
    settings += (f"model.adapter={tuned.out_dir}/adapter", "model.merge_adapter=true")
    with training(folder, *settings) as killed:
        killed.stage("2-all").wait_for_step(2)
        killed.process.kill()
        killed.finish()
    first = (folder / "1-few/metrics.jsonl").read_bytes()
    return KilledStages(run_to_end(folder, *settings), first)
