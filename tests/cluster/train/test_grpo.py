"""A GRPO run that is stopped: its user's signal is not forgotten, whatever the learner does at that moment."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from cluster.train.grpo import TrainingRun


class FakeLoop:
    def __init__(self) -> None:
        self.stopped = ""

    def stop(self, reason: str) -> None:
        self.stopped = reason


def open_run(**parts: Any) -> SimpleNamespace:
    """An open run with the settings that every `TrainingRun` reads."""
    return SimpleNamespace(config=SimpleNamespace(groups_per_step=4, learner=SimpleNamespace(mask_truncated_completions=False)), **parts)


def training_run(**parts: Any) -> Any:
    """A run with only the parts that a test needs."""
    others: dict[str, Any] = dict.fromkeys(
        ("run", "maker", "roles", "evaluations", "sinks", "uploads", "callbacks", "base_record", "checkpoint")
    )
    merged: dict[str, Any] = {**others, "run": open_run(), **parts}
    return TrainingRun(**merged)


def test_a_stop_reaches_the_running_loop_and_is_kept_for_the_case_that_the_learner_is_lost() -> None:
    training, loop = training_run(), FakeLoop()
    assert not training.end_after_step("stopped by SIGTERM"), "nothing runs yet"
    training.loop = loop
    assert training.end_after_step("stopped by SIGTERM")
    assert loop.stopped == training.stop_reason == "stopped by SIGTERM"


async def test_no_step_runs_while_the_learner_is_restored() -> None:
    answers: list[bool] = []

    async def restore_learner(_folder: object, _say: object) -> None:
        answers.append(training.end_after_step("stopped by SIGTERM"))

    training = training_run(
        run=open_run(newest_checkpoint=lambda: None, display=SimpleNamespace(say=print)),
        maker=SimpleNamespace(prepared=SimpleNamespace(base_to_train=None, served_path="")),
        roles=SimpleNamespace(restore_learner=restore_learner),
    )
    training.loop = FakeLoop()
    await training._restore_learner()
    assert answers == [False], "so the first signal cancels the run"
