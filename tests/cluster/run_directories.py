"""Make run directories with the sinks of a real run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.evaluation.measurement import Evaluation
from cluster.evaluation.statistics import wilson
from cluster.output.completions import completion_rows, write_completions
from cluster.output.run_dir import RunDirectory
from cluster.output.sinks import MetricSinks
from configs.contracts.records import Grades, Outcome, ScoredGroup, Scores
from configs.loading import dump_config, load_config
from tests import REPOSITORY
from tests.bodies import NO_BODY
from tests.rewards.groups import rollout_group, summary_of

QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"


def metrics_of(step: int, steps: int) -> dict[str, float]:
    """The metrics of one step of a run with three rewards, in round numbers."""
    progress = step / steps
    metrics = {
        "reward": 1.0 + progress,
        "train/reward": 1.0 + progress,
        "reward_std": 0.5,
        "frac_reward_zero_std": 0.25,
        "train/accuracy": progress,
        "train/loss": -0.01,
        "train/grad_norm": 0.1,
        "train/learning_rate": 1e-3,
        "entropy": 1.0 - progress / 2,
        "num_tokens": 1000.0 * step,
        "packing/fill": 0.9,
        "step_time": 2.0,
        "timing/generate_s": 1.5,
        "timing/score_s": 0.5,
        "timing/train_s": 1.0,
        "timing/wait_s": 0.5,
        "learner/idle": 0.25,
        "rollout/idle": 0.25,
        "rollout/tokens_per_s": 800.0,
        "learner/tokens_per_s": 3000.0,
        "sampling/logp_difference/mean": 1e-6 * (1 + step % 7),
        "sampling/logp_difference/max": 0.1,
        "sync/total_s": 0.05,
        "sync/paused_s": 0.01,
        "sync/bytes": 4096.0,
    }
    for name in ("accuracy", "format", "tag_count"):
        metrics |= {f"rewards/{name}/mean": progress, f"rewards/{name}/std": 0.5}
    for stem, ends in (
        ("completions", ("mean_length", "min_length", "max_length", "clipped_ratio")),
        ("staleness", ("mean", "max")),
        ("sampling/importance_ratio", ("min", "mean", "max")),
        ("clip_ratio", ("low_mean", "high_mean", "region_mean")),
        ("window", ("ready", "in_flight", "reissued_stale")),
    ):
        metrics |= {f"{stem}/{end}": 0.5 + 0.4 * math.sin(step / 9 + len(end)) for end in ends}
    return metrics


def log_steps(folder: Path, rows: Mapping[int, Mapping[str, float]]) -> None:
    """Write the metrics of these steps with the sinks of a run."""
    sinks = MetricSinks(folder, folder.name, ray_metrics=False)
    for step, metrics in rows.items():
        sinks.emit(step, metrics)
    sinks.close()


def log_completions(
    folder: Path, step: int, texts_G: Sequence[str], outcomes_G: Sequence[Outcome] | None = None, reward: str = "accuracy", **columns: Any
) -> Path:
    """Write the completions of one group, the first with reward 0, the next with 1, and so on."""
    (folder / "completions").mkdir(exist_ok=True)
    group = rollout_group(texts_G, index=step, conversational=True, **columns)
    values_G = tuple(float(index) for index in range(len(texts_G)))
    scored: list[Outcome] = ["scored"] * len(texts_G)
    column = Grades(values_G, tuple(outcomes_G or scored))
    scores = Scores(group.prompt_id, 0, values_G, {reward: column}, 0.1)
    rows = completion_rows(step, [ScoredGroup(NO_BODY, summary_of(group), scores)], [group.table], {})
    return write_completions(folder / "completions", step, rows)


def summary_with(exit_reason: str, steps: int) -> dict[str, Any]:
    """Make a `summary.json`."""
    return {
        "accuracy_before": 0.25,
        "accuracy_after": 0.8,
        "steps": steps,
        "sync_s": {"p50": 0.05, "p95": 0.07},
        "accounting": {"drawn": 1234, "trained": 1200, "filtered": 34, "filtered_by_reason": {"equal rewards": 34}},
        "exit_reason": exit_reason,
        "phase_s": {"reading data": 2.0, "training": 100.0},
        "rewards": {"outcomes": {"accuracy": {"scored": 95, "timeout": 5}, "format": {"scored": 100}, "tag_count": {"scored": 100}}},
    }


def make_run(path: Path, steps: int = 60, exit_reason: str = "finished", settings: Sequence[str] = ()) -> Path:
    """Make a whole run: settings, metrics, completions of three steps, evaluations and summary."""
    with RunDirectory.open(path, "none") as directory:
        directory.write("config.yaml", dump_config(load_config(QUICKSTART, [f"learner.max_steps={steps}", f"out_dir={path}", *settings])))
        for when, accuracy in (("before", 0.25), ("after", 0.8)):
            rewards, interval = {"accuracy": accuracy, "format": 1.0}, wilson(accuracy, 10)
            held_out = Evaluation(judge="accuracy", accuracy=accuracy, interval=interval, rewards=rewards, prompts=10)
            directory.write(f"evaluation_{when}.json", held_out.model_dump_json())
        log_steps(path, {step: metrics_of(step, steps) for step in range(1, steps + 1)})
        for step in sorted({1, steps // 2, steps}):
            log_completions(path, step, [f"completion {index} of step {step}" for index in range(8)], solution=f"gold of step {step}")
        directory.write_summary(summary_with(exit_reason, steps))
    return path


def change_metrics(folder: Path, step: int, **changes: float) -> None:
    """Rewrite one step's line as if another clock had measured it."""
    file = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row | (changes if row["step"] >= step else {})) + "\n" for row in rows))
