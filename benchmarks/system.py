"""Measure how fast the whole system is, and what limits it: `python benchmarks/system.py [--workload quickstart|ragged|all]`.

Every row is a run of `rollcast train` in a process of its own, on the same model, prompts and settings:

    async      cluster.max_staleness=1, the default
    sync       cluster.max_staleness=0: sample, score, train, broadcast, one after another
    trl        TRL's GRPOTrainer in one process, if `trl` is installed (pip install trl), on as many threads as there are cores

Rounds alternate (async, sync, trl, async, ...), so that a machine whose speed drifts changes all of them alike. Quote the ratios, and run it on an
otherwise idle machine. Start-up, evaluation and the warm start are not timed: completions per second are those of the training steps after the
first three.

Workloads (16 prompts x 8 completions a step, float32, LoRA r 16):
    quickstart   0.6 M parameters, warm-started on addition; about 25 tokens a completion
    ragged       3 M parameters, untrained: lengths are spread over 1..256 tokens, mean about 80. The reward is the share of digits, so that
                 every completion has a gradient. The learning rate is tiny, so that the lengths stay as they are
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
QUICKSTART = REPOSITORY / "configs" / "quickstart.yaml"
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Workload:
    """A model, its data, and the settings that differ from configs/quickstart.yaml."""

    name: str
    model: Path
    data: Path
    max_completion_length: int
    token_budget: int
    reward: str
    learning_rate: float
    steps: int
    trl_steps: int


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="rollcast-bench-") as folder:
        names = ("quickstart", "ragged") if arguments.workload == "all" else (arguments.workload,)
        for name in names:
            workload = make_workload(name, Path(folder) / name, arguments.steps)
            measure(workload, arguments.rounds, Path(folder) / name, with_trl=not arguments.no_trl)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=("quickstart", "ragged", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind (default 2)")
    parser.add_argument("--steps", type=int, default=None, help="optimizer steps of a run (default 40 for quickstart, 12 for ragged)")
    parser.add_argument("--no-trl", action="store_true", help="leave TRL out though it is installed")
    return parser.parse_args()


def make_workload(name: str, folder: Path, steps: int | None) -> Workload:
    """Write the model and the data of a workload."""
    from actors.generated.addition import write_addition
    from learner.model.tiny_model import TinyShape, create_tiny_model

    data = write_addition(folder / "data", seed=0)
    if name == "ragged":
        model = create_tiny_model(folder / "model", seed=0, shape=TinyShape(256, 4, 8, 4, 768))
        return Workload(name, model, data, 256, 4096, "examples/digit_share.py:digit_share", 1e-6, steps or 12, 5)
    print("quickstart: warm-starting the model once", flush=True)
    out_dir = folder / "warm"
    _rollcast(["learner.max_steps=1", "data.eval_samples=0", f"out_dir={out_dir}"])
    return Workload(name, out_dir / "model", data, 40, 2048, "accuracy", 1e-3, steps or 40, 12)


def measure(workload: Workload, rounds: int, folder: Path, with_trl: bool) -> None:
    """Run every kind in turn and print the table."""
    kinds: dict[str, Callable[[Path], dict[str, Any]]] = {
        "async": lambda out_dir: run_rollcast(workload, out_dir, max_staleness=1),
        "sync": lambda out_dir: run_rollcast(workload, out_dir, max_staleness=0),
    }
    if with_trl and importlib.util.find_spec("trl"):
        kinds["trl"] = lambda out_dir: run_trl(workload, out_dir)
    elif with_trl:
        print("trl is not installed: no row for it (pip install trl)")
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for round_number in range(rounds):
        for kind, run in kinds.items():
            found[kind].append(run(folder / f"{kind}-{round_number}"))
            print(f"{workload.name} {kind} round {round_number + 1}: {found[kind][-1]['completions_per_s']:.1f} completions/s", flush=True)
    _print_table(workload, found)


def run_rollcast(workload: Workload, out_dir: Path, max_staleness: int) -> dict[str, Any]:
    """Train once, and return the figures of the steps after the first ones."""
    reward = (
        {"name": workload.reward, "params": {"answer_style": "answer_tag"}} if workload.reward == "accuracy" else {"name": workload.reward}
    )
    _rollcast(
        [
            f"model.path={workload.model}", f"data.path={workload.data}", "data.eval_samples=0", "learner.warm_start=null",
            f"actors.max_completion_length={workload.max_completion_length}", f"learner.token_budget={workload.token_budget}",
            "actors.kv_cache_memory_bytes=536870912", f"rewards.functions={json.dumps([reward])}", f"learner.max_steps={workload.steps}",
            f"cluster.max_staleness={max_staleness}", f"learner.learning_rate={workload.learning_rate}",
            "cluster.save_steps=0", "cluster.logged_groups_per_step=0", f"out_dir={out_dir}",
        ]
    )  # fmt: skip
    steps = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()][WARM_UP_STEPS:]
    summary = json.loads((out_dir / "summary.json").read_text())

    def mean(name: str) -> float:
        return statistics.fmean(step[name] for step in steps if name in step)

    return {
        "completions_per_s": 128 / mean("step_time"),
        "tokens_per_s": 128 * mean("completions/mean_length") / mean("step_time"),
        "step_s": mean("step_time"),
        "generate_s": mean("timing/generate_s"),
        "score_s": mean("timing/score_s"),
        "train_s": mean("timing/train_s"),
        "learner_idle": mean("learner/idle"),
        "rollout_idle": mean("rollout/idle"),
        "step_over_max": mean("step_time") / max(mean("timing/generate_s"), mean("timing/train_s")),
        "sync_p50_s": summary["sync_s"]["p50"],
        "sync_p95_s": summary["sync_s"]["p95"],
        "paused_p50_s": summary["sync_paused_s"]["p50"],
        "sync_bytes": summary["sync_bytes"],
    }


def _rollcast(overrides: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "cluster", "train", str(QUICKSTART), *overrides], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL
    )


def run_trl(workload: Workload, out_dir: Path) -> dict[str, Any]:
    """Train once with TRL on the same model, prompts and settings."""
    command = [
        sys.executable, str(Path(__file__).with_name("trl_grpo.py")), str(workload.model), str(workload.data), str(out_dir),
        "--reward", workload.reward, "--max-completion-length", str(workload.max_completion_length), "--steps", str(workload.trl_steps + WARM_UP_STEPS),
        "--learning-rate", str(workload.learning_rate),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count()), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL, env=environment)
    times_s = json.loads((out_dir / "step_times.json").read_text())[WARM_UP_STEPS:]
    return {"completions_per_s": 128 / statistics.fmean(times_s), "step_s": statistics.fmean(times_s)}


FORMATS = {
    "completions_per_s": "{:.1f}", "tokens_per_s": "{:.0f}", "step_s": "{:.3f}", "generate_s": "{:.3f}", "score_s": "{:.3f}", "train_s": "{:.3f}",
    "learner_idle": "{:.1%}", "rollout_idle": "{:.1%}", "step_over_max": "{:.2f}", "sync_p50_s": "{:.3f}", "sync_p95_s": "{:.3f}",
    "paused_p50_s": "{:.3f}", "sync_bytes": "{:,.0f}",
}  # fmt: skip


def _print_table(workload: Workload, found: dict[str, list[dict[str, Any]]]) -> None:
    print(f"\n{workload.name}: medians over {len(found['async'])} rounds, {os.cpu_count()} cores")
    print(f"{'':20}" + "".join(f"{kind:>14}" for kind in found))
    medians = {kind: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for kind, runs in found.items()}
    for name, form in FORMATS.items():
        print(f"{name:20}" + "".join(f"{form.format(medians[kind][name]) if name in medians[kind] else '-':>14}" for kind in found))
    for other in [kind for kind in found if kind != "async"]:
        ratios = [
            ours["completions_per_s"] / theirs["completions_per_s"] for ours, theirs in zip(found["async"], found[other], strict=True)
        ]
        print(f"async / {other}: {statistics.median(ratios):.2f} (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})")
    print(flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    main()
