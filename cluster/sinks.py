"""One emit, every sink: JSONL always, TensorBoard events, Ray metrics for Prometheus."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass
class MetricSinks:
    """Writes one flat mapping of floats a step to every sink. Names are those of docs/metrics.md."""

    folder: Path
    run_name: str
    ray_metrics: bool = True
    _jsonl: IO[str] | None = None
    _events: Any = None
    _gauges: dict[str, Any] = field(default_factory=dict)

    def emit(self, step: int, metrics: Mapping[str, float]) -> None:
        """What a step was."""
        self._emit(step, {"time": time.time()}, metrics)

    def emit_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """What an evaluation of the policy after a step gave: a line of its own, as it may come when later steps are done."""
        self._emit(step, {}, metrics)

    def _emit(self, step: int, extra: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        if self._jsonl is None:
            self._jsonl = (self.folder / "metrics.jsonl").open("a", buffering=1)
        self._jsonl.write(json.dumps({"step": step, **extra, **metrics}) + "\n")
        self._emit_events(step, metrics)
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

    def close(self) -> None:
        if self._jsonl is not None:
            self._jsonl.close()
        if self._events is not None:
            self._events.close()


def truncate_metrics(file: Path, last_step: int) -> None:
    """Remove the lines after `last_step`: a resumed run writes those steps again."""
    if not file.exists():
        return
    kept = [line for line in file.read_text().splitlines() if line.strip() and json.loads(line)["step"] <= last_step]
    file.write_text("".join(line + "\n" for line in kept))
