"""No row, no column and no file falls away in silence when data are read.

Protected here: every case in which a reader would keep one of two values, some of several files or part of a file is refused or told.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from actors.rows.rows import load_rows
from actors.rows.sources import notices, open_rows
from actors.rows.stream import open_stream
from configs.contracts.errors import DataError
from configs.schema.data import DataSection
from configs.schema.sources import SourceSection
from tests.actors.rows.test_rows import all_rows, file_with, refusal, write_parquet

LINES = '{"prompt": "1+1?"}\n{"prompt": "2+2?"}\n'


def compressed_by_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": compressed_by_zstd}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_text_files_are_read(tmp_path: Path, suffix: str):
    for name, content in (("a.jsonl", LINES), ("b.json", '[{"prompt": "1+1?"}, {"prompt": "2+2?"}]'), ("c.csv", "prompt\n1+1?\n2+2?\n")):
        path = file_with(tmp_path, f"{name}.{suffix}", COMPRESS[suffix](content.encode()))
        rows = load_rows(str(path))
        assert all_rows(rows) == [{"prompt": "1+1?"}, {"prompt": "2+2?"}]
        streamed = open_stream(SourceSection(path=str(path), streaming=True), tmp_path, 0).read(1, 5)
        assert all_rows(streamed) == [{"prompt": "2+2?"}]
    twice = file_with(tmp_path, f"d.jsonl.{suffix}", COMPRESS[suffix](LINES.encode()) * 2)
    assert len(load_rows(str(twice))) == 4, "two compressed streams in one file, as `cat` and parallel compressors make them"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_a_compressed_file_that_is_cut_off_or_none_is_refused(tmp_path: Path, suffix: str):
    long = "".join(f'{{"prompt": "{n * 7919 % 10007}"}}\n' for n in range(5000)).encode()
    cut = file_with(tmp_path, f"cut.jsonl.{suffix}", COMPRESS[suffix](long)[:-20])
    assert f"cut.jsonl.{suffix} is not a whole {suffix} file" in refusal(cut)
    plain = file_with(tmp_path, f"plain.jsonl.{suffix}", LINES)
    assert f"plain.jsonl.{suffix} is not a whole {suffix} file" in refusal(plain)
    unnamed = file_with(tmp_path, "unnamed.jsonl", COMPRESS[suffix](long))
    assert f"call it unnamed.jsonl.{suffix}" in refusal(unnamed)


def test_compressed_files_of_a_folder_belong_to_the_split_of_their_name(tmp_path: Path):
    file_with(tmp_path, "train.jsonl.gz", gzip.compress(LINES.encode()))
    file_with(tmp_path, "test.jsonl", '{"prompt": "3+3?"}\n')
    assert len(load_rows(str(tmp_path))) == 2


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "a.csv",
            "answer,question,answer\n1,?,2\n",
            ":1: the columns 1 and 3 of the header are both called 'answer'; rename or remove one",
        ),
        ("a.csv", "answer, answer \n1,2\n", ":1: the columns 1 and 2 of the header are both called 'answer'"),
        ("a.jsonl", '{"a": 1}\n{"a": 2, "b": 1, "a": 3}\n', ":2: the key 'a' is there twice in one object"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "x", "content": "y"}]}\n', ":1: the key 'content' is there twice"),
        ("a.json", '[{"a": 1, "a": 2}]', ": the key 'a' is there twice in one object"),
    ],
)
def test_of_two_equal_names_none_is_dropped(tmp_path: Path, name: str, content: str, said: str):
    path = file_with(tmp_path, name, content)
    assert f"{path}{said}" in refusal(path)


def test_two_parquet_columns_of_one_name_are_refused(tmp_path: Path):
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "a.parquet")
    assert "has two columns called 'a'" in refusal(tmp_path / "a.parquet")


def test_blanks_around_the_names_of_a_csv_are_removed_and_told(tmp_path: Path):
    rows = load_rows(str(file_with(tmp_path, "a.csv", "question, answer\n?, 4\n")))
    assert rows.row(0) == {"question": "?", "answer": " 4"}
    assert rows.notices == (f"{tmp_path}/a.csv: the blanks around the column ' answer' are removed",)


def test_files_that_name_no_split_beside_files_that_do_are_refused(tmp_path: Path):
    for name in ("medical-part0", "medical-train-part1", "medical-part2", "medical-part3"):
        file_with(tmp_path, f"{name}.jsonl", LINES)
    message = refusal(tmp_path)
    assert (
        "(train: medical-train-part1.jsonl), and medical-part0.jsonl, medical-part2.jsonl, medical-part3.jsonl would be left out" in message
    )
    assert "data.data_files" in message
    assert len(load_rows(str(tmp_path), data_files="*.jsonl")) == 8


def test_files_outside_the_folders_of_splits_are_refused(tmp_path: Path):
    file_with(tmp_path, "test/a.jsonl", LINES)
    file_with(tmp_path, "x-train.jsonl", LINES)
    assert "x-train.jsonl would be left out" in refusal(tmp_path)
    assert len(load_rows(str(tmp_path), split="test")) == 2, "of the test split none is left out"


def test_what_is_not_read_in_a_folder_is_told(tmp_path: Path):
    for name in ("train.jsonl", "notes.txt", "sheet.xlsx", ".hidden.jsonl", "README.md", "dataset_info.json", "LICENSE"):
        file_with(tmp_path, name, LINES)
    (notice,) = load_rows(str(tmp_path)).notices
    assert f"not read, in folder {tmp_path}: .hidden.jsonl, notes.txt, sheet.xlsx (" in notice


def test_another_split_than_the_wanted_one_is_told(tmp_path: Path):
    file_with(tmp_path, "test.jsonl", LINES)
    assert load_rows(str(tmp_path)).notices == (f"folder {tmp_path} has no split 'train': its only split, test, is read",)
    file_with(tmp_path / "plain", "a.jsonl", LINES)
    assert load_rows(str(tmp_path / "plain"), split="test").notices == ()


def test_files_of_a_folder_that_differ_are_told(tmp_path: Path):
    file_with(tmp_path, "a.jsonl", '{"prompt": "?", "answer": 4}\n')
    file_with(tmp_path, "b.jsonl", '{"prompt": "?", "answer": "4", "level": 1}\n')
    file_with(tmp_path, "c.jsonl", "\n")
    assert load_rows(str(tmp_path)).notices == (
        f"{tmp_path}/c.jsonl holds no row",
        f"column 'answer' is a number in the first row of {tmp_path}/a.jsonl and text in that of {tmp_path}/b.jsonl",
        f"column 'level' is in the first row of {tmp_path}/b.jsonl and not in that of {tmp_path}/a.jsonl: a row without it has null",
    )


def test_parquet_files_that_differ_are_joined_or_refused(tmp_path: Path):
    write_parquet(tmp_path / "ok/a.parquet", {"prompt": ["x"], "n": pa.array([1], pa.int32())})
    write_parquet(tmp_path / "ok/b.parquet", {"prompt": pa.array(["y"], pa.large_string()), "n": pa.array([2], pa.int64()), "level": [3]})
    rows = load_rows(str(tmp_path / "ok"))
    assert all_rows(rows) == [{"prompt": "x", "n": 1, "level": None}, {"prompt": "y", "n": 2, "level": 3}]
    assert rows.notices == ("column 'level' is not in a.parquet: the rows there have null",)
    write_parquet(tmp_path / "bad/a.parquet", {"answer": ["4"]})
    write_parquet(tmp_path / "bad/b.parquet", {"answer": [4]})
    assert f"column 'answer' is string in {tmp_path}/bad/a.parquet and int64 in {tmp_path}/bad/b.parquet" in refusal(tmp_path / "bad")


def test_a_column_that_comes_late_in_a_stream_is_told(tmp_path: Path):
    lines = [json.dumps({"prompt": f"{n}?"} | ({"tools": [n]} if n >= 150 else {})) + "\n" for n in range(200)]
    stream = open_stream(SourceSection(path=str(file_with(tmp_path, "a.jsonl", "".join(lines))), streaming=True), tmp_path, 0)
    assert stream.columns == ("prompt",)
    stream.read(0, 200)
    assert stream.notices == [f"{tmp_path}/a.jsonl:151: the column 'tools' is not in the first 100 rows of the stream, and is not read"]


TYPES = {
    "map": pa.array([[("a", "1"), ("b", "2")]], pa.map_(pa.string(), pa.string())),
    "struct": pa.array(
        [{"ground_truth": "4", "meta": [("k", 1)]}], pa.struct({"ground_truth": pa.string(), "meta": pa.map_(pa.string(), pa.int64())})
    ),
    "large": pa.array(["x"], pa.large_string()),
    "view": pa.array(["x"], pa.string_view()),
    "coded": pa.array(["x"]).dictionary_encode(),
    "runs": pa.RunEndEncodedArray.from_arrays([1], ["x"]),
    "structs": pa.array([[{"role": "user", "content": "?"}]]),
    "large_list": pa.array([["x"]], pa.large_list(pa.string())),
    "nothing": pa.nulls(1),
}
VALUES = {
    "map": {"a": "1", "b": "2"},
    "struct": {"ground_truth": "4", "meta": {"k": 1}},
    "large": "x",
    "view": "x",
    "coded": "x",
    "runs": "x",
    "structs": [{"role": "user", "content": "?"}],
    "large_list": ["x"],
    "nothing": None,
}


def test_every_type_of_arrow_gives_its_value(tmp_path: Path):
    table = pa.table(TYPES)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    in_parquet = [name for name in TYPES if name != "runs"]
    write_parquet(tmp_path / "a.parquet", {name: TYPES[name] for name in in_parquet})
    for path, names in ((tmp_path / "a.arrow", list(TYPES)), (tmp_path / "a.parquet", in_parquet)):
        rows = load_rows(str(path))
        assert rows.row(0) == {name: VALUES[name] for name in names}
        assert {name: rows.values(name, [0])[0] for name in names} == rows.row(0)
        streamed = open_stream(SourceSection(path=str(path), streaming=True), tmp_path, 0).read(0, 1)
        assert streamed.row(0) == rows.row(0)


def test_listed_files_are_read_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(3):
        file_with(tmp_path, f"part{number}.jsonl", f'{{"n": {number}}}\n')
    file_with(tmp_path, "held/test.jsonl", '{"n": -1}\n')

    def numbers(data_files: object, path: str = str(tmp_path), split: str = "train") -> list[object]:
        section = SourceSection.model_validate({"path": path, "data_files": data_files, "split": split})
        return [row["n"] for row in all_rows(load_rows(section.part.path, split=split, data_files=section.data_files))]

    assert numbers("part1.jsonl") == [1]
    assert numbers(["part2.jsonl", "part[01].jsonl"]) == [2, 0, 1]
    assert numbers({"train": "part*.jsonl", "test": ["held/*.jsonl"]}) == [0, 1, 2]
    assert numbers({"train": "part*.jsonl", "test": ["held/*.jsonl"]}, split="test") == [-1]
    assert numbers([str(tmp_path / "**/*.jsonl")], path="json") == [-1, 0, 1, 2]
    assert numbers("part*.jsonl", split="train[1:]") == [1, 2]
    monkeypatch.chdir(tmp_path)
    for path in ("json", "."):
        assert numbers(["part0.jsonl"], path=path) == [0]
    rows = load_rows(".", data_files={"train": "part0.jsonl", "test": "held/test.jsonl"})
    assert rows.notices == ("data.data_files also lists test, which is not read: to hold rows of it out, name a file in data.eval_path",)


@pytest.mark.parametrize(
    ("data_files", "split", "said"),
    [
        ("prat0.jsonl", "train", "data.data_files prat0.jsonl: there is no such file in .* .did you mean part0.jsonl"),
        (("part0.jsonl", "part*.jsonl"), "train", "data.data_files lists .*part0.jsonl twice"),
        ("https://example.org/a.jsonl", "train", "is an address, .* download it first"),
        ("held", "train", "data.data_files held is a folder; write held/"),
        ({"test": "part0.jsonl"}, "train", "data.data_files has no split 'train'; it has test"),
        ("part0.jsonl", "test", "lists files without a split, which are the split train, and 'test' is wanted"),
    ],
)
def test_listed_files_that_cannot_be_read_are_refused(tmp_path: Path, data_files: object, split: str, said: str):
    import re

    file_with(tmp_path, "part0.jsonl", LINES)
    file_with(tmp_path, "held/test.jsonl", LINES)
    assert re.search(said, refusal(tmp_path, data_files=data_files, split=split))


def test_a_file_of_another_kind_does_not_hide_the_data_by_its_name(tmp_path: Path):
    file_with(tmp_path, "train.txt", "x")
    file_with(tmp_path, "part0.jsonl", LINES)
    rows = load_rows(str(tmp_path))
    assert len(rows) == 2 and "train.txt" in rows.notices[0]


def test_train_rows_that_are_read_as_held_out_are_told(tmp_path: Path):
    file_with(tmp_path, "train.jsonl", LINES)
    assert load_rows(str(tmp_path), split="test").notices == (f"folder {tmp_path} has no split 'test': its only split, train, is read",)


def test_a_column_that_is_hidden_by_a_renamed_one_is_told(tmp_path: Path):
    path = file_with(tmp_path, "a.jsonl", '{"problem": "?", "solution": "long", "info": {"answer": "4"}}\n')
    data = DataSection(path=str(path), columns={"info.answer": "solution"}, prompt_column="problem", curriculum_column="info.answer")
    rows, _ = open_rows(data, tmp_path, 0)
    assert rows.row(0)["solution"] == "4"
    assert notices(data, rows) == ("data.columns: the data's own column 'solution' is hidden by 'info.answer', which gets its name",)


def test_a_map_with_a_key_twice_is_refused(tmp_path: Path):
    path = write_parquet(tmp_path / "a.parquet", {"m": pa.array([[("a", "1"), ("a", "2")]], pa.map_(pa.string(), pa.string()))})
    rows = load_rows(str(path))
    for read in (
        lambda: rows.row(0),
        lambda: rows.values("m", [0]),
        lambda: open_stream(SourceSection(path=str(path), streaming=True), tmp_path, 0),
    ):
        with pytest.raises(DataError, match="a.parquet.*: a map has a key twice"):
            read()
