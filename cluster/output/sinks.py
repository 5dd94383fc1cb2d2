"""The sinks of metrics: JSONL and Ray metrics (for Prometheus) always; TensorBoard events and W&B if the run asks for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cluster.output.wandb_sink import WandbSink
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

if TYPE_CHECKING:
    from ray.util.metrics import Gauge
    from tensorboard.summary.writer.event_file_writer import EventFileWriter


@dataclass
class MetricSinks:
    """All sinks of a run. Each step gives them one flat mapping of floats, under the names of docs/metrics.md."""

    folder: Path
    run_name: str
    ray_metrics: bool = True
    tensorboard: bool = True
    wandb: WandbSink | None = None
    _jsonl: IO[str] | None = None
    _events: EventFileWriter | None = None
    _gauges: dict[str, Gauge] = field(default_factory=dict)

    @classmethod
    def open(cls, config: RunConfig | SftConfig, folder: Path, say: Callable[[str], None] = print) -> MetricSinks:
        """Open the sinks of a run.

        Raises:
            ConfigError: W&B refuses the run.
        """
        report_to = config.cluster.report_to
        wandb = WandbSink.open(config, folder, say) if "wandb" in report_to else None
        return cls(folder, folder.name, tensorboard="tensorboard" in report_to, wandb=wandb)

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

    def _emit(self, step: int, extra: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        if self._jsonl is None:
            self._jsonl = (self.folder / "metrics.jsonl").open("a", buffering=1)
        self._jsonl.write(json.dumps({"step": step, **extra, **metrics}) + "\n")
        if self.tensorboard:
            self._emit_events(step, metrics)
        if self.wandb is not None:
            self.wandb.emit(step, metrics)
        if self.ray_metrics:
            self._emit_gauges(metrics)

    def _emit_events(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if self._events is None:
            self._events = EventFileWriter(str(self.folder / "tensorboard"))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _emit_gauges(self, metrics: Mapping[str, float]) -> None:
        from ray.util.metrics import Gauge

        for name, value in metrics.items():
            if name not in self._gauges:
                gauge_name = "rollcast_" + "".join(character if character.isalnum() else "_" for character in name)
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
        if self._jsonl is not None:
            self._jsonl.close()
        if self._events is not None:
            self._events.close()
        if self.wandb is not None:
            self.wandb.close(failed=failed)


def truncate_metrics(file: Path, last_step: int) -> None:
    """Remove the lines after `last_step`: a resumed run writes those steps again."""
    if not file.exists():
        return
    kept = [line for line in file.read_text().splitlines() if line.strip() and json.loads(line)["step"] <= last_step]
    file.write_text("".join(line + "\n" for line in kept))
