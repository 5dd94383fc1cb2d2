"""metrics.jsonl after a crash: what is whole is read, and what is not is removed before a run goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.files.metrics_file import read_rows, repair, truncate
from cluster.output.display import RunDisplay
from cluster.report.record import read_run
from cluster.train.driver import open_run
from configs.schema.run import RunConfig

WHOLE = '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'

TORN = {
    "half a line": '{"step": 3, "lo',
    "half a character": '{"step": 3, "lo\udcc3',
    "zeros, as a file system leaves them": "\0" * 4096,
    "JSON of another kind": "3",
    "no step": '{"loss": 1}\n',
    "nested too deeply": "[" * 100_000,
}


@pytest.fixture(params=TORN)
def torn(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes((WHOLE + TORN[request.param]).encode(errors="surrogateescape"))
    return file


def test_a_torn_tail_is_removed_with_one_line(torn: Path) -> None:
    said: list[str] = []
    repair(torn, said.append)
    assert torn.read_text() == WHOLE
    assert said == [f"{torn}: removed 1 unreadable line, as a crash or a full disk leaves at the end of a file"]
    repair(torn, said.append)
    assert len(said) == 1


def test_readers_skip_a_torn_tail(torn: Path) -> None:
    assert read_rows(torn) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    truncate(torn, 1)
    assert [row["step"] for row in read_rows(torn)] == [1]


def test_the_next_line_does_not_go_on_in_a_last_line_without_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(WHOLE.rstrip("\n"))
    said: list[str] = []
    repair(file, said.append)
    assert (file.read_text(), said) == (WHOLE, [])


def test_a_run_repairs_the_file_before_it_starts_anything(torn: Path) -> None:
    config = RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "out_dir": torn.parent})
    with open_run(config, "auto", RunDisplay()) as run:
        run.begin()
        assert [json.loads(line)["step"] for line in torn.read_text().splitlines()] == [1, 2]


def test_a_rewrite_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(WHOLE)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        truncate(file, 1)
    assert file.read_text() == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "null", "\0", '"x"'])
def test_a_report_is_drawn_of_a_damaged_run(tmp_path: Path, content: str) -> None:
    for name in ("config.yaml", "summary.json", "evaluation_before.json", "metrics.jsonl"):
        (tmp_path / name).write_text(content)
    found = read_run(tmp_path)
    assert (found.metrics, found.summary, found.settings, found.before) == ({}, {}, {}, None)
