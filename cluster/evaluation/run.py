"""`rollcast evaluate`: find the model and the prompts, evaluate, print a table and write the completions. `rollcast compare` shares parts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from actors.prompts.eval_sets import EvalSet
from actors.prompts.rendering import load_tokenizer
from cluster.evaluation.evaluate import evaluate, write_answers
from cluster.evaluation.measurement import Answers, Evaluation
from cluster.evaluation.plan import EvaluationPlan
from cluster.evaluation.serving import Serving, serving
from cluster.evaluation.sets import open_sets
from cluster.evaluation.table import evaluation_table, remarks
from cluster.models.base import model_to_serve
from cluster.models.peft_folders import able_to_serve
from cluster.models.starting_adapter import doubt_about_base
from cluster.models.tokenizers import chat_template_of
from cluster.output import checkpoint
from cluster.output.counting import counting
from cluster.session import RaySession
from cluster.stopping import run_until_stopped
from configs.contracts.errors import ConfigError, RunDirectoryError
from configs.loading import config_of, dump_config, read_settings
from configs.recipes.command_line import load_run
from configs.schema.run import RunConfig

NOTHING_WRITTEN = "nothing was written; run the same command again"
"""Ends the error of an evaluation or a comparison that a signal stopped."""

NO_ADAPTER = "none"


def load_target(target: str, overrides: Sequence[str], console: Console) -> tuple[RunConfig, Path | None]:
    """Load the settings of a run directory or of a YAML file; returns them and the directory, None for a file.

    Raises:
        ConfigError: `target` is neither, or the overrides cannot work.
    """
    folder = Path(target)
    if not folder.is_dir():
        return load_run([target, *overrides], None, console), None
    if not (folder / "config.yaml").exists():
        raise ConfigError(f"{folder} holds no run, as it has no config.yaml: give the out_dir of a run, or a YAML file")
    return config_of(read_settings(folder / "config.yaml"), str(folder / "config.yaml"), overrides), folder.absolute()


def adapter_to_evaluate(config: RunConfig, run: Path | None, asked: str | None) -> Path | None:
    """Choose the adapter: the one asked for, or else the run's result, or else its newest checkpoint; without a run, `model.adapter`.

    Args:
        run: directory of the run; None for settings from a YAML file.
        asked: path of an adapter, or `none` for the base model.

    Returns:
        A PEFT folder; None means the base model.

    Raises:
        ConfigError: the run has no adapter yet.
    """
    if asked == NO_ADAPTER:
        return None
    if asked is not None:
        return Path(asked).absolute()
    if run is None:
        return Path(config.model.adapter).absolute() if config.model.adapter else None
    saved = checkpoint.newest(run / "checkpoints", lambda _: None)
    candidates = [run / "adapter", *([saved.learner_folder / "adapter"] if saved else [])]
    found = next((folder for folder in candidates if (folder / "adapter_config.json").exists()), None)
    if found is None:
        raise ConfigError(f"{run} has neither a final adapter nor a checkpoint: give --adapter PATH, or --adapter none for its base model")
    return found


def run_evaluation(config: RunConfig, run: Path | None, adapter: Path | None, output: Path, console: Console) -> list[Evaluation]:
    """Evaluate one model, print its measures, and write `<set>.parquet`, `summary.json` and `config.yaml` into `output`.

    Args:
        config: settings of the run; `evaluation`, `data` and `rewards` decide what is asked and how it is judged.
        run: directory of the run, if it has one.
        adapter: a PEFT folder; None evaluates the base model.

    Raises:
        RollcastError: the subclass tells what failed.
    """
    plan = EvaluationPlan.of(config)
    logs = open_output(output, config)
    model_path = model_to_serve(config, run or output, logs)
    served_config = able_to_serve(with_model_path(config, model_path), [adapter])
    warn_of_base([adapter], model_path, console)
    template = chat_template_of(config, [adapter] if adapter else [])
    model = served_config.model
    tokenizer = load_tokenizer(model_path, template, model.trust_remote_code, model.revision, model.eos_token)
    sets = open_sets(config, tokenizer, output / "data")
    console.print(f"evaluating {adapter or 'the base model'} on {', '.join(each.name for each in sets)}", markup=False, highlight=False)

    async def ask() -> list[Answers]:
        async with serving(served_config, model_path, session.placement(), log_dir=logs, run_name=session.namespace) as served:
            await served.install(adapter)
            return [await evaluate_set(served, each, plan, console) for each in sets]

    with RaySession(served_config, logs, namespace=f"evaluate-{os.getpid()}-{time.time_ns()}", learner=False) as session:
        found = run_until_stopped(ask(), NOTHING_WRITTEN)
    for answers in found:
        write_answers(answers, output / f"{answers.evaluation.name}.parquet")
    evaluations = [answers.evaluation for answers in found]
    _write_summary(output, model_path, adapter, evaluations)
    console.print(evaluation_table(evaluations))
    for line in remarks(evaluations):
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"completions and summary: {output}", markup=False, highlight=False, soft_wrap=True)
    return evaluations


def _write_summary(output: Path, model_path: str, adapter: Path | None, evaluations: Sequence[Evaluation]) -> None:
    sets = [each.model_dump(mode="json") for each in evaluations]
    summary = {"model": model_path, "adapter": str(adapter) if adapter else None, "sets": sets}
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def with_model_path(config: RunConfig, model_path: str) -> RunConfig:
    """`config` with `model.path` set to the model that the engines load; adapters are validated against its shapes.

    A revision belongs to the hub model that it was given for, and is dropped with the path.
    """
    if model_path == config.model.path:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"path": model_path, "revision": None})})


def warn_of_base(adapters: Iterable[Path | None], model_path: str, console: Console) -> None:
    """Say which adapters were trained on other weights than those that the engines load."""
    for adapter in adapters:
        if adapter is not None and (doubt := doubt_about_base(adapter, model_path)) is not None:
            console.print(doubt, style="yellow", markup=False, highlight=False, soft_wrap=True)


def open_output(output: Path, config: RunConfig) -> Path:
    """Make the output folder and write the settings into it; returns its folder for logs.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    try:
        (output / "logs").mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(dump_config(config))
    except OSError as error:
        raise RunDirectoryError(f"{output} cannot be written ({error.strerror}): name another folder by --output") from None
    return output / "logs"


async def evaluate_set(served: Serving, asked: EvalSet, plan: EvaluationPlan, console: Console, label: str = "") -> Answers:
    """Evaluate one data set and show its progress."""
    with counting(f"{label} {asked.name}".strip(), len(asked.prompts), console) as advance:
        return await evaluate(served.rollouts, served.rewards, asked, plan, step=0, on_done=lambda: advance(1))
