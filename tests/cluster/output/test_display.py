"""What is shown of a step."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from cluster.output.display import RunDisplay, shown_of_rewards


@pytest.mark.parametrize("terminal", [False, True])
def test_a_number_that_was_not_measured_is_a_dash(terminal: bool) -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=terminal, width=200, soft_wrap=True)
    display = RunDisplay(shown=shown_of_rewards(["accuracy"]), _console=console)
    with display.steps(0, 2):
        display.step(1, 2, {"staleness/mean": 0.0, "step_time": 1.0})
    told = output.getvalue()
    assert "reward" in told and "accuracy" in told and "0.000" not in told and "-" in told
    assert "sync" not in told, "an adapter is not synced in every step"


@pytest.mark.parametrize(("labels", "shown"), [(["format", "accuracy"], True), (["mixed_reward"], False), (["reasoning_accuracy"], False)])
def test_an_accuracy_is_shown_only_of_a_run_that_has_one(labels: list[str], shown: bool) -> None:
    assert ("train/accuracy" in [name for _, name, _ in shown_of_rewards(labels)]) == shown


def test_a_line_moves_no_cursor() -> None:
    output = StringIO()
    RunDisplay(_console=Console(file=output, soft_wrap=True)).say("reward failed: \x1b[2J [red]x[/red]\ud800")
    assert output.getvalue() == "reward failed: ␛[2J [red]x[/red]·\n"
