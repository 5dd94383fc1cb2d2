"""No path of the machine and no secret is published; everything else is, as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.output.scrub import REMOVED, scrubbed, scrubbed_text, without_secrets

TOKEN = "hf_" + "a" * 34


@pytest.mark.parametrize(
    ("value", "published"),
    [
        ("/data/models/tiny", "…/tiny"),
        ("/data/models/tiny/", "…/tiny"),
        ("~/runs/x", "…/x"),
        ("file:///data/rows.jsonl", "…/rows.jsonl"),
        ("/data/code/rewards.py:short", "…/rewards.py:short"),
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("configs/templates/a.jinja", "configs/templates/a.jinja"),
        ("/no_think", "/no_think"),
        ("builtin:tiny_qwen2", "builtin:tiny_qwen2"),
        ("<think>\n...\n</think>", "<think>\n...\n</think>"),
        (f"my key is {TOKEN}.", f"my key is {REMOVED}."),
        (3, 3),
        (None, None),
    ],
)
def test_values(value: Any, published: Any) -> None:
    assert scrubbed(value) == published
    assert scrubbed({"a": [{"b": value}]}) == {"a": [{"b": published}]}


@pytest.mark.parametrize("name", ["api_key", "hub_token", "PASSWORD", "client-secret"])
def test_what_is_named_a_secret_is_removed(name: str) -> None:
    assert scrubbed({name: "short"}) == without_secrets({name: "short"}) == {name: REMOVED}


@pytest.mark.parametrize("name", ["max_tokens", "token_budget", "tokenizer", "keyboard"])
def test_other_names_are_none(name: str) -> None:
    assert scrubbed({name: "value"}) == {name: "value"}


def test_a_service_of_the_user_gets_paths_and_no_secrets() -> None:
    assert without_secrets({"path": "/data/models/tiny", "note": TOKEN}) == {"path": "/data/models/tiny", "note": REMOVED}


def test_folders_of_the_machine_are_replaced_in_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "someone"))
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "someone" / "runs" / "a"
    text = f"{run}/metrics, {tmp_path}/someone/other, {run}-b, {tmp_path}/here"
    assert scrubbed_text(text, run) == "RUN/metrics, ~/other, ~/runs/a-b, ./here"


def test_values_of_secret_variables_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct horse")
    monkeypatch.setenv("ANOTHER_TOKEN", "ab")
    assert scrubbed_text("a correct horse, ab") == f"a {REMOVED}, ab"
