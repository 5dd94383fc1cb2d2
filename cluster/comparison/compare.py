"""`rollcast compare`: give several models the same prompts, and show their answers side by side.

base and its adapters         one start of the engines; the adapters are installed one after another
adapters of another base      one start on that base, likewise
whole models                  one start for each
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
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
from cluster.evaluation.run import NOTHING_WRITTEN, evaluate_set, load_target, opened_output, say, with_base
from cluster.evaluation.serving import serving
from cluster.evaluation.sets import open_sets
from cluster.evaluation.table import remarks
from cluster.files.whole_files import write_whole
from cluster.fitting.positions import require_positions
from cluster.models.adapter_base import Base, FoundBase, find_base
from cluster.models.base import base_of_settings
from cluster.models.peft_folders import able_to_serve
from cluster.models.tokenizers import chat_template_of, has_tokenizer, refuse_other_tokenizer
from cluster.models.trainable import settings_here, warnings_of_fit
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
    """The settings with the model that the engines load."""
    models: Sequence[ComparedModel]

    @property
    def base(self) -> Base:
        return Base(self.config.model.path, self.config.model.revision)

    @classmethod
    def of(cls, config: RunConfig, base: Base, models: Sequence[ComparedModel]) -> Engine:
        return cls(able_to_serve(with_base(config, base), [one.adapter for one in models]), models)


@dataclass(frozen=True)
class ShownModel:
    """A model as the page names it, and its origin."""

    source: str
    """Folder of the adapter or of the whole model."""
    base: Base
    """The model that its engines loaded."""

    @classmethod
    def of(cls, one: ComparedModel, base: Base) -> ShownModel:
        return cls(str(one.adapter) if one.adapter else base.path, base)

    def __str__(self) -> str:
        return self.source if self.source == self.base.path else f"{self.source} on {self.base.path}"


def run_comparison(
    asked: CompareArguments, settings: Sequence[str], output: Path | None, console: Console, *, verbose: bool = False
) -> list[ComparedSet]:
    """Give every prompt to every model; writes `comparison.parquet`, `comparison.html`, `summary.json` and `config.yaml`.

    Args:
        settings: further settings that override the file's, after `asked.overrides`.
        output: folder to write into; by default `comparisons/TIME` in the run directory, or in the current folder without one.
        verbose: of a recipe, show the settings too that are taken as they are.

    Raises:
        RollcastError: its subclass says what failed.
    """
    overrides = [*asked.overrides, *settings]
    if asked.config is None:
        config, run = config_without_file(asked.models, overrides), None
    else:
        config, run = load_target(asked.config, overrides, console, verbose=verbose)
    plan = EvaluationPlan.of(config)
    home = (run or config.out_dir) if asked.config else Path()
    folder = (output or home / "comparisons" / time.strftime("%Y%m%d-%H%M%S")).absolute()
    with opened_output(folder, config, run or folder) as logs:
        offered = base_of_settings(config, run or folder, logs)
        engines = list(_engines(config, offered, asked.models, console))
        tokenizer = _shared_tokenizer(config, engines)
        for engine in engines:
            require_positions(engine.config, settings_here(engine.base.path, "config.json", engine.base.revision))
            for sentence in warnings_of_fit(engine.config, tokenizer, engine.base.path):
                say(console, f"WARNING: {sentence}")
        sets = open_sets(with_base(config, offered.base), tokenizer, folder / "data")
    said = _ask_all(engines, sets, plan, logs, console)
    by_set = [{one.name: said[one.name][number] for one in asked.models} for number in range(len(sets))]
    compared = [compare_set(answers, plan.seed) for answers in by_set]
    bases = {one.name: engine.base for engine in engines for one in engine.models}
    _write(compared, {one.name: ShownModel.of(one, bases[one.name]) for one in asked.models}, folder)
    _show(compared, folder, console)
    return compared


def _engines(config: RunConfig, offered: FoundBase, models: Sequence[ComparedModel], console: Console) -> Iterator[Engine]:
    """Make an engine for each base that has different weights, and one for each whole model.

    Raises:
        ConfigError: the base of an adapter has changed or is gone.
    """
    on_bases: dict[object, tuple[Base, list[ComparedModel]]] = {}
    for one in models:
        if one.model is None:
            found = find_base(one.adapter, offered.base) if one.adapter else offered
            say(console, found.note)
            key = found.base.weights or (found.base.path, found.base.revision)
            on_bases.setdefault(key, (found.base, []))[1].append(one)
    for base, served in on_bases.values():
        yield Engine.of(config, base, served)
    for one in models:
        if one.model is not None:
            yield Engine.of(config, Base(str(one.model)), [one])


def _shared_tokenizer(config: RunConfig, engines: Sequence[Engine]) -> PreTrainedTokenizerBase:
    """Load the tokenizer that renders the prompts for all models.

    Raises:
        ConfigError: the models do not share one, or were saved with different chat templates.
    """
    trusted, eos_token = config.model.trust_remote_code, config.model.eos_token
    folders = {one.name: folder for each in engines for one in each.models if (folder := one.adapter or one.model)}
    first = engines[0]
    asks_base = first.models[0].model is None and not any(one.adapter for each in engines for one in each.models)
    template = chat_template_of(config, [*([Path(first.base.path)] if asks_base else []), *folders.values()])

    def load(base: Base) -> PreTrainedTokenizerBase:
        return load_tokenizer(base.path, template, trusted, base.revision, eos_token)

    tokenizer = load(first.base)
    others = {f"the base of {each.models[0].name}": each.base for each in engines[1:] if each.models[0].model is None}
    others |= {name: Base(str(folder)) for name, folder in folders.items() if has_tokenizer(folder) and str(folder) != first.base.path}
    for name, base in others.items():
        refuse_other_tokenizer(name, load(base), first.models[0].name, tokenizer)
    return tokenizer


def _ask_all(engines: Sequence[Engine], sets: Sequence[EvalSet], plan: EvaluationPlan, logs: Path, console: Console) -> AnswersByModel:
    said: AnswersByModel = {}

    async def ask() -> AnswersByModel:
        for number, engine in enumerate(engines):
            run_name = f"{session.namespace}-{number}"
            say(console, f"starting engines on {engine.base.path} for {', '.join(one.name for one in engine.models)}", style="")
            async with serving(engine.config, engine.base.path, session.placement(), log_dir=logs, run_name=run_name) as served:
                for one in engine.models:
                    await served.install(one.adapter)
                    said[one.name] = [await evaluate_set(served, each, plan, console, one.name) for each in sets]
        return said

    with RaySession(engines[0].config, logs, namespace=f"compare-{os.getpid()}-{time.time_ns()}", learner=False) as session:
        return run_until_stopped(session.watched(ask()), NOTHING_WRITTEN)


def _write(compared: Sequence[ComparedSet], models: Mapping[str, ShownModel], folder: Path) -> None:
    rows = [
        {"set": each.name, "model": model} | row
        for each in compared
        for model, answers in each.answers.items()
        for row in answer_rows(answers)
    ]
    pq.write_table(table_of(rows), folder / "comparison.parquet")
    sources = {name: shown.source for name, shown in models.items()}
    bases = {name: {"path": shown.base.path, "weights": shown.base.weights} for name, shown in models.items()}
    summary = {"models": sources, "bases": bases, "sets": summary_of(compared)}
    write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_comparison(compared, {name: str(shown) for name, shown in models.items()}, folder)


def _show(compared: Sequence[ComparedSet], folder: Path, console: Console) -> None:
    for each in compared:
        console.print(comparison_table(each))
        for model, answers in each.answers.items():
            for line in remarks([answers.evaluation], model):
                say(console, line)
    say(console, f"side by side, for a browser: {folder / 'comparison.html'}", style="")
