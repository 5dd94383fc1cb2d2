"""Prompts and completions on a terminal, each in a panel; and which of a step's completions `cluster.log_completions` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.text import Text

from cluster.output.completions import REWARD_PREFIX
from cluster.output.printable import beginning, end, printable

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


def print_completions(rows: Sequence[Row], console: Console) -> None:
    """Print rows of `chosen_rows`: the end of the prompt, the completion, and what it got."""
    for number, row in enumerate(rows, start=1):
        title = f"step {row['step']}, completion {number} of {len(rows)}: reward {_number(row['reward'])}, advantage {_number(row['advantage'])}"
        rewards = [f"{name.removeprefix(REWARD_PREFIX)} {_number(value)}" for name, value in row.items() if name.startswith(REWARD_PREFIX)]
        texts = {"prompt": _tail(str(row["prompt"])), "completion": _ends(str(row["completion"])), "rewards": ", ".join(rewards)}
        print_sample(title, [Text(f"{name}: ", style="dim").append(text, style="not dim") for name, text in texts.items()], console)


def print_sample(title: str, texts: Sequence[Text], console: Console) -> None:
    """Print texts one below the other, on a terminal in a panel as wide as that, elsewhere as plain lines.

    Args:
        texts: printable ones; their words are not broken unless they are longer than a line, nor read as markup or emoji.
    """
    if not console.is_terminal:
        for text in (Text(f"--- {title}"), *texts):
            console.print(text, soft_wrap=True)
        return
    parts = [part for text in texts for part in (Rule(style="dim"), text)]
    console.print(Panel(Group(*parts[1:]), title=Text(title), title_align="left", box=box.ROUNDED), soft_wrap=False)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) else "–"


def _tail(prompt: str) -> str:
    prompt = printable(prompt).rstrip()
    return prompt if len(prompt) <= PROMPT_CHARACTERS else f"…{end(prompt, PROMPT_CHARACTERS)}"


def _ends(completion: str) -> str:
    completion, half = printable(completion), COMPLETION_CHARACTERS // 2
    return completion if len(completion) <= COMPLETION_CHARACTERS else f"{beginning(completion, half)} […] {end(completion, half)}"
