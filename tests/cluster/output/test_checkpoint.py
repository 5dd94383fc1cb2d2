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
    return checkpoint.finish(folder, {"step": step, "identity": {}}, keep)


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


def test_a_rank_that_was_cut_off_spoils_no_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    """It began to write step 5 and goes on while the restored run writes its own step 5, and after that."""
    cut_off = checkpoint.begin(tmp_path, 5) / "learner"
    folder = checkpoint.begin(tmp_path, 5)
    (folder / "learner").mkdir()
    (folder / "learner" / "state.bin").write_bytes(b"whole")
    cut_off.mkdir(parents=True, exist_ok=True)  # as `LearnerEngine.save` does
    (cut_off / "state.bin").write_bytes(b"of another run of the steps")
    final = checkpoint.finish(folder, {"step": 5, "identity": {}}, None)
    (cut_off / "rng-0.bin").write_bytes(b"late")
    assert checkpoint.read(final).step == 5
    assert [(file.name, file.read_bytes()) for file in (final / "learner").iterdir()] == [("state.bin", b"whole")]
    save(tmp_path, 10)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["step-000005", "step-000010"], "what it wrote is removed"


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


MANIFESTS = {
    "a list": "[]",
    "no files": "{}",
    "a string": '"x"',
    "null": "null",
    "nested too deeply": "[" * 100_000,
    "nested objects": '{"a":' * 100_000,
    "hashes that are no text": '{"loop.json": 1}',
    "cut off": '{"loop.json": "',
    "no text": "\udcff",
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS)
def test_a_damaged_manifest_means_the_previous_checkpoint(tmp_path: Path, content: str) -> None:
    save(tmp_path, 5)
    damaged = save(tmp_path, 10)
    (damaged / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    said: list[str] = []
    found = checkpoint.newest(tmp_path, said.append)
    assert found is not None and found.step == 5
    assert len(said) == 1 and "step-000010" in said[0]


@pytest.mark.parametrize(
    "state", [[], {}, None, {"step": "10", "identity": {}}, {"step": True, "identity": {}}, {"step": 10, "identity": []}]
)
def test_a_state_of_the_wrong_kind_means_the_previous_checkpoint(tmp_path: Path, state) -> None:
    save(tmp_path, 5)
    folder = checkpoint.begin(tmp_path, 10)
    checkpoint.finish(folder, state, None)
    found = checkpoint.newest(tmp_path, lambda _: None)
    assert found is not None and found.step == 5


def test_a_damaged_later_checkpoint_does_not_push_out_whole_ones(tmp_path: Path) -> None:
    """A run that goes on from step 5, since 10 is damaged, keeps 7."""
    save(tmp_path, 5)
    (save(tmp_path, 10) / "manifest.json").write_text("[]")
    save(tmp_path, 7, keep=1)
    found = checkpoint.newest(tmp_path, lambda _: None)
    assert found is not None and found.step == 7


def write(checkpoints: Path, step: int, error: Exception) -> None:
    with checkpoint.writing(checkpoints, step) as folder:
        (folder / "half").write_bytes(b"x" * (3 << 20))
        raise error


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), CheckpointError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_gives_one_error_with_the_space_and_leaves_the_previous_checkpoint(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(CheckpointError, match=r"needs more than 3 MiB and \d+ MiB are free; .* goes on from the beginning"):
        write(tmp_path, 5, error)
    (save(tmp_path, 5) / "more").write_bytes(b"x" * (2 << 20))
    with pytest.raises(CheckpointError, match=r"step 10 .*needs about 2 MiB and \d+ MiB are free; .* goes on from step-000005") as caught:
        write(tmp_path, 10, error)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__, "no chain of tracebacks"
    assert [folder.name for folder in tmp_path.iterdir()] == ["step-000005"]


def test_a_run_directory_that_is_gone_is_not_made_anew(tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    with pytest.raises(CheckpointError, match=r"No such file or directory\): make the folder writable again"):
        write(checkpoints, 5, OSError())
    assert not checkpoints.parent.exists()


def test_an_unfinished_checkpoint_is_removed_whatever_ends_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        write(tmp_path, 5, KeyError("x"))
    assert not list(tmp_path.iterdir())
