"""A run that is resumed from an older checkpoint goes on from there; what it did after it is kept, and does not stand in its way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.output import checkpoint
from cluster.output.checkpoint import Checkpoint
from cluster.output.set_aside import set_aside_after, set_aside_damaged
from cluster.output.sinks import MetricSinks


def save(run: Path, step: int, keep: int | None = None) -> Path:
    run.mkdir(exist_ok=True)
    folder = checkpoint.begin(run / "checkpoints", step)
    (folder / "weights").write_text(f"step {step}")
    return checkpoint.finish(folder, {"step": step, "identity": {}}, keep)


def newest(run: Path) -> Checkpoint:
    found = checkpoint.newest(run / "checkpoints")
    assert found is not None
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run of eight steps that ended well: a checkpoint at every second step, an evaluation at every fourth."""
    run = tmp_path / "run"
    with MetricSinks(run, "run", ray_metrics=False) as sinks:
        (run / "completions").mkdir(parents=True)
        for step in range(1, 9):
            sinks.emit(step, {"train/reward": float(step)})
            (run / "completions" / f"step-{step:06d}.parquet").write_text("rows")
            if step % 2 == 0:
                save(run, step)
            if step % 4 == 0:
                sinks.emit_evaluation(step, {"eval/held_out/reward": float(step)})
                (run / "evaluations" / f"step-{step:06d}").mkdir(parents=True)
    (run / "adapter").mkdir()
    for name in ("summary.json", "report.html", "evaluation_before.json", "evaluation_after.json"):
        (run / name).write_text('{"exit_reason": "finished"}')
    return run


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def curve(folder: Path) -> list[tuple[int, float]]:
    """Read the reward from the events of TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return [(event.step, event.value) for event in EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("train/reward")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_older_checkpoint_becomes_the_newest_and_nothing_is_lost(run: Path) -> None:
    told = set_aside_after(run, checkpoint.read(run / "checkpoints" / "step-000004"))
    assert newest(run).step == 4
    save(run, 5, keep=1)
    assert names(run / "checkpoints") == ["step-000005"], "the next checkpoint is not pruned in favour of an abandoned one"
    aside = run / "abandoned" / "after-step-000004"
    assert names(aside / "checkpoints") == ["step-000006", "step-000008"]
    assert checkpoint.read(aside / "checkpoints" / "step-000008").step == 8
    assert "step-000006" in told[0] and "step-000008" in told[0] and str(aside) in told[0] and "lines of metrics.jsonl" in told[0]
    assert told[1] == f"to go back to it: --resume {aside / 'checkpoints' / 'step-000008'}"


def test_metrics_completions_evaluations_and_curves_follow(run: Path) -> None:
    set_aside_after(run, checkpoint.read(run / "checkpoints" / "step-000004"))
    aside = run / "abandoned" / "after-step-000004"
    assert logged(run) == [1, 2, 3, 4, 4] and logged(aside) == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert curve(run) == [(step, float(step)) for step in range(1, 5)] and len(curve(aside)) == 8
    assert len(names(run / "completions")) == len(names(aside / "completions")) == 4
    assert names(run / "evaluations") == ["step-000004"] and names(aside / "evaluations") == ["step-000008"]


def test_the_end_that_was_given_up_is_not_taken_for_the_end_of_the_run(run: Path) -> None:
    """Also where nothing was done after the checkpoint, such as for a run that is resumed with more steps."""
    set_aside_after(run, checkpoint.read(run / "checkpoints" / "step-000008"))
    assert names(run / "abandoned" / "after-step-000008") == ["adapter", "evaluation_after.json", "report.html", "summary.json"]
    assert (run / "evaluation_before.json").exists() and len(names(run / "checkpoints")) == 4 and len(logged(run)) == 10


def test_twice_from_the_same_checkpoint_keeps_both(run: Path) -> None:
    for _ in range(2):
        set_aside_after(run, checkpoint.read(run / "checkpoints" / "step-000004"))
        save(run, 6)
    assert names(run / "abandoned") == ["after-step-000004", "after-step-000004.2"]
    assert names(run / "abandoned" / "after-step-000004.2" / "checkpoints") == ["step-000006"]


def test_a_checkpoint_of_another_run_sets_everything_aside(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    head = checkpoint.read(save(other, 2))
    assert set_aside_after(other, head) == [], "nothing else is there"
    set_aside_after(run, head)
    assert names(run / "checkpoints") == [] and logged(run) == [] and names(run / "completions") == []
    assert "evaluation_before.json" in names(run / "abandoned" / "before-resuming-elsewhere")


def test_a_damaged_checkpoint_does_not_count_among_those_that_are_kept(run: Path) -> None:
    (run / "checkpoints" / "step-000008" / "weights").write_text("damaged")
    (line,) = set_aside_damaged(run, newest(run))
    assert "step-000008" in line and newest(run).step == 6
    save(run, 7, keep=1)
    assert newest(run).step == 7
    assert len(logged(run)) == 10, "the steps after it are done again, and cut when training begins"
