"""The sinks of metrics: JSONL and Ray metrics (for Prometheus) always; TensorBoard events and W&B if the run asks for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.files import metrics_file
from cluster.files.appended_file import AppendedFile, FailingWrites
from cluster.files.tensorboard_file import event_record, new_event_file
from cluster.output.wandb_sink import WandbSink
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

if TYPE_CHECKING:
    from ray.util.metrics import Gauge


@dataclass
class MetricSinks:
    """All sinks of a run. Each step gives them one flat mapping of floats, under the names of docs/metrics.md.

    A file that cannot be written, as on a full disk, is said once; what it misses is kept in memory, and written with a later step.
    """

    folder: Path
    run_name: str
    ray_metrics: bool = True
    tensorboard: bool = True
    wandb: WandbSink | None = None
    say: Callable[[str], None] = print
    _jsonl: AppendedFile = field(init=False)
    _events: AppendedFile | None = field(default=None, init=False)
    _rewind_to: int | None = None
    """The step after which lines are still to be removed, where that has failed."""
    _failing: FailingWrites = field(init=False)
    _lost_parts: set[str] = field(default_factory=set)
    """What is lost where it cannot be written, unlike metrics, which are kept."""
    _gauges: dict[str, Gauge] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._jsonl = AppendedFile(self.folder / "metrics.jsonl")
        self._failing = FailingWrites(self.say)

    @classmethod
    def open(cls, config: RunConfig | SftConfig, folder: Path, say: Callable[[str], None] = print) -> MetricSinks:
        """Open the sinks of a run.

        Raises:
            ConfigError: W&B refuses the run.
        """
        report_to = config.cluster.report_to
        wandb = WandbSink.open(config, folder, say) if "wandb" in report_to else None
        return cls(folder, folder.name, tensorboard="tensorboard" in report_to, wandb=wandb, say=say)

    def __enter__(self) -> MetricSinks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def emit(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step's metrics to every sink."""
        self._emit(step, {"time": time.time()}, metrics)

    def emit_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write an evaluation's metrics as a separate line; it may arrive after later steps."""
        self._emit(step, {}, metrics)

    def rewind(self, last_step: int) -> None:
        """Remove the lines after `last_step`: a resumed run, or one that goes on with another learner, writes those steps again."""
        self._jsonl.forget()
        self._rewind_to = last_step
        with self._going_on(self._jsonl):
            self._write_jsonl()

    def going_on(self, what: str, consequence: str) -> AbstractContextManager[None]:
        """Say the first failure to write `what`, and go on: see `FailingWrites`."""
        self._lost_parts.add(what)
        return self._failing.going_on(what, consequence)

    def _emit(self, step: int, extra: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        with self._going_on(self._jsonl):
            self._jsonl.keep(f"{json.dumps({'step': step, **extra, **metrics})}\n".encode())
            self._write_jsonl()
        if self.tensorboard:
            self._emit_events(step, metrics)
        if self.wandb is not None:
            self.wandb.emit(step, metrics)
        if self.ray_metrics:
            self._emit_gauges(metrics)

    def _write_jsonl(self) -> None:
        if self._rewind_to is not None:
            metrics_file.truncate(self._jsonl.path, self._rewind_to)
            self._rewind_to = None
        self._jsonl.flush()

    def _emit_events(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._events is None:
            self._events = new_event_file(self.folder / "tensorboard")
        with self._going_on(self._events):
            self._events.keep(event_record(step, metrics))
            self._events.path.parent.mkdir(exist_ok=True)
            self._events.flush()

    def _going_on(self, file: AppendedFile) -> AbstractContextManager[None]:
        return self._failing.going_on(str(file.path), "what it misses is written with a later step, as soon as that is possible")

    def _emit_gauges(self, metrics: Mapping[str, float]) -> None:
        from ray.util.metrics import Gauge

        for name, value in metrics.items():
            if name not in self._gauges:
                gauge_name = "rollcast_" + "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)
                self._gauges[name] = Gauge(gauge_name, description=name, tag_keys=("run",))
                self._gauges[name].set_default_tags({"run": self.run_name})
            self._gauges[name].set(value)

    def completions(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Write a few completions of a step to the sinks that can show them."""
        if self.wandb is not None:
            self.wandb.completions(step, rows)

    def summarise(self, values: Mapping[str, float]) -> None:
        """Write the results of the whole run to the sinks that can show them."""
        if self.wandb is not None:
            self.wandb.summarise(values)

    def close(self, *, failed: bool = False) -> None:
        """Write what could not be written before, and say what is lost; end W&B."""
        for file in (self._jsonl, self._events):
            if file is not None:
                with self._going_on(file):
                    file.flush()
                if file.kept:
                    self.say(f"WARNING: the last {file.kept} records of {file.path} are lost, as it could not be written")
        for what in self._lost_parts:
            if (count := self._failing.counts[what]) > 1:
                self.say(f"WARNING: {count} times, {what} could not be written")
        if self.wandb is not None:
            self.wandb.close(failed=failed)
