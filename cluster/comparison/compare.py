"""`rollcast compare`: give several models the same prompts, and show their answers side by side.

The base model and its adapters share one start of the engines, and the adapters are installed one after another. For each whole model, the
engines are started anew.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
from rich.console import Console

from actors.prompts.eval_sets import EvalSet
from actors.prompts.rendering import load_tokenizer
from cluster.comparison.compared_models import CompareArguments, ComparedModel, config_without_file
from cluster.comparison.differences import ComparedSet, compare_set, comparison_table, summary_of
from cluster.comparison.page import write_comparison
from cluster.evaluation.evaluate import answer_rows
from cluster.evaluation.measurement import Answers
from cluster.evaluation.plan import EvaluationPlan
from cluster.evaluation.run import NOTHING_WRITTEN, evaluate_set, load_target, open_output, warn_of_base, with_model_path
from cluster.evaluation.serving import serving
from cluster.evaluation.sets import open_sets
from cluster.evaluation.table import remarks
from cluster.models.base import model_to_serve
from cluster.models.peft_folders import able_to_serve
from cluster.models.tokenizers import chat_template_of, has_tokenizer, refuse_other_tokenizer
from cluster.output.completions import table_of
from cluster.session import RaySession
from cluster.stopping import run_until_stopped
from configs.schema.run import RunConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AnswersByModel = dict[str, list[Answers]]
"""Model name -> its answers, one `Answers` for every data set."""


@dataclass(frozen=True)
class Engine:
    """One start of the engines, and the models that they then serve."""

    config: RunConfig
    model_path: str
    models: Sequence[ComparedModel]


def run_comparison(asked: CompareArguments, settings: Sequence[str], output: Path | None, console: Console) -> list[ComparedSet]:
    """Give every prompt to every model; writes `comparison.parquet`, `comparison.html`, `summary.json` and `config.yaml`.

    Args:
        settings: further settings that override the file's, after `asked.overrides`.
        output: folder to write into; by default `comparisons/TIME` in the run directory, or in the current folder without one.

    Raises:
        RollcastError: its subclass says what failed.
    """
    overrides = [*asked.overrides, *settings]
    if asked.config is None:
        config, run = config_without_file(asked.models, overrides), None
    else:
        config, run = load_target(asked.config, overrides, console)
    plan = EvaluationPlan.of(config)
    home = (run or config.out_dir) if asked.config else Path()
    folder = (output or home / "comparisons" / time.strftime("%Y%m%d-%H%M%S")).absolute()
    logs = open_output(folder, config)
    base_path = model_to_serve(config, run or folder, logs)
    engines = list(_engines(config, base_path, asked.models))
    warn_of_base([one.adapter for one in asked.models], base_path, console)
    tokenizer = _shared_tokenizer(config, engines)
    sets = open_sets(with_model_path(config, base_path), tokenizer, folder / "data")
    said = _ask_all(engines, sets, plan, logs, console)
    by_set = [{one.name: said[one.name][number] for one in asked.models} for number in range(len(sets))]
    compared = [compare_set(answers, plan.seed) for answers in by_set]
    _write(compared, {one.name: one.source if one.source != "the base model" else base_path for one in asked.models}, folder)
    _show(compared, folder, console)
    return compared


def _engines(config: RunConfig, base_path: str, models: Sequence[ComparedModel]) -> Iterator[Engine]:
    on_base = [one for one in models if one.model is None]
    if on_base:
        yield Engine(able_to_serve(with_model_path(config, base_path), [one.adapter for one in on_base]), base_path, on_base)
    for one in models:
        if one.model is not None:
            yield Engine(able_to_serve(with_model_path(config, str(one.model)), []), str(one.model), [one])


def _shared_tokenizer(config: RunConfig, engines: Sequence[Engine]) -> PreTrainedTokenizerBase:
    """Load the tokenizer that renders the prompts for all models.

    Raises:
        ConfigError: the models do not share one, or were saved with different chat templates.
    """
    trusted, eos_token = config.model.trust_remote_code, config.model.eos_token
    folders = {one.name: folder for each in engines for one in each.models if (folder := one.adapter or one.model)}
    first = engines[0]
    with_base = first.models[0].model is None and all(one.adapter is None for one in first.models)
    template = chat_template_of(config, [*([Path(first.model_path)] if with_base else []), *folders.values()])
    tokenizer = load_tokenizer(first.model_path, template, trusted, first.config.model.revision, eos_token)
    for name, folder in folders.items():
        if has_tokenizer(folder) and str(folder) != first.model_path:
            refuse_other_tokenizer(
                name, load_tokenizer(str(folder), template, trusted, eos_token=eos_token), first.models[0].name, tokenizer
            )
    return tokenizer


def _ask_all(engines: Sequence[Engine], sets: Sequence[EvalSet], plan: EvaluationPlan, logs: Path, console: Console) -> AnswersByModel:
    said: AnswersByModel = {}

    async def ask() -> AnswersByModel:
        for number, engine in enumerate(engines):
            run_name = f"{session.namespace}-{number}"
            console.print(f"starting engines on {engine.model_path}", markup=False, highlight=False, soft_wrap=True)
            async with serving(engine.config, engine.model_path, session.placement(), log_dir=logs, run_name=run_name) as served:
                for one in engine.models:
                    await served.install(one.adapter)
                    said[one.name] = [await evaluate_set(served, each, plan, console, one.name) for each in sets]
        return said

    with RaySession(engines[0].config, logs, namespace=f"compare-{os.getpid()}-{time.time_ns()}", learner=False) as session:
        return run_until_stopped(ask(), NOTHING_WRITTEN)


def _write(compared: Sequence[ComparedSet], sources: dict[str, str], folder: Path) -> None:
    rows = [
        {"set": each.name, "model": model} | row
        for each in compared
        for model, answers in each.answers.items()
        for row in answer_rows(answers)
    ]
    pq.write_table(table_of(rows), folder / "comparison.parquet")
    summary = {"models": sources, "sets": summary_of(compared)}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    write_comparison(compared, sources, folder)


def _show(compared: Sequence[ComparedSet], folder: Path, console: Console) -> None:
    for each in compared:
        console.print(comparison_table(each))
        for model, answers in each.answers.items():
            for line in remarks([answers.evaluation], model):
                console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    console.print(f"side by side, for a browser: {folder / 'comparison.html'}", markup=False, highlight=False, soft_wrap=True)
