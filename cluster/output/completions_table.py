"""`cluster.log_completions`: which of a step's completions are shown, and how they look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.output.completions import REWARD_PREFIX

PROMPT_CHARACTERS, COMPLETION_CHARACTERS = 160, 600
"""Only the end of a longer prompt is shown, and the beginning and the end of a longer completion."""

Row = Mapping[str, object]


def chosen_rows(rows: Sequence[Row], count: int, *, unique_prompts: bool = False) -> list[dict[str, object]]:
    """Choose at most `count` rows, spread over the prompts of the step: the first of each prompt, then the second of each, and so on.

    Args:
        rows: as a run writes them to Parquet.
        unique_prompts: take only the first of each prompt.

    Returns:
        Rows with the columns of TRL's table: step, prompt, completion, each reward, reward and advantage.
    """
    place: dict[object, int] = {}
    ranked = []
    for order, row in enumerate(rows):
        nth = place[row["prompt_id"]] = place.get(row["prompt_id"], -1) + 1
        if not (unique_prompts and nth):
            ranked.append((nth, order, row))
    ranked.sort(key=lambda each: each[:2])
    return [_shown(row) for _, _, row in ranked[:count]]


def _shown(row: Row) -> dict[str, object]:
    rewards = {name: value for name, value in row.items() if name.startswith(REWARD_PREFIX)}
    return {
        "step": row["step"],
        "prompt": row["prompt"],
        "completion": row["completion"],
        **rewards,
        "reward": row["reward"],
        "advantage": row["advantage"],
    }


def completions_table(rows: Sequence[Row]) -> Table:
    """Make a table for the terminal. Markup in a completion is printed as it is, and its control characters are replaced by dots."""
    names = [name for name in rows[0] if name not in ("step", "prompt", "completion")]
    table = Table(title=f"completions of step {rows[0]['step']}", title_justify="left", box=box.ROUNDED, show_lines=True)
    table.add_column("prompt", ratio=2, overflow="fold")
    table.add_column("completion", ratio=4, overflow="fold")
    for name in names:
        table.add_column(Text(name.removeprefix(REWARD_PREFIX)), justify="right")
    for row in rows:
        numbers = ("–" if row.get(name) is None else f"{row[name]:.3g}" for name in names)
        table.add_row(Text(_tail(str(row["prompt"]))), Text(_ends(str(row["completion"]))), *numbers)
    return table


def _tail(prompt: str) -> str:
    prompt = printable(prompt).rstrip()
    return prompt if len(prompt) <= PROMPT_CHARACTERS else f"…{prompt[-PROMPT_CHARACTERS:]}"


def _ends(completion: str) -> str:
    completion, half = printable(completion), COMPLETION_CHARACTERS // 2
    return completion if len(completion) <= COMPLETION_CHARACTERS else f"{completion[:half]} […] {completion[-half:]}"


def printable(text: str) -> str:
    """Replace control and format characters, except line ends, by a dot."""
    return "".join(character if character.isprintable() or character == "\n" else "·" for character in text)
