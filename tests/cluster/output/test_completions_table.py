"""`log_completions`: which completions are shown, that nothing a model writes reaches the terminal but its text, and the live panel's peace."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from cluster.output.completions import completion_rows, write_completions
from cluster.output.completions_table import chosen_rows, completions_table
from cluster.output.display import RunDisplay
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


def shown(rows: list[dict[str, Any]], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(completions_table(rows))
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
    assert "completions of step 7" in output and "accuracy" in output and "-0.5" in output and "0.5" in output


def test_the_file_of_a_step_has_the_advantages(tmp_path: Path) -> None:
    file = write_completions(tmp_path, 7, rows_of([["a", "b"], ["c", "d"]]))
    assert pq.read_table(file).column("advantage").to_pylist() == [-0.5, 0.5, -0.5, 0.5]
    assert pq.read_table(write_completions(tmp_path, 8, rows_of([["a"]], advantages=False))).column("advantage").to_pylist() == [None]


def test_what_a_model_writes_is_no_markup_and_no_control_sequence() -> None:
    output = shown(chosen_rows(rows_of([["[bold]x[/bold] \x1b[31mred\x07\u202e", "[/unclosed"]]), 2))
    assert "[bold]x[/bold]" in output and "[/unclosed" in output
    assert "\x1b[31m" not in output and "\x07" not in output and "\u202e" not in output


def test_long_texts_show_how_they_begin_and_end() -> None:
    (row, *_) = chosen_rows(rows_of([["begins " + "word " * 1000 + "ends", "b"]]), 1)
    output = shown([row | {"prompt": "old " * 500 + "question?"}])
    for text in ("begins", "[…]", "ends", "question?"):
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
    assert text.index("completions of step 7") < text.rindex("2/3")
    display.completions([])
