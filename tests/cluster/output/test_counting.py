"""What is seen of counted work: lines by the clock without a terminal, a bar that goes away with one."""

from __future__ import annotations

import io

from rich.console import Console

from cluster.output.counting import counting


def test_without_a_terminal_a_line_comes_every_half_minute() -> None:
    output, clock = io.StringIO(), iter((100.0, 110.0, 129.0, 131.0, 150.0, 160.9, 161.0, 162.0))
    with counting("math_500, [greedy]", 1200, Console(file=output, width=20), clock=lambda: next(clock)) as advance:
        for count in (100, 100, 110, 40, 50, 200, 600):
            advance(count)
    assert output.getvalue().splitlines() == [
        "math_500, [greedy]: 310/1,200  31 s  left 89 s",
        "math_500, [greedy]: 600/1,200  61 s  left 61 s",
    ]


def test_work_of_less_than_half_a_minute_says_nothing() -> None:
    output = io.StringIO()
    with counting("completions", 10, Console(file=output), clock=lambda: 0.0) as advance:
        advance(10)
    assert output.getvalue() == ""


def test_in_a_terminal_a_bar_counts_and_is_taken_away() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with counting("prompts", 8, console) as advance:
        advance(3)
        advance(5)
    assert "prompts" in output.getvalue() and "8/8" in output.getvalue()
    assert output.getvalue().endswith("\x1b[2K"), "the bar's line was not erased"
