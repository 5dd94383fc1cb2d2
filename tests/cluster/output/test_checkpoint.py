"""Checkpoints are whole or recognised as damaged; stored groups come back as they were."""

from pathlib import Path

import pytest

from cluster.output import checkpoint
from configs.contracts.errors import CheckpointError
from configs.contracts.records import Completion, Prompt, PromptId, RolloutGroup, RolloutRequest, Sampling, ScoredGroup, VersionSpan
from tests.bodies import NO_BODY
from tests.cluster.loop.test_window import scored


def save(checkpoints: Path, step: int, keep: int | None = None) -> Path:
    folder = checkpoint.begin(checkpoints, step)
    (folder / "learner").mkdir()
    (folder / "learner" / "state.bin").write_bytes(b"x" * 1000)
    return checkpoint.finish(folder, {"step": step}, keep)


def test_the_newest_whole_checkpoint_is_used_and_the_damaged_one_named(tmp_path: Path) -> None:
    save(tmp_path, 5)
    damaged = save(tmp_path, 10)
    (damaged / "learner" / "state.bin").write_bytes(b"x" * 999)
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None
    assert found.step == 5
    assert len(said) == 1
    assert "state.bin" in said[0]
    with pytest.raises(CheckpointError, match="does not match its hash"):
        checkpoint.read(damaged)


def test_an_interrupted_checkpoint_is_ignored_and_cleaned(tmp_path: Path) -> None:
    save(tmp_path, 5)
    checkpoint.begin(tmp_path, 10)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.step == 5
    save(tmp_path, 10)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        checkpoint.read(tmp_path)


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save(tmp_path, step, keep=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["step-000010", "step-000015"]


def test_stored_groups_come_back_as_they_were(tmp_path: Path) -> None:
    facts = scored(PromptId(1, 7), version=3)
    prompt = Prompt(PromptId(1, 7), (4, 5, 6), "was ist 1+1?", {"solution": "zwei"})
    completions = [
        Completion((1, 2), (-0.5, -0.25), (VersionSpan(3, 0, 2),), "stop", "zwei"),
        Completion((9,), (-1.0,), (VersionSpan(4, 0, 1),), "length", "九"),
    ]
    body = RolloutGroup.build(RolloutRequest(prompt, Sampling(2, 8)), completions)
    checkpoint.write_groups(tmp_path / "ready", [ScoredGroup(NO_BODY, facts.summary, facts.scores)], [body.table])
    ((summary, scores, table),) = checkpoint.read_groups(tmp_path / "ready")
    assert (summary, scores) == (facts.summary, facts.scores)
    again = RolloutGroup(table)
    assert again.table.equals(body.table, check_metadata=True)
    assert again.columns == {"solution": "zwei"}
    assert again.prompt_token_ids.tolist() == [4, 5, 6]
    assert again.logprobs_T(0).tolist() == [-0.5, -0.25]
    assert again.spans(1) == (VersionSpan(4, 0, 1),)
