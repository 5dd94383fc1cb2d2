"""TensorBoard's event file: records of protocol buffers, each with its length and checksums.

TensorBoard's own writer has a thread, which a full disk ends with a traceback on the terminal; its records are written here instead.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.output.appended_file import AppendedFile

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]


def new_event_file(folder: Path) -> AppendedFile:
    """Choose an event file that no other process writes."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

    name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    return AppendedFile(folder / name, header=_record(Event(wall_time=time.time(), file_version="brain.Event:2")))


def event_record(step: int, metrics: Mapping[str, float]) -> bytes:
    """Make the record of one step's metrics."""
    from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

    values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
    return _record(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))


def _record(event: Event) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    record = io.BytesIO()
    RecordWriter(record).write(event.SerializeToString())
    return record.getvalue()
