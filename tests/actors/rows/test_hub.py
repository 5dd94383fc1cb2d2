"""Data sets of a hub, in processes of their own that ask a local server which speaks its protocol.

Protected here: data come through, whole or as a stream, and resume; what does not exist is answered with what there is and what to do, in
seconds, also without a network.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import REPOSITORY
from tests.actors.hub_server import serve_hub

ROWS = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(30)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CARD = b"""---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
- config_name: socratic
  data_files: socratic/train.jsonl
---
"""
REPOSITORIES = {
    "openai/gsm8k": {
        "README.md": CARD,
        **dict.fromkeys(("main/train.jsonl", "socratic/train.jsonl"), JSONL),
        "main/test.jsonl": JSONL[: JSONL.index(b"\n") + 1],
    },
    "shibing624/medical": {
        "README.md": b"---\nlicense: apache-2.0\n---\n",
        "medical.py": b"raise SystemExit('executed')",
        **dict.fromkeys(("finetune/train_zh_0.json", "pretrain/train.json", "reward/train.json"), JSONL),
    },
    "broken/rows": {"README.md": b"", "train.jsonl": JSONL + b"{broken\n"},
}

LOAD = """
import sys
from actors.rows.named_sets import load_named_or_path
from actors.rows.rows import load_rows
from configs.contracts.errors import DataError
path, name, split = sys.argv[1:]
try:
    rows = load_named_or_path(path)[0] if name == "named" else load_rows(path, name=name or None, split=split)
    print("ROWS", len(rows), rows.columns, rows.row(0))
except DataError as error:
    print("REFUSED", error)
"""

LISTED = """
import json, sys
from actors.rows.rows import load_rows
from configs.contracts.errors import DataError
path, data_files, split = sys.argv[1:]
try:
    rows = load_rows(path, split=split, data_files=json.loads(data_files))
    print("ROWS", len(rows), rows.columns)
except DataError as error:
    print("REFUSED", error)
"""

STREAM = """
import json, sys
from pathlib import Path
from actors.prompts.streamed import StreamedPrompts
from configs.schema.data import DataSection
from learner.model.tiny_model import build_tokenizer
def stream():
    data = DataSection(path=sys.argv[1], name="main", prompt_column="question", streaming=True, shuffle_buffer_size=8, eval_samples=3)
    return StreamedPrompts(data, build_tokenizer(), seed=0, folder=Path("."))
first = stream()
drawn = [first.next() for _ in range(40)]
cursor = json.loads(json.dumps(first.cursor()))
again = stream()
again.restore(cursor)
assert [again.next() for _ in range(20)] == [first.next() for _ in range(20)]
assert sorted(prompt.id.index for prompt in drawn[:27]) == list(range(3, 30)), drawn
assert again.prompt(drawn[0].id) == drawn[0]
print("ROWS", drawn[0].columns)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    with serve_hub(REPOSITORIES) as address:
        yield address


def said(code: str, hub: str, home: Path, *arguments: str, **env: str) -> str:
    """The last line that a process prints."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY), **env}
    environment.pop("HF_TOKEN", None)
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=home, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip().splitlines()[-1] + ran.stderr


def test_a_data_set_comes_through_and_is_in_the_cache_without_a_network(hub: str, tmp_path: Path):
    wanted = "ROWS 30 ('question', 'answer') {'question': '0+1?', 'answer': '#### 1'}"
    assert said(LOAD, hub, tmp_path, "openai/gsm8k", "main", "train").startswith(wanted)
    assert said(LOAD, hub, tmp_path, "gsm8k", "named", "").startswith("ROWS 1 ('question', 'solution')")
    offline = said(LOAD, nowhere(), tmp_path, "openai/gsm8k", "main", "train")
    assert offline.startswith(wanted)
    assert "cannot be reached; the cache is searched for data set openai/gsm8k, configuration main" in offline
    assert said(LOAD, hub, tmp_path, "openai/gsm8k", "main", "train", HF_HUB_OFFLINE="1").startswith(wanted)


def test_files_of_a_data_set_are_listed(hub: str, tmp_path: Path):
    listed = '{"train": ["main/*.jsonl"], "test": "main/test.jsonl"}'
    assert said(LISTED, hub, tmp_path, "openai/gsm8k", listed, "train").startswith("ROWS 31 ('question', 'answer')")
    assert said(LISTED, hub, tmp_path, "openai/gsm8k", listed, "test").startswith("ROWS 1 ('question', 'answer')")
    (tmp_path / "other").mkdir()
    missing = said(LISTED, hub, tmp_path / "other", "openai/gsm8k", '"main/none.jsonl"', "train")
    assert missing.startswith("REFUSED data set openai/gsm8k: ") and "correct data.data_files" in missing


def test_a_data_set_is_streamed_and_resumed(hub: str, tmp_path: Path):
    assert said(STREAM, hub, tmp_path, "openai/gsm8k").startswith("ROWS {'answer': '#### ")


@pytest.mark.parametrize(
    ("path", "name", "split", "told"),
    [
        ("openai/gsm8k", "grpo", "train", "configuration grpo: there is no such configuration; choose one of main, socratic as data.name"),
        ("openai/gsm8k", "", "train", "has several configurations; choose one of main, socratic as data.name"),
        ("openai/gsm8k", "main", "valid", "has no split 'valid'; it has train, test: set data.split (or data.eval_split) to one of them"),
        ("nobody/nothing", "", "train", "neither a local file nor a data set on the hub that you may read; check its name, or log in"),
        ("broken/rows", "", "train", "its files cannot be read: "),
    ],
)
def test_what_does_not_exist_is_answered_with_what_there_is(hub: str, tmp_path: Path, path: str, name: str, split: str, told: str):
    answer = said(LOAD, hub, tmp_path, path, name, split)
    assert answer.startswith(f"REFUSED data set {path}")
    assert told in answer


def test_a_script_is_not_executed_and_the_files_beside_it_are_listed(hub: str, tmp_path: Path):
    answer = said(LOAD, hub, tmp_path, "shibing624/medical", "grpo", "train")
    assert answer.startswith("REFUSED data set shibing624/medical, configuration grpo is a loader script, which is not executed")
    assert "download its files (finetune/train_zh_0.json, pretrain/train.json, reward/train.json) and give their folder" in answer
    assert "hf download shibing624/medical --repo-type dataset --include 'finetune/*' --local-dir data/medical" in answer
    assert "data.path=data/medical/finetune" in answer
    assert "data.columns={theirs: ours}, such as {instruction: question, output: answer}" in answer


def nowhere() -> str:
    """The address of a port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def test_without_a_network_the_remedies_are_said_and_nothing_is_tried_again(tmp_path: Path):
    answer = said(LOAD, nowhere(), tmp_path, "openai/gsm8k", "main", "train")
    assert answer.startswith("REFUSED data set openai/gsm8k, configuration main: ")
    assert "connect to the hub once to fill the cache (in HF_HOME; from then on, HF_HUB_OFFLINE=1" in answer
    assert "or give local files as data.path" in answer
    assert "Retrying" not in answer
