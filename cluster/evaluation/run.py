"""`rollcast evaluate`: find base and prompts, evaluate, print a table and write the completions. Other commands use parts of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
from cluster.files.made_folders import taken_back
from cluster.files.whole_files import write_whole
from cluster.models.adapter_base import Base
from cluster.models.base import base_to_serve, require_servable
from cluster.models.peft_folders import able_to_serve
from cluster.models.tokenizers import chat_template_of
from cluster.models.trainable import warnings_of_fit
from cluster.output import checkpoint
from cluster.output.counting import counting
from cluster.session import RaySession
from cluster.stopping import run_until_stopped
from configs.contracts.errors import ConfigError, RunDirectoryError
from configs.loading import config_of, dump_config, read_settings
from configs.recipes.command_line import load_run
from configs.schema.model import BASE_MODEL
from configs.schema.run import RunConfig

NOTHING_WRITTEN = "nothing was written; run the same command again"
"""Last words of the error when a signal stops an evaluation or a comparison."""

NO_ADAPTER = "none"


def load_target(target: str, overrides: Sequence[str], console: Console, *, verbose: bool = False) -> tuple[RunConfig, Path | None]:
    """Load the settings of a run directory or of a YAML file; returns them and the directory, None for a file.

    Args:
        verbose: of a recipe, show the settings too that are taken as they are.

    Raises:
        ConfigError: `target` is neither, or the overrides cannot work.
    """
    folder = Path(target)
    if not folder.is_dir():
        return load_run([target, *overrides], None, console, verbose=verbose), None
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
    with opened_output(output, config, run or output) as logs:
        found = base_to_serve(config, adapter, run or output, logs, insist=names_its_model(config, run))
        require_servable(found.base)
        say(console, found.note)
        served_config = able_to_serve(with_base(config, found.base), [adapter])
        model = served_config.model
        template = chat_template_of(config, [adapter] if adapter else [])
        tokenizer = load_tokenizer(model.path, template, model.trust_remote_code, model.revision, model.eos_token)
        for sentence in warnings_of_fit(served_config, tokenizer, model.path):
            say(console, f"WARNING: {sentence}")
        say(console, f"evaluating {named_model(adapter, found.base)}", style="")
        sets = open_sets(config, tokenizer, output / "data")

    async def ask() -> list[Answers]:
        async with serving(served_config, model.path, session.placement(), log_dir=logs, run_name=session.namespace) as served:
            await served.install(adapter)
            return [await evaluate_set(served, each, plan, console) for each in sets]

    with RaySession(served_config, logs, namespace=f"evaluate-{os.getpid()}-{time.time_ns()}", learner=False) as session:
        answered = run_until_stopped(session.watched(ask()), NOTHING_WRITTEN)
    for answers in answered:
        write_answers(answers, output / f"{answers.evaluation.name}.parquet")
    evaluations = [answers.evaluation for answers in answered]
    _write_summary(output, found.base, adapter, evaluations)
    console.print(evaluation_table(evaluations))
    for line in remarks(evaluations):
        say(console, line)
    say(console, f"completions and summary: {output}", style="")
    return evaluations


def _write_summary(output: Path, base: Base, adapter: Path | None, evaluations: Sequence[Evaluation]) -> None:
    sets = [each.model_dump(mode="json") for each in evaluations]
    summary = {"model": base.path, "weights": base.weights, "adapter": str(adapter) if adapter else None, "sets": sets}
    write_whole(output / "summary.json", json.dumps(summary, indent=2) + "\n")


def names_its_model(config: RunConfig, run: Path | None) -> bool:
    """Return True where the user named the model: in a YAML file, or as `model.path` or `model.revision` over the settings of the run in `run`."""
    if run is None:
        return True
    model = read_settings(run / "config.yaml").get("model")
    return isinstance(model, dict) and (model.get("path"), model.get("revision")) != (config.model.path, config.model.revision)


def with_base(config: RunConfig, base: Base) -> RunConfig:
    """Return the settings with the model that the engines load; the shapes of adapters are checked against it."""
    return config.model_copy(update={"model": config.model.model_copy(update={"path": base.path, "revision": base.revision})})


def named_model(adapter: Path | None, base: Base) -> str:
    """Name the adapter and the base that engines serve, for a message."""
    return f"{adapter} on its base {base.path}" if adapter else f"the base model {base.path}"


def say(console: Console, line: str, style: str = "yellow") -> None:
    """Print a line without markup; an empty line prints nothing."""
    if line:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def opened_output(output: Path, config: RunConfig, made_in: Path) -> Iterator[Path]:
    """Make the output folder, give its folder for logs to the preparation inside, and then write the settings. A refused one leaves nothing.

    Args:
        made_in: where a `builtin:` model is made.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    logs = output / "logs"
    with taken_back(logs, output / "data", made_in / BASE_MODEL):
        with _writing(output):
            logs.mkdir(parents=True, exist_ok=True)
        yield logs
        with _writing(output):
            (output / "config.yaml").write_text(dump_config(config))


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunDirectoryError(f"{output} cannot be written ({error.strerror}): name another folder by --output") from None


async def evaluate_set(served: Serving, asked: EvalSet, plan: EvaluationPlan, console: Console, label: str = "") -> Answers:
    """Evaluate one data set and show its progress."""
    with counting(f"{label} {asked.name}".strip(), len(asked.prompts), console) as advance:
        return await evaluate(served.rollouts, served.rewards, asked, plan, step=0, on_done=lambda: advance(1))
