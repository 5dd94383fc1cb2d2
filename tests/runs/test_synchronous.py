"""Test that a synchronous run is reproducible bit by bit, also across a kill -9 and a resume, and with evaluations beside it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean

import psutil
import pyarrow.parquet as pq
import pytest

from tests import REPOSITORY
from tests.runs.training import SMALL, Training, learnt, run_to_end, training

SYNCHRONOUS = (*SMALL, "cluster.max_staleness=0", "cluster.save_steps=3")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Training:
    return run_to_end(tmp_path_factory.mktemp("runs") / "whole", *SYNCHRONOUS, f"model.path={tiny_model}")


@dataclass
class Interrupted:
    """A run with evaluations beside it that was killed, and then resumed to its end."""

    resumed: Training
    steps_before: list[dict[str, float]]
    """Steps logged before the kill."""
    alive: list[psutil.Process]
    """Our processes that outlived the killed driver."""
    ray_folder: Path
    """Folder of the killed driver's Ray."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Interrupted:
    out_dir = tmp_path_factory.mktemp("runs") / "interrupted"
    settings = (*SYNCHRONOUS, f"model.path={tiny_model}", "evaluation.steps=2", "evaluation.num_generations=3")
    with training(out_dir, *settings) as killed:
        killed.wait_for_step(4)
        # Ray's two agents notice the end of their raylet only after about a minute. None of our processes may live as long.
        ours = [process for name in ("Worker", "EngineCore", "grader_process") for process in killed.descendants(name)]
        (folder,) = killed.ray_folders()
        killed.process.kill()
        killed.finish()
    assert len(ours) >= 5
    _, alive = psutil.wait_procs(ours, timeout=15)
    before = steps_of(killed)
    return Interrupted(run_to_end(out_dir, *settings), before, alive, folder)


def steps_of(run: Training) -> list[dict[str, float]]:
    """Return the lines of steps, without those of evaluations."""
    return [line for line in run.metrics() if "time" in line]


OF_OTHER_RUNS = {
    "train/accuracy", "policy_loss", "kl", "cispo_clip_ratio", "mfu", "eval/*/accuracy", "eval/*/accuracy_low", "eval/*/accuracy_high", "eval/*/pass@*",
    "eval/*/maj@*", "completions/mean_terminated_length", "completions/min_terminated_length", "completions/max_terminated_length", "eval/loss",
    "train/mean_token_accuracy", "eval/mean_token_accuracy", "epoch",
}  # fmt: skip
"""Documented metrics that a run has under other settings, on a GPU, where completions end by themselves, or with a reward that judges answers."""


def documented_metrics() -> set[str]:
    """Read the names in the tables of docs/metrics.md as patterns: `rewards/<name>/mean`, `/std` are `rewards/*/mean` and `rewards/*/std`."""
    found: set[str] = set()
    for line in (REPOSITORY / "docs" / "metrics.md").read_text().splitlines():
        last = ""
        for name in re.findall(r"`([^`]+)`", line.split("|")[1] if line.startswith("| `") else ""):
            pattern = re.sub(r"<\w+>", "*", name)
            if pattern.startswith("/"):
                pattern = last.rpartition("/")[0] + pattern
            elif pattern.startswith("_"):
                pattern = last + pattern
            else:
                last = pattern
            found.add(pattern)
    return found


