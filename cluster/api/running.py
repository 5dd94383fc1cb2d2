"""Run commands from Python: in a script or in a notebook, whose thread has an event loop already."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console

from cluster.api.arguments import checked_callbacks, checked_overrides, checked_path
from cluster.api.inputs import Data, Reward, Settings, SftSettings, load_config, load_sft_config, sft_with_data, with_inputs
from cluster.files.metrics_file import read_rows
from cluster.output.run_dir import Resume, resume_of
from cluster.session import require_no_ray
from cluster.stopping import in_thread
from cluster.train.driver import FinishedStep, StepCallback

if TYPE_CHECKING:
    import pyarrow as pa

    from cluster.comparison.differences import ComparedSet
    from cluster.evaluation.measurement import Evaluation

STOP = "rollcast.STOP"
"""A callback returns it to end the run after the step."""

Callback = Callable[[FinishedStep], object]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class RunResult:
    """The results of a training."""

    out_dir: Path
    exit_reason: str
    """`finished`, or why the run ended before."""
    summary: Mapping[str, Any]
    """The content of summary.json, such as `summary["accuracy_after"]`."""

    @property
    def adapter(self) -> Path | None:
        """The PEFT folder; None if the run left none."""
        return _if_there(self.out_dir / "adapter")

    @property
    def report(self) -> Path | None:
        """The page to open in a browser."""
        return _if_there(self.out_dir / "report.html")

    @property
    def metrics(self) -> pa.Table:
        """A row for each line of metrics.jsonl, a column for each metric; null where a line has none."""
        import pyarrow as pa

        lines = read_rows(self.out_dir / "metrics.jsonl")
        return pa.table({name: [line.get(name) for line in lines] for name in dict.fromkeys(name for line in lines for name in line)})


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def train(
    config: Settings,
    *,
    overrides: Sequence[str] = (),
    data: Data | None = None,
    rewards: Sequence[Reward] | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Resume | str = "auto",
) -> RunResult:
    """Train a model by GRPO, as `rollcast train` does.

    Args:
        config: path of a YAML file or recipe, a mapping of the same content, or a `RunConfig`.
        overrides: `learner.max_steps=10`.
        data: instead of `data.path`: a path, a list of dicts, or a `datasets.Dataset`.
        rewards: instead of `rewards.functions`: names, `file.py:function`, callables, or mappings such as `{"name": reward, "weight": 2}`.
        callbacks: called with every finished step; one that returns `rollcast.STOP` ends the run after it.
        resume: `auto` goes on with an unfinished run, `none` begins anew, a path goes on from that checkpoint.

    Raises:
        RollcastError: of the kind that says what failed.
    """
    from cluster.train.grpo import run_training
    from cluster.train.stages import run_stages

    checked_callbacks(callbacks)
    require_no_ray()
    run, resume = with_inputs(load_config(config, overrides), data, rewards, resume_of(resume))
    start = run_stages if run.stages else run_training
    return _trained(run.out_dir, lambda after_step: start(run, resume, after_step), callbacks)


def sft(
    config: SftSettings,
    *,
    overrides: Sequence[str] = (),
    data: Data | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Resume | str = "auto",
) -> RunResult:
    """Fine-tune a model on demonstrations, as `rollcast sft` does. The arguments are those of `train`."""
    from cluster.train.sft import run_sft

    checked_callbacks(callbacks)
    require_no_ray()
    run, resume = sft_with_data(load_sft_config(config, overrides), data, resume_of(resume))
    return _trained(run.out_dir, lambda after_step: run_sft(run, resume, after_step), callbacks)


def evaluate(
    run: Settings, *, overrides: Sequence[str] = (), adapter: str | Path | None = None, output: str | Path | None = None
) -> list[Evaluation]:
    """Evaluate the model of a run directory or of settings, as `rollcast evaluate` does.

    Args:
        run: a run directory, the path of a YAML file, a mapping of the same content, or a `RunConfig`.
        adapter: a PEFT folder, or `none` for the base model; by default the run's own.
        output: folder for completions and summary; by default `evaluations/TIME` in the run's directory.
    """
    from cluster.evaluation.run import adapter_to_evaluate, load_target, run_evaluation
    from cluster.inspection.first_checks import refuse_serving_first

    console = Console(emoji=False, soft_wrap=True)
    overrides = checked_overrides(overrides)
    require_no_ray()
    config, folder = load_target(str(run), overrides, console) if isinstance(run, str | Path) else (load_config(run, overrides), None)
    _outside_a_loop(lambda: refuse_serving_first(config))
    written = Path(output or (folder or config.out_dir) / "evaluations" / time.strftime("%Y%m%d-%H%M%S"))
    chosen = adapter_to_evaluate(config, folder, None if adapter is None else checked_path(adapter, "adapter"))
    return _outside_a_loop(lambda: run_evaluation(config, folder, chosen, written.absolute(), console))


def compare(*models: str | Path, overrides: Sequence[str] = (), output: str | Path | None = None) -> list[ComparedSet]:
    """Compare models on the same prompts, as `rollcast compare` does: `compare("base", "mine=runs/mine", overrides=["evaluation.data=[gsm8k]"])`."""
    from cluster.comparison.compare import run_comparison
    from cluster.comparison.compared_models import read_arguments

    require_no_ray()
    asked, overrides = read_arguments([checked_path(model, "a model") for model in models]), checked_overrides(overrides)
    return _outside_a_loop(lambda: run_comparison(asked, overrides, Path(output) if output else None, Console(emoji=False, soft_wrap=True)))


def merge(source: str | Path, output: str | Path | None = None, *, base: str | None = None, overwrite: bool = False) -> Path:
    """Merge an adapter into its base model, in bfloat16, as `rollcast merge` does; returns the folder."""
    from cluster.models.merge import find_source, merge_adapter

    found = find_source(Path(checked_path(source, "source")), base)
    for note in found.notes:
        Console(emoji=False, soft_wrap=True).print(note, markup=False, highlight=False)
    return merge_adapter(found, Path(output) if output else None, overwrite=overwrite)[0]


def _trained(out_dir: Path, run: Callable[[Sequence[StepCallback]], Mapping[str, object]], callbacks: Sequence[Callback]) -> RunResult:
    def after_step(step: FinishedStep) -> None:
        for callback in callbacks:
            answer = callback(step)
            if isinstance(answer, str) and answer == STOP:
                step.stop(f"stopped by {getattr(callback, '__name__', type(callback).__name__)}")

    summary = _outside_a_loop(lambda: run((after_step,)))
    return RunResult(out_dir.absolute(), str(summary["exit_reason"]), summary)


def _outside_a_loop(work: Callable[[], Result]) -> Result:
    """Call `work`, which starts an event loop; in a thread of its own where this one has a loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    return in_thread(work)
