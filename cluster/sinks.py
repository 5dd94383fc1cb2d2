"""One emit, every sink: JSONL always, TensorBoard events, Ray metrics for Prometheus, and the completions of sampled groups."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.records import RolloutGroup, ScoredGroup


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
        if self._jsonl is None:
            self._jsonl = (self.folder / "metrics.jsonl").open("a", buffering=1)
        self._jsonl.write(json.dumps({"step": step, "time": time.time(), **metrics}) + "\n")
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


def write_completions(folder: Path, step: int, groups: Sequence[ScoredGroup], bodies: Sequence[pa.Table]) -> Path:
    """One Parquet file for a step: a row a completion, with each reward and outcome and the policy versions."""
    rows: list[dict[str, Any]] = []
    for group, table in zip(groups, bodies, strict=True):
        rows += _completion_rows(step, group, RolloutGroup(table))
    file = folder / f"step-{step:06d}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def _completion_rows(step: int, group: ScoredGroup, body: RolloutGroup) -> list[dict[str, Any]]:
    scores = group.scores
    texts, finish_reasons = body.texts_G, body.finish_reasons_G
    rows = []
    for index in range(len(body)):
        row: dict[str, Any] = {
            "step": step,
            "prompt_id": str(body.prompt_id),
            "completion_index": index,
            "prompt": body.prompt_text,
            "completion": texts[index],
            "finish_reason": finish_reasons[index],
            "tokens": len(body.token_ids_T(index)),
            "policy_versions": [span.version for span in body.spans(index)],
            "reward": scores.rewards_G[index],
        }
        for name, column in scores.columns.items():
            row[f"rewards/{name}"] = column.values_G[index]
            row[f"outcomes/{name}"] = column.outcomes_G[index]
        for name, values in scores.extras.items():
            row[name] = values[index]
        rows.append(row)
    return rows