def final_adapter(run: Training) -> str:
    return hashlib.sha256((run.out_dir / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_killed_run_leaves_no_process_and_no_folder_of_ray(interrupted: Interrupted) -> None:
    assert not interrupted.alive, f"a killed driver leaves {interrupted.alive}"
    assert not interrupted.ray_folder.exists(), "the folder of the killed driver's Ray"


@pytest.mark.slow
def test_two_runs_of_one_seed_are_equal_with_and_without_evaluations(uninterrupted: Training, interrupted: Interrupted) -> None:
    """The steps before the kill. Evaluations share engines and graders with the run."""
    assert learnt(interrupted.steps_before)[:3] == learnt(uninterrupted.metrics())[:3]


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_curve_of_the_uninterrupted_one(uninterrupted: Training, interrupted: Interrupted) -> None:
    """The resumed run also had evaluations beside it; the uninterrupted one had none."""
    resumed = interrupted.resumed
    assert "resuming from" in resumed.output()
    assert learnt(steps_of(resumed)) == learnt(uninterrupted.metrics())
    assert final_adapter(resumed) == final_adapter(uninterrupted)
    assert resumed.summary()["accounting"] == uninterrupted.summary()["accounting"]


@pytest.mark.slow
def test_a_run_goes_on_from_an_older_checkpoint_and_keeps_what_it_did_after_it(
    uninterrupted: Training, tiny_model: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    again = shutil.copytree(uninterrupted.out_dir, tmp_path / "again", ignore=shutil.ignore_patterns("logs"))
    older = again / "checkpoints" / "step-000003"
    resumed = run_to_end(again, *SYNCHRONOUS, f"model.path={tiny_model}", options=("--resume", str(older)))
    aside = again / "abandoned" / "after-step-000003"
    assert f"resuming from {older} (step 3)" in resumed.output() and "is set aside in" in resumed.output()
    assert {path.name for path in aside.iterdir()} >= {
        "checkpoints",
        "completions",
        "metrics.jsonl",
        "summary.json",
        "adapter",
        "tensorboard",
    }
    assert [json.loads(line)["step"] for line in (aside / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    for folder, steps in ((aside, (4, 5, 6)), (again, range(1, 7))):
        assert sorted(path.name for path in (folder / "completions").iterdir()) == [f"step-{step:06d}.parquet" for step in steps]
    assert learnt(resumed.metrics()) == learnt(uninterrupted.metrics()) and final_adapter(resumed) == final_adapter(uninterrupted)
    events = EventAccumulator(str(again / "tensorboard")).Reload().Scalars("train/reward")
    assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in sorted((again / "checkpoints").iterdir())] == ["step-000003", "step-000006"]


@pytest.mark.slow
def test_each_evaluation_measures_one_policy_version_alone(interrupted: Interrupted) -> None:
    evaluated = interrupted.resumed
    evaluations = [line for line in evaluated.metrics() if "time" not in line]
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
    """Both sides compute in float32 with the same policy, so only the order of summation differs. The design demands less than 1e-5 nats."""
    metrics = uninterrupted.metrics()
    assert max(step["sampling/logp_difference/max"] for step in metrics) < 1e-5
    assert max(step["sync/canary_difference"] for step in metrics if "sync/canary_difference" in step) < 1e-5
    assert all(step["train/grad_norm"] > 0 for step in metrics)


@pytest.mark.slow
def test_what_a_reward_logs_reaches_every_sink(uninterrupted: Training) -> None:
    """`digit_share` logs the mean length of a group in characters."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged = [step["characters"] for step in uninterrupted.metrics()]
    assert len(logged) == 6 and all(length > 0 for length in logged)
    events = EventAccumulator(str(uninterrupted.out_dir / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("characters")] == pytest.approx(logged, rel=1e-6), "float32"


@pytest.mark.slow
def test_the_metrics_of_a_run_are_those_of_the_docs(interrupted: Interrupted) -> None:
    documented = documented_metrics()
    logged = {name for line in interrupted.resumed.metrics() for name in line} - {"step", "time", "characters"}
    undocumented = {name for name in logged if not any(fnmatchcase(name, pattern) for pattern in documented)}
    assert not undocumented, "add them to docs/metrics.md"
    absent = {pattern for pattern in documented - OF_OTHER_RUNS if not any(fnmatchcase(name, pattern) for name in logged)}
    assert not absent, "a synchronous run with evaluations should have logged them"
    assert documented >= OF_OTHER_RUNS


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
