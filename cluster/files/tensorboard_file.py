"""TensorBoard's event file: records of protocol buffers, each with its length and checksums.

TensorBoard's own writer has a thread, which a full disk ends with a traceback on the terminal; its records are written here instead.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.files.appended_file import AppendedFile
from cluster.files.metrics_file import Row

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]


def new_event_file(folder: Path) -> AppendedFile:
    """Choose an event file that no other process writes."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    return AppendedFile(folder / name, header=_record(Event(wall_time=time.time(), file_version="brain.Event:2")))


def event_record(step: int, metrics: Mapping[str, float], at_s: float | None = None) -> bytes:
    """Make the record of one step's metrics, which were measured at `at_s` (now)."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
    return _record(Event(wall_time=time.time() if at_s is None else at_s, step=step, summary=Summary(value=values)))


def write_events(folder: Path, rows: Sequence[Row]) -> None:
    """Write lines of metrics.jsonl as events. The line of an evaluation has no time; it gets that of the line before."""
    events, at_s = new_event_file(folder), time.time()
    folder.mkdir()
    for row in rows:
        at_s = row.get("time", at_s)
        events.keep(event_record(int(row["step"]), {name: value for name, value in row.items() if name not in ("step", "time")}, at_s))
    events.flush()


def _record(event: Event) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()
