"""Completions on disk: every column of a data set can be stored, and a file is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.output.completions import write_completions
from configs.contracts.records import Completion, Prompt, PromptId, RolloutGroup, RolloutRequest, Sampling, VersionSpan

COLUMNS = {
    "no keys": [{}, {}],
    "no keys, deeper": [{"a": [{"b": {}}]}, None],
    "over 64 bits": [2**80, 1],
    "signed and over 63 bits": [2**63 + 1, -1],
    "over 64 bits in a list": [[1], [2**80]],
    "mixed": [1, "one"],
    "object and list": [{"a": 1}, [1]],
    "not JSON": [{1, 2}, object],
}


@pytest.mark.parametrize("values", COLUMNS.values(), ids=COLUMNS)
def test_a_column_that_parquet_cannot_hold_is_kept_as_json_text(values: list[object], tmp_path: Path) -> None:
    file = write_completions(tmp_path / "completions", 1, [{"step": 1, "data": value} for value in values])
    stored = pq.read_table(file).to_pydict()
    assert stored["step"] == [1, 1]
    assert [text and json.loads(text) for text in stored["data"]] == [json.loads(json.dumps(value, default=repr)) for value in values]


def test_half_of_a_surrogate_pair_in_a_value_or_a_name_can_be_stored(tmp_path: Path) -> None:
    file = write_completions(tmp_path, 1, [{"text \ud800": "a \udfff"}, {"text \ud800": "b"}])
    assert pq.read_table(file).to_pydict() == {"text \\ud800": ['"a \\udfff"', '"b"']}


def test_a_group_carries_half_of_a_surrogate_pair() -> None:
    prompt = Prompt(PromptId(0, 1), (4,), "?", {"solution": "\ud800", "note": {"\udc00": 2**80}})
    completion = Completion((1,), (-0.5,), (VersionSpan(0, 0, 1),), "stop", "x")
    assert RolloutGroup.build(RolloutRequest(prompt, Sampling(1, 8)), [completion]).columns == prompt.columns


def test_a_write_that_fails_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_table: pa.Table, file: Path) -> None:
        file.write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_completions(tmp_path, 1, [{"step": 1}])
    assert not list(tmp_path.iterdir())
