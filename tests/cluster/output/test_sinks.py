"""Files of metrics that cannot be written: one warning, and nothing is missing in the end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cluster.files.metrics_file import read_rows
from cluster.output.sinks import MetricSinks


def sinks_of(folder: Path, said: list[str]) -> MetricSinks:
    return MetricSinks(folder, "run", ray_metrics=False, say=said.append)


def steps_of_events(folder: Path) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars("loss")]


def test_what_could_not_be_written_is_written_with_a_later_step(tmp_path: Path) -> None:
    said: list[str] = []
    folder, away = tmp_path / "run", tmp_path / "away"
    folder.mkdir()
    with sinks_of(folder, said) as sinks:
        sinks.emit(1, {"loss": 0.5})
        folder.rename(away)
        sinks.emit(2, {"loss": 0.25})
        sinks.emit(3, {"loss": 0.25})
        assert not folder.exists(), "a run directory that is gone is not made anew"
        away.rename(folder)
        sinks.emit(4, {"loss": 0.125})
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    assert steps_of_events(folder) == [1, 2, 3, 4]
    assert len(said) == 2
    assert "metrics.jsonl cannot be written (FileNotFoundError" in said[0] and "tensorboard" in said[1]


def test_part_of_a_line_on_a_full_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    sinks = sinks_of(tmp_path, said)
    sinks.tensorboard = False
    sinks.emit(1, {"loss": 0.5})
    whole = (tmp_path / "metrics.jsonl").read_text()
    path_open = Path.open

    class Full:
        def __init__(self, file) -> None:
            self.file = file
            self.room = 5

        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def tell(self) -> int:
            return self.file.tell()

        def truncate(self, size: int) -> None:
            self.file.truncate(size)

        def write(self, content) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written, self.room = self.file.write(content[: self.room]), 0
            return written

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda self, *how, **more: Full(path_open(self, *how, **more)))
        sinks.emit(2, {"loss": 0.25})
    assert (tmp_path / "metrics.jsonl").read_text() == whole
    sinks.emit(3, {"loss": 0.25})
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert len(said) == 1


def test_records_that_are_lost_at_the_end_are_counted(tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "run"
    folder.mkdir()
    with sinks_of(folder, said) as sinks:
        sinks.emit(1, {"loss": 0.5})
        shutil.rmtree(folder)
        sinks.emit(2, {"loss": 0.5})
    assert f"WARNING: the last 1 records of {folder / 'metrics.jsonl'} are lost, as it could not be written" in said


def test_a_rewind_that_fails_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    sinks = sinks_of(tmp_path, said)
    for step in (1, 2, 3):
        sinks.emit(step, {"loss": 0.5})

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        sinks.rewind(1)
        sinks.emit(2, {"loss": 0.25})
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    sinks.emit(3, {"loss": 0.25})
    assert [(row["step"], row["loss"]) for row in read_rows(tmp_path / "metrics.jsonl")] == [(1, 0.5), (2, 0.25), (3, 0.25)]
    assert len(said) == 1


def test_what_is_lost_for_good_is_counted_at_the_end(tmp_path: Path) -> None:
    said: list[str] = []
    with sinks_of(tmp_path, said) as sinks:
        for _ in range(3):
            with sinks.going_on("completions", "those steps are missing"):
                raise OSError(28, "No space left on device")
    assert said == [
        "WARNING: completions cannot be written (OSError: [Errno 28] No space left on device); training goes on; those steps are missing",
        "WARNING: 3 times, completions could not be written",
    ]
