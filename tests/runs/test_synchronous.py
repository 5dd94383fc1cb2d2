"""A synchronous run is reproducible bit by bit, also across a kill -9 and a resume."""

from __future__ import annotations

import hashlib
from pathlib import Path
from statistics import fmean

import psutil
import pyarrow.parquet as pq
import pytest

from tests.runs.training import SMALL, Training, learnt, run_to_end, training

SYNCHRONOUS = (*SMALL, "cluster.max_staleness=0", "cluster.save_steps=3")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return run_to_end(tmp_path_factory.mktemp("runs") / "whole", *SYNCHRONOUS)


def final_adapter(run: Training) -> str:
    return hashlib.sha256((run.out_dir / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_curve_of_the_uninterrupted_one(uninterrupted: Training, tmp_path: Path) -> None:
    """Also two runs of one seed: the steps before the kill equal the uninterrupted ones."""
    with training(tmp_path / "run", *SYNCHRONOUS) as killed:
        killed.wait_for_step(4)
        # Ray's two agents notice the end of their raylet only after a minute or so; nothing of ours may live as long.
        ours = [process for name in ("Worker", "EngineCore", "grader_process") for process in killed.descendants(name)]
        (folder,) = killed.ray_folders()
        killed.process.kill()
        killed.finish()
    assert len(ours) >= 5
    _, alive = psutil.wait_procs(ours, timeout=15)
    assert not alive, f"a killed driver leaves {alive}"
    before = learnt(killed.metrics())[:3]
    resumed = run_to_end(tmp_path / "run", *SYNCHRONOUS)
    assert "resuming from" in resumed.output()
    assert not folder.exists(), "the folder of the killed driver's Ray"
    expected = learnt(uninterrupted.metrics())
    assert before == expected[:3]
    assert learnt(resumed.metrics()) == expected
    assert final_adapter(resumed) == final_adapter(uninterrupted)
    assert resumed.summary()["accounting"] == uninterrupted.summary()["accounting"]


@pytest.mark.slow
def test_evaluations_beside_it_change_no_bit_of_a_run(uninterrupted: Training, tmp_path: Path) -> None:
    """They share engines and graders with it, and each measures one policy version alone."""
    evaluated = run_to_end(tmp_path / "evaluated", *SYNCHRONOUS, "evaluation.steps=2", "evaluation.num_generations=3")
    lines = evaluated.metrics()
    steps, evaluations = [line for line in lines if "time" in line], [line for line in lines if "time" not in line]
    assert learnt(steps) == learnt(uninterrupted.metrics())
    assert final_adapter(evaluated) == final_adapter(uninterrupted)
    assert evaluated.summary()["accounting"] == uninterrupted.summary()["accounting"]
    versions = [(line["step"], line["eval/held_out/min_policy_version"], line["eval/held_out/max_policy_version"]) for line in evaluations]
    assert versions == [(2, 2, 2), (4, 4, 4), (6, 6, 6)]
    table = pq.read_table(evaluated.out_dir / "evaluations" / "step-000004" / "held_out.parquet").to_pylist()
    assert len(table) == 4 * 3
    assert {tuple(row["policy_versions"]) for row in table} == {(4,)}
    assert fmean(row["reward"] for row in table) == pytest.approx(evaluations[1]["eval/held_out/reward"], rel=1e-12)


@pytest.mark.slow
def test_every_group_is_on_policy_and_the_ledger_balances(uninterrupted: Training) -> None:
    assert [step["staleness/max"] for step in uninterrupted.metrics()] == [0.0] * 6
    accounting = uninterrupted.summary()["accounting"]
    assert (accounting["drawn"], accounting["trained"], accounting["in_flight"], accounting["ready"]) == (24, 24, 0, 0)


@pytest.mark.slow
def test_behaviour_and_learner_logprobs_agree(uninterrupted: Training) -> None:
    """float32 on both sides, on-policy: only the order of summation differs. 1e-5 nats is the bar of the design."""
    metrics = uninterrupted.metrics()
    assert max(step["sampling/logp_difference/max"] for step in metrics) < 1e-5
    assert max(step["sync/canary_difference"] for step in metrics if "sync/canary_difference" in step) < 1e-5
    assert all(step["train/grad_norm"] > 0 for step in metrics)


@pytest.mark.slow
def test_the_run_directory_holds_what_it_should(uninterrupted: Training) -> None:
    found = {str(path.relative_to(uninterrupted.out_dir)) for path in uninterrupted.out_dir.rglob("*") if path.is_file()}
    wanted = {
        "config.yaml", "summary.json", "metrics.jsonl", "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "adapter/README.md",
        "adapter/tokenizer.json", "adapter/chat_template.jinja", "logs/rollout-0.log", "logs/learner-0.log", "logs/reward-0.log",
        "report.html", "checkpoints/step-000003/manifest.json", "checkpoints/step-000006/loop.json", "completions/step-000006.parquet",
    }  # fmt: skip
    assert wanted <= found
    assert any(name.startswith("tensorboard/events") for name in found)
    assert any(name.startswith("logs/ray/") for name in found)
    assert not any(name.endswith((".tmp", "run.lock")) for name in found)
