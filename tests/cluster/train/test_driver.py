"""The frame of a run: failures are recorded once it has begun, a lost learner is restored a bounded number of times, signals end it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from cluster.output.display import RunDisplay
from cluster.output.run_dir import read_summary
from cluster.train.driver import FinishedStep, Restarts, call_back, open_run, stop_on_signals
from configs.contracts.errors import LearnerError, NonFiniteError, StoppedError
from configs.schema.run import RunConfig


def config_of(out_dir: Path) -> RunConfig:
    return RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "out_dir": out_dir})


def never_stopped() -> str:
    return ""


def test_a_failure_is_the_exit_reason_of_a_run_that_has_begun(tmp_path: Path) -> None:
    with pytest.raises(LearnerError), open_run(config_of(tmp_path / "x"), "auto", RunDisplay()) as run:
        run.begin()
        raise LearnerError("rank 0 is gone")
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert summary["exit_reason"] == "failed: LearnerError: rank 0 is gone"
    assert (tmp_path / "x" / "config.yaml").exists()
    assert not (tmp_path / "x" / "run.lock").exists(), "the directory is free again"


def test_a_failure_before_a_run_has_begun_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(LearnerError), open_run(config_of(tmp_path / "x"), "auto", RunDisplay()):
        raise LearnerError("another model")
    assert not [path.name for path in (tmp_path / "x").rglob("*") if path.is_file()]


def test_a_failed_run_leaves_what_it_knows_and_its_last_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(LearnerError), open_run(config_of(tmp_path / "x"), "auto", RunDisplay()) as run:
        run.begin()
        for step in (2, 4):
            (run.directory.checkpoints / f"step-{step:06d}").mkdir()
        run.so_far = lambda: {"steps": 5, "accounting": {"trained": 40}}
        raise LearnerError("rank 0 is gone")
    summary = json.loads((tmp_path / "x" / "summary.json").read_text())
    assert (summary["steps"], summary["accounting"], summary["last_checkpoint"]) == (5, {"trained": 40}, "step-000004")


def test_a_ledger_that_cannot_be_had_does_not_hide_the_failure(tmp_path: Path) -> None:
    with pytest.raises(LearnerError), open_run(config_of(tmp_path / "x"), "auto", RunDisplay()) as run:
        run.begin()
        run.so_far = lambda: {}["ledger"]
        raise LearnerError("rank 0 is gone")
    assert json.loads((tmp_path / "x" / "summary.json").read_text())["exit_reason"] == "failed: LearnerError: rank 0 is gone"


def test_a_summary_that_cannot_be_written_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LearnerError) as caught, open_run(config_of(tmp_path / "x"), "auto", RunDisplay()) as run:
        run.begin()
        run.so_far = lambda: {"steps": 5}
        shutil.rmtree(tmp_path / "x")
        raise LearnerError("rank 0 is gone")
    printed = capsys.readouterr().out
    assert "WARNING: summary.json cannot be written" in printed and '"steps": 5' in printed and "rank 0 is gone" in printed
    assert caught.value.__context__ is None, "no chain of tracebacks"
    assert not (tmp_path / "x").exists(), "a directory that is gone is not made anew"


def test_a_damaged_checkpoint_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_run(config_of(tmp_path / "x"), "auto", RunDisplay()) as run:
        damaged = run.directory.checkpoints / "step-000002"
        damaged.mkdir()
        (damaged / "manifest.json").write_text("[]")
        assert run.newest_checkpoint() is None and run.newest_checkpoint() is None
    assert capsys.readouterr().out.count("not a whole checkpoint") == 1


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "3", "[" * 100_000])
def test_a_summary_of_the_wrong_kind_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "summary.json").write_text(content)
    assert read_summary(tmp_path) == {}


def test_an_output_that_is_gone_does_not_end_a_run(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        display = RunDisplay(_console=Console(file=full))
        display.say("half of a pair: \ud800")
        display.step(1, 1, {})
        with suppress(OSError):
            full.close()
        display.say("after the end")


async def test_a_lost_learner_is_restored_until_once_too_often() -> None:
    restored, said = 0, []

    async def attempt() -> str:
        raise LearnerError("the process died", role="learner rank 0")

    async def restore() -> None:
        nonlocal restored
        restored += 1

    with pytest.raises(LearnerError, match="the process died"):
        await Restarts(2, restore, never_stopped, said.append).through(attempt)
    assert restored == 2
    assert said[-1] == "learner rank 0: the process died; making the learner group again (2 of 2)"


async def test_an_attempt_after_a_restart_gives_the_reason() -> None:
    attempts = 0

    async def attempt() -> str:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise LearnerError("the process died")
        return "finished"

    async def restore() -> None: ...

    assert await Restarts(1, restore, never_stopped, print).through(attempt) == "finished"


async def test_a_learner_that_is_lost_while_it_is_restored_counts_too() -> None:
    restored = 0

    async def attempt() -> str:
        if restored == 0:
            raise LearnerError("the process died")
        return "finished"

    async def restore() -> None:
        nonlocal restored
        restored += 1
        if restored < 3:
            raise LearnerError("the process died again")

    assert await Restarts(3, restore, never_stopped, print).through(attempt) == "finished"
    restored = 0
    with pytest.raises(LearnerError, match="died again"):
        await Restarts(2, restore, never_stopped, print).through(attempt)


async def test_a_stopped_run_that_loses_its_learner_ends() -> None:
    async def attempt() -> str:
        raise LearnerError("no answer to the call 'step' for 300 s", role="learner rank 1")

    async def restore() -> None:
        raise AssertionError("nobody waits for it any more")

    with pytest.raises(StoppedError, match="stopped by SIGTERM, and the learner was lost .*no answer to the call 'step'") as caught:
        await Restarts(2, restore, lambda: "stopped by SIGTERM", print).through(attempt)
    assert caught.value.exit_code == 128 + signal.SIGTERM


async def test_losses_that_are_not_finite_are_not_tried_again() -> None:
    async def attempt() -> str:
        raise NonFiniteError("3 steps in a row")

    async def restore() -> None:
        raise AssertionError("the same data would give it again")

    with pytest.raises(NonFiniteError):
        await Restarts(2, restore, never_stopped, print).through(attempt)


@pytest.mark.parametrize(("step_runs", "signals_needed"), [(True, 2), (False, 1)])
def test_a_signal_waits_for_the_running_step_and_a_second_does_not(step_runs: bool, signals_needed: int) -> None:
    asked: list[str] = []
    said: list[str] = []

    async def main() -> None:
        with stop_on_signals(said.append) as signals:
            signals.end_after_step = lambda reason: step_runs and not asked.append(reason)
            for _ in range(signals_needed):
                os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.sleep(0.01)
            raise AssertionError("the run went on")

    with pytest.raises(StoppedError, match="stopped by SIGTERM: run the same command again") as caught:
        asyncio.run(main())
    assert caught.value.exit_code == 143
    assert asked == (["stopped by SIGTERM"] if step_runs else [])
    assert len(said) == step_runs


def test_callbacks_see_each_step_in_order() -> None:
    seen: list[str] = []
    step = FinishedStep(Path("run"), 3, 10, {"train/reward": 1.0}, seen.append)
    call_back([lambda each: seen.append(f"first {each.step}"), lambda each: each.stop("reward is high enough")], step)
    assert seen == ["first 3", "reward is high enough"]
