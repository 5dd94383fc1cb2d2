"""Data sets on disk become rows of JSON values, or a message that says where they are broken.

Protected here: gold answers come through as they were written; every broken file is named with its line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.rows.rows import Rows, load_rows
from configs.contracts.errors import DataError

ROWS = [{"prompt": "1+1?", "solution": "2"}, {"prompt": "¿2+2?", "solution": "4"}]


def all_rows(rows: Rows) -> list[dict]:
    return [rows.row(index) for index in range(len(rows))]


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_rows(str(path), **options)
    return str(caught.value)


def file_with(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path: Path, columns: dict) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "lines.json", "list.json", "a.csv", "a.parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    texts = {
        "a.jsonl": lines,
        "lines.json": "\n" + lines,
        "list.json": json.dumps(ROWS, indent=1),
        "a.csv": "prompt,solution\n1+1?,2\n¿2+2?,4\n",
    }
    if name in texts:
        path = file_with(tmp_path, name, texts[name])
    else:
        path = write_parquet(tmp_path / name, {column: [row[column] for row in ROWS] for column in ROWS[0]})
    rows = load_rows(str(path))
    assert all_rows(rows) == ROWS
    assert rows.columns == ("prompt", "solution")
    assert rows.values("solution", [1, 0]) == ["4", "2"]


def test_values_come_through_as_they_were_written(tmp_path: Path):
    """Loaders that guess types turn these answers into dates, numbers and nulls."""
    answers = ["2024-01-01", "007", "NA", "1e3", 7, None, [1, "x"], {"a": 1.5}]
    path = file_with(tmp_path, "a.jsonl", "".join(json.dumps({"answer": answer}) + "\n" for answer in answers))
    assert load_rows(str(path)).values("answer", range(len(answers))) == answers
    table = file_with(tmp_path, "a.csv", "answer\n2024-01-01\n007\nNA\n1e3\n")
    assert load_rows(str(table)).values("answer", range(4)) == answers[:4]


def test_values_that_json_does_not_know_become_text(tmp_path: Path):
    from datetime import date
    from decimal import Decimal

    path = write_parquet(tmp_path / "a.parquet", {"day": [date(2024, 1, 2)], "price": [Decimal("1.50")], "raw": [b"x"]})
    assert load_rows(str(path)).row(0) == {"day": "2024-01-02", "price": "1.50", "raw": "x"}
    lone = file_with(tmp_path, "a.jsonl", '{"prompt": "\\ud800"}')
    assert load_rows(str(lone)).row(0) == {"prompt": "?"}, "half a surrogate pair cannot be sent to another process"


def test_a_row_that_lacks_a_column_has_none_there(tmp_path: Path):
    rows = load_rows(str(file_with(tmp_path, "a.jsonl", '{"a": 1}\n\n{"b": 2}\n')))
    assert all_rows(rows) == [{"a": 1, "b": None}, {"a": None, "b": 2}]
    assert rows.location(1) == f"{tmp_path}/a.jsonl:3"


def test_a_byte_order_mark_at_the_start_is_no_part_of_the_data(tmp_path: Path):
    assert load_rows(str(file_with(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n'))).row(0) == {"a": 1}
    assert load_rows(str(file_with(tmp_path, "a.csv", b"\xef\xbb\xbfa,b\n1,2\n"))).columns == ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "place", "words"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": 2,}\n', ":2:9:", "not JSON"),
        ("a.jsonl", '{"a": 1}\n\n[1, 2]\n', ":3:", "[1, 2] is not a JSON object"),
        ("a.jsonl", b'{"a": 1}\n\xef\xbb\xbf{"a": 2}\n', ":2:1:", "BOM"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16"), ":1:1:", "UTF-16 byte order mark (BOM); save it as UTF-8"),
        ("a.jsonl", b'{"a": "x"}\n{"a": "caf\xe9"}\n', ":2:11:", "byte 0xe9 is not UTF-8"),
        ("a.json", '[\n{"a": 1},\n{"a": }\n]', ":3:7:", "not JSON"),
        ("a.json", "[1]", ": entry 1 of the list", "1, is not a JSON object"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", ":3:", "does not have the 2 fields of the header"),
        ("a.csv", "a,b\n1\n", ":2:", "does not have the 2 fields of the header"),
        ("a.csv", 'a,b\n1,"2\n', ":2:", "not CSV"),
        ("a.parquet", "no parquet", "", "is not a readable Parquet file"),
        ("a.txt", "text", "", "convert it to one of .json, .jsonl, .csv, .parquet"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, content: str | bytes, place: str, words: str):
    path = file_with(tmp_path, name, content)
    message = refusal(path)
    assert message.startswith(f"{path}{place}")
    assert words in message


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "a,b\n"), ("a.jsonl", "\n\n")])
def test_an_empty_data_set_is_refused(tmp_path: Path, name: str, content: str):
    assert "is empty; it must have at least one row" in refusal(file_with(tmp_path, name, content))


def test_a_missing_file_is_refused_with_the_nearest_one(tmp_path: Path):
    near = file_with(tmp_path, "train.jsonl", "{}")
    assert f"does not exist (did you mean {near}?)" in refusal(tmp_path / "trian.jsonl")
    assert "does not exist" in refusal("no/such/folder")
    assert "does not exist" in refusal("train.jsonl"), "a name with a suffix is never looked up on the hub"


def test_a_folder_has_the_splits_that_its_files_are_named_after(tmp_path: Path):
    for split, answer in (("train", 1), ("test", 2)):
        file_with(tmp_path, f"data/{split}-00000.jsonl", json.dumps({"a": answer}))
    assert load_rows(str(tmp_path)).row(0) == {"a": 1}
    assert load_rows(str(tmp_path), split="test").row(0) == {"a": 2}
    assert "no split 'validation'; it has train, test" in refusal(tmp_path, split="validation")


@pytest.mark.parametrize(
    ("split", "kept"),
    [
        ("train[:3]", [0, 1, 2]),
        ("train[-2:]", [8, 9]),
        ("train[10%:30%]", [1, 2]),
        ("train[:10%]+train[90%:]", [0, 9]),
    ],
)
def test_a_slice_is_taken_of_files_and_folders(tmp_path: Path, split: str, kept: list[int]):
    file = file_with(tmp_path, "folder/train.jsonl", "".join(json.dumps({"n": n}) + "\n" for n in range(10)))
    file_with(tmp_path, "folder/test.jsonl", '{"n": -1}\n')
    table = write_parquet(tmp_path / "rows.parquet", {"n": list(range(10))})
    for path in (file, file.parent, table):
        rows = load_rows(str(path), split=split)
        assert [row["n"] for row in all_rows(rows)] == kept == rows.values("n", range(len(rows)))
    assert load_rows(str(file), split=split).location(1) == f"{file}:{kept[1] + 1}"


def test_a_slice_that_cannot_be_read_or_holds_nothing_is_refused(tmp_path: Path):
    file = file_with(tmp_path, "a.jsonl", '{"n": 1}\n')
    for split in ("train[x]", "train[:3", "train+test"):
        assert "write slices of one split, such as train[:1000] or train[10%:20%]" in refusal(file, split=split)
    assert f"split 'train[1:]' of {file} holds none of its 1 rows; widen the slice" in refusal(file, split="train[1:]")


def test_a_folder_without_splits_is_read_whole_in_the_order_of_names(tmp_path: Path):
    for name, answer in (("b.jsonl", 2), ("a.json", 1)):
        file_with(tmp_path, name, json.dumps({"a": answer}))
    assert all_rows(load_rows(str(tmp_path), split="test")) == [{"a": 1}, {"a": 2}]


def test_the_description_that_datasets_puts_beside_data_is_no_data(tmp_path: Path):
    write_parquet(tmp_path / "part.parquet", {"a": [1]})
    file_with(tmp_path, "dataset_infos.json", "{}")
    assert all_rows(load_rows(str(tmp_path))) == [{"a": 1}]


def test_a_folder_that_holds_no_data_or_a_mixture_is_refused(tmp_path: Path):
    assert "holds no data (nothing there)" in refusal(tmp_path)
    file_with(tmp_path, "notes.txt", "x")
    assert "holds no data (notes.txt there)" in refusal(tmp_path)
    file_with(tmp_path, "a.csv", "a\n1\n")
    file_with(tmp_path, "b.jsonl", "{}")
    assert "mixes .csv and .json files" in refusal(tmp_path)


@pytest.fixture
def hub_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder laid out like a data set repository, and a cache of its own for `datasets`."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    file_with(folder, "main/train.jsonl", '{"question": "1+1?"}\n')
    file_with(folder, "README.md", "---\nconfigs:\n- config_name: main\n  data_files: main/train.jsonl\n---\n")
    return folder


def test_named_configurations_go_through_datasets(hub_like: Path):
    assert load_rows(str(hub_like), name="main").row(0) == {"question": "1+1?"}
    assert "configuration grpo: there is no such configuration; it has only main: set data.name to that" in refusal(hub_like, name="grpo")
    assert "configuration main has no split 'validation'; it has train: set data.split" in refusal(
        hub_like, name="main", split="validation"
    )


def test_a_loader_script_is_not_executed(hub_like: Path):
    file_with(hub_like, "repository.py", "raise SystemExit('executed')")
    assert "is a loader script, which is not executed; give the folder of its data files" in refusal(hub_like, name="grpo")


def test_a_hub_that_cannot_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "or give local files as data.path" in refusal("nobody/nothing")
