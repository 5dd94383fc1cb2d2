"""`stages`: several runs one after another, each starting from the adapter of the previous one.

    out_dir/config.yaml                  the settings with all stages
    out_dir/1-<name>/, 2-<name>/ ...     the run directory of each stage
    out_dir/adapter                      the adapter of the last stage
    out_dir/summary.json, report.html    of all stages

A stage that reached its end is not run again. Any other stage continues from its last checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from cluster.inspection.first_checks import refuse_first
from cluster.models.starting_adapter import with_starting_adapter
from cluster.output.display import RunDisplay
from cluster.output.run_dir import Resume, RunDirectory, ended_well, read_summary
from cluster.report import leave_report
from cluster.train.driver import StepCallback
from cluster.train.grpo import run_training
from configs.contracts.errors import ConfigError
from configs.loading import dump_config, stage_configs
from configs.schema.run import RunConfig
from configs.yaml_files import read_yaml


class StageResult(TypedDict):
    """The result of one stage, as in `summary.json`. Numbers that the stage's own summary does not have are None."""

    name: str
    steps: int | None
    accuracy_before: float | None
    accuracy_after: float | None
    reward_before: float | None
    reward_after: float | None
    exit_reason: str


class StagesSummary(TypedDict):
    """`summary.json` of a run of stages."""

    stages: list[StageResult]
    steps: int
    """Of all stages together."""
    accuracy_before: float | None
    reward_before: float | None
    """Before the first stage."""
    accuracy_after: float | None
    reward_after: float | None
    """After the last stage that ran."""
    exit_reason: str


def run_stages(config: RunConfig, resume: Resume = "auto", callbacks: Sequence[StepCallback] = ()) -> StagesSummary:
    """Run every stage that has not reached its end; returns the content of `summary.json`.

    Args:
        resume: `auto` continues where the stages stopped, `none` starts anew.
        callbacks: called with every finished step of every stage; after a stage that a callback stopped, no other starts.

    Raises:
        ConfigError: `resume` is a checkpoint, `model.adapter` cannot be used, or the settings of a stage cannot work, or its model cannot be trained.
        RollcastError: a stage failed.
    """
    if isinstance(resume, Path):
        raise ConfigError(
            f"--resume {resume}: stages cannot continue from a chosen checkpoint; use --resume auto to continue, or none to start anew"
        )
    for stage in stage_configs(config):
        refuse_first(stage, print)
    config = with_starting_adapter(config)
    stages = stage_configs(config)
    with RunDirectory.open(config.out_dir, resume, folders=()) as directory:
        directory.write("config.yaml", dump_config(config))
        display = RunDisplay()
        if directory.notice:
            display.say(directory.notice)
        summary = _run_in_order(stages, directory, display, callbacks)
        if ended_well(summary):
            shutil.copytree(stages[-1].out_dir / "adapter", directory.path / "adapter", dirs_exist_ok=True)
        display.say(f"stages: {summary['exit_reason']}; summary {directory.path / 'summary.json'}")
        return summary


def _run_in_order(
    stages: tuple[RunConfig, ...], directory: RunDirectory, display: RunDisplay, callbacks: Sequence[StepCallback]
) -> StagesSummary:
    results: list[StageResult] = []
    try:
        for number, stage in enumerate(stages, start=1):
            name = stage.out_dir.name
            display.say(f"\nstage {number} of {len(stages)}: {name}")
            found = read_summary(stage.out_dir)
            if ended_well(found):
                display.say("already finished" + _changed(stage))
            else:
                found = run_training(stage, callbacks=callbacks)
            results.append(_result(name, found))
            if not ended_well(found):
                break
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        directory.write_summary(_summary(results, f"failed: stage {stages[len(results)].out_dir.name}: {reason}"))
        raise
    summary = _summary(results, results[-1]["exit_reason"])
    directory.write_summary(summary)
    leave_report(directory.path, display.say, [directory.path / result["name"] for result in results])
    return summary


def _result(name: str, summary: Mapping[str, object]) -> StageResult:
    """Read the `summary.json` of a stage."""
    steps = summary.get("steps")
    return {
        "name": name,
        "steps": steps if isinstance(steps, int) else None,
        "accuracy_before": _number(summary, "accuracy_before"),
        "accuracy_after": _number(summary, "accuracy_after"),
        "reward_before": _number(summary, "reward_before"),
        "reward_after": _number(summary, "reward_after"),
        "exit_reason": str(summary["exit_reason"]),
    }


def _number(summary: Mapping[str, object], key: str) -> float | None:
    found = summary.get(key)
    return found if isinstance(found, int | float) else None


def _summary(results: list[StageResult], exit_reason: str) -> StagesSummary:
    """Put the results of the stages together."""
    return {
        "stages": results,
        "steps": sum(result["steps"] or 0 for result in results),
        "accuracy_before": results[0]["accuracy_before"] if results else None,
        "reward_before": results[0]["reward_before"] if results else None,
        "accuracy_after": results[-1]["accuracy_after"] if results else None,
        "reward_after": results[-1]["reward_after"] if results else None,
        "exit_reason": exit_reason,
    }


def _changed(stage: RunConfig) -> str:
    """List the settings that have changed since the stage ran. `model` is left out: a run completes it from the adapter."""
    try:
        before = read_yaml(stage.out_dir / "config.yaml")
    except ConfigError:
        return ", with settings that are not known any more, as its config.yaml is damaged"
    was, now = (dict(_flat(tree)) for tree in (before, stage.model_dump(mode="json")))
    changed = [
        f"{key} was {was.get(key)}, not {value}" for key, value in now.items() if not key.startswith("model.") and was.get(key) != value
    ]
    return f", with other settings, which it keeps ({'; '.join(changed)}); --resume none starts anew" if changed else ""


def _flat(tree: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
