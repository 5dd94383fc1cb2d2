"""`log_completions`: which completions are shown, that nothing a model writes reaches the terminal but its text, and the live panel's peace."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len
from rich.console import Console

from cluster.output.completions import completion_rows, write_completions
from cluster.output.display import RunDisplay
from cluster.output.sampled_texts import chosen_rows, print_completions
from configs.contracts.records import Grades, PromptId, ScoredGroup, Scores
from tests.bodies import NO_BODY
from tests.rewards.groups import rollout_group, summary_of


def rows_of(texts_PG: list[list[str]], advantages: bool = True) -> list[dict[str, Any]]:
    groups, bodies, found = [], [], {}
    for index, texts_G in enumerate(texts_PG):
        body = rollout_group(texts_G, index=index, conversational=True)
        values_G = tuple(float(n) for n in range(len(texts_G)))
        scores = Scores(body.prompt_id, 0, values_G, {"accuracy": Grades(values_G, ("scored",) * len(texts_G))}, 0.1)
        groups.append(ScoredGroup(NO_BODY, summary_of(body), scores))
        bodies.append(body.table)
        found[PromptId(0, index), 0] = tuple(value - 0.5 for value in values_G)
    return completion_rows(7, groups, bodies, found if advantages else {})


def shown(rows: list[dict[str, Any]], width: int = 120, *, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, emoji=False, soft_wrap=True)
    print_completions(rows, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_rows_are_spread_over_the_prompts() -> None:
    rows = rows_of([["a0", "a1", "a2"], ["b0", "b1"]])
    assert [row["completion"] for row in chosen_rows(rows, 4)] == ["a0", "b0", "a1", "b1"]
    assert [row["completion"] for row in chosen_rows(rows, 4, unique_prompts=True)] == ["a0", "b0"]


def test_a_row_has_each_reward_and_its_advantage() -> None:
    (first, *_) = chosen_rows(rows_of([["a", "b"]]), 2)
    assert list(first) == ["step", "prompt", "completion", "rewards/accuracy", "reward", "advantage"]
    output = shown(chosen_rows(rows_of([["a", "b"]]), 2))
    assert (
        "step 7, completion 1 of 2: reward 0, advantage -0.5" in output and "step 7, completion 2 of 2: reward 1, advantage 0.5" in output
    )
    assert "rewards: accuracy 0 " in output and "rewards: accuracy 1 " in output


def test_the_file_of_a_step_has_the_advantages(tmp_path: Path) -> None:
    file = write_completions(tmp_path, 7, rows_of([["a", "b"], ["c", "d"]]))
    assert pq.read_table(file).column("advantage").to_pylist() == [-0.5, 0.5, -0.5, 0.5]
    assert pq.read_table(write_completions(tmp_path, 8, rows_of([["a"]], advantages=False))).column("advantage").to_pylist() == [None]


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_model_writes_is_no_markup_and_no_control_sequence(terminal: bool) -> None:
    written = "[bold]x[/bold] :smile: \x1b[31mred\x07\u202e \x9b31m"
    output = shown(chosen_rows(rows_of([[written, "[/unclosed"]]), 2), terminal=terminal)
    assert "[bold]x[/bold] :smile: ␛[31mred␇· ·31m" in output and "[/unclosed" in output
    assert not {"\x1b", "\x07", "\u202e", "\x9b"} & set(output)


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_panel_is_as_wide_as_the_terminal_and_breaks_no_word(width: int) -> None:
    words = [f"word-{number}-{'x' * (number % 20)}" for number in range(30)]
    chinese = "第一个素数是二，然后是三，五，七，十一，十三，十七。它们的和是五十八。" * 4
    output = shown(chosen_rows(rows_of([[" ".join(words), f"<think>{chinese}</think>"]]), 2), width)
    assert {cell_len(line) for line in output.splitlines()} == {width}
    assert set(words) <= set(output.split())
    assert chinese in "".join(line.strip("│ ") for line in output.splitlines())


def test_elsewhere_than_on_a_terminal_lines_are_plain() -> None:
    long = "word " * 60
    output = shown(chosen_rows(rows_of([[long.strip(), "two\nlines"]]), 2), terminal=False)
    assert f"completion: {long.strip()}\n" in output and "completion: two\nlines\n" in output
    assert not set("│╭─") & set(output)


def test_long_texts_show_how_they_begin_and_end() -> None:
    (row, *_) = chosen_rows(rows_of([["begins " + "word " * 1000 + "ends", "b"]]), 1)
    output = shown([row | {"prompt": "old " * 500 + "question?"}])
    assert "wor " not in output and "old question?" in output
    for text in ("begins word", "word […] word", "word ends"):
        assert text in output
    assert len(output.splitlines()) < 40


def test_the_live_panel_stays_below() -> None:
    output = io.StringIO()
    display = RunDisplay(_console=Console(file=output, force_terminal=True, width=100, soft_wrap=True))
    with display.steps(0, 3):
        display.step(1, 3, {"train/reward": 0.5})
        display.completions(chosen_rows(rows_of([["a", "b"]]), 2))
        display.step(2, 3, {"train/reward": 0.6})
    text = output.getvalue()
    assert text.index("step 7, completion 1 of 2") < text.rindex("2/3")
    display.completions([])
