"""The run directory: held by one run, nothing already produced is lost."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.output.run_dir import NOTHING_LEARNED, RunDirectory, foreseen_notice
from configs.contracts.errors import RunDirectoryError


def test_a_directory_that_a_live_run_holds_is_refused_and_named(tmp_path: Path) -> None:
    with (
        RunDirectory.open(tmp_path / "run", "auto"),
        pytest.raises(RunDirectoryError, match=rf"held by a live run \(process {os.getpid()} on .*out_dir=PATH"),
    ):
        RunDirectory.open(tmp_path / "run", "auto")


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    opened = f"RunDirectory.open(Path({str(tmp_path / 'run')!r}), 'auto')"
    code = f"import os\nfrom pathlib import Path\nfrom cluster.output.run_dir import RunDirectory\n{opened}\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    RunDirectory.open(tmp_path / "run", "auto").close()


@pytest.mark.parametrize("reason", ["finished", "data exhausted", "every group was filtered", NOTHING_LEARNED])
def test_a_finished_run_is_moved_aside(tmp_path: Path, reason: str) -> None:
    """Also one that learned nothing: going on from its end would do nothing, again and again."""
    with RunDirectory.open(tmp_path / "run", "auto") as first:
        first.write_summary({"exit_reason": reason})
    with RunDirectory.open(tmp_path / "run", "auto") as second:
        assert second.read_summary() == {}
        assert (tmp_path / "run.1" / "summary.json").exists()


def test_an_unfinished_run_is_gone_on_with_unless_resume_is_none(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "run", "auto") as first:
        first.write_summary({"exit_reason": "stopped by SIGTERM"})
    with RunDirectory.open(tmp_path / "run", "auto") as second:
        assert second.read_summary()["exit_reason"] == "stopped by SIGTERM"
    with RunDirectory.open(tmp_path / "run", "none") as third:
        assert third.read_summary() == {}
    assert (tmp_path / "run.1").exists()


def test_a_run_that_begins_anew_says_where_the_earlier_one_is_and_how_to_go_on_with_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert foreseen_notice(run) == ""
    with RunDirectory.open(run, "auto") as first:
        (first.checkpoints / "step-000003").mkdir()
        first.write_summary({"exit_reason": "stopped by SIGTERM", "steps": 3})
        assert first.notice == "" and foreseen_notice(run) == "", "an unfinished run goes on"
        first.write_summary({"exit_reason": "finished", "steps": 3})
    anew = f"it is kept as {run}.1, and this run begins anew with step 1; to go on from its last checkpoint instead: --resume"
    assert foreseen_notice(run) == f"{run} had a finished run of 3 steps: {anew} {run}/checkpoints/step-000003"
    assert foreseen_notice(run, run / "checkpoints/step-000003") == "", "a checkpoint that is named goes on"
    with RunDirectory.open(run, "auto") as second:
        assert second.notice == f"{run} had a finished run of 3 steps: {anew} {run}.1/checkpoints/step-000003"
        second.write_summary({"exit_reason": "stopped by SIGTERM"})
    with RunDirectory.open(run, "none") as third:
        assert third.notice == f"{run} had an earlier run: it is kept as {run}.2, and this run begins anew with step 1"


def test_an_unwritable_directory_says_so(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunDirectoryError, match=r"cannot be written .*choose another with out_dir=PATH"):
        RunDirectory.open(blocked / "run", "auto")
