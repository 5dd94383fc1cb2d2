"""End tokens and tokenizers of model folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from learner.model.end_token import copy_tokenizer


def test_a_copied_tokenizer_is_that_of_the_revision(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hub model in the local cache, with two commits: another revision may have other tokens."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    folder = tmp_path / "hub" / "models--some--model"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(tiny_model, folder / "snapshots" / commit)
        (folder / "snapshots" / commit / "chat_template.jinja").write_text(commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a" * 40)
    for revision, commit in ((None, "a" * 40), ("b" * 40, "b" * 40)):
        (tmp_path / commit).mkdir()
        copy_tokenizer("some/model", tmp_path / commit, revision)
        assert (tmp_path / commit / "chat_template.jinja").read_text() == commit
