"""Tables of a conversion: the settings that changed, the keys that the recipe does not set, and the settings without effect.

A cell breaks between words, and a word that is too long behind a slash, or at the dot of a key. Where the columns do not fit, they stand one
below the other:

    lr_scheduler_kwargs: {min_lr_rate: 0.1}
          learner.min_lr_rate: 0.1
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TypeAlias

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from configs.recipes.draft import Row

CELLS = (48, 38)
"""Most columns of the terminal for a setting with its value, if they can be broken: in a wide terminal, and in a narrower one."""

REASON = 24
"""Fewest columns for a reason beside its setting."""

GAPS = 8
"""Columns between and beside three cells."""

INDENT, BELOW = "  ", "      "
"""Before the rest of a line that is broken, and before a cell that stands below another."""

_PARTS = re.compile(r"(?<=/)(?=[^/])|(?<=,)(?=\S)|(?<=[\u2e80-\uffef])")
_KEYS = re.compile(r"(?<=[A-Za-z_]\.)(?=[A-Za-z_])")
"""Places at which a long word is broken: behind a slash, a comma or a Chinese character; and if that is not enough, at the dots of a key."""

Cells: TypeAlias = tuple[str, ...]


def show_rows(rows: Sequence[Row], console: Console, *, verbose: bool) -> None:
    """Print what became of the settings of a recipe.

    Args:
        verbose: print those too that keep their name and value; otherwise only their number.
    """
    converted = [row for row in rows if row.setting and row.target and (verbose or not row.is_taken_as_it_is)]
    ignored = sorted((row for row in rows if not row.target), key=lambda row: row.why)
    _print(console, ("in the recipe", "here", ""), _without_repeats(converted))
    _print(console, ("not in the recipe, set here", "because"), _by_reason((row.outcome, row.why) for row in rows if not row.setting))
    _print(console, ("no effect here", "because"), _by_reason((row.origin, row.why) for row in ignored))
    taken = 0 if verbose else sum(row.is_taken_as_it_is for row in rows)
    if taken:
        more = "key taken as it is (--verbose shows it)" if taken == 1 else "keys taken as they are (--verbose shows them)"
        console.print(f"{taken} more {more}", highlight=False, soft_wrap=True)


def folded(text: str, width: int, indent: str = INDENT) -> list[str]:
    """Break each line of a text into lines of `width` columns: between words, and inside a word only where it is longer than that.

    Args:
        indent: begins what is left of a line.
    """
    return [piece for line in text.split("\n") for piece in _folded_line(line, width, indent)]


def _folded_line(text: str, width: int, indent: str) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        space = " " if lines[-1].strip() else ""
        for piece in _pieces(word, width - len(indent)):
            if lines[-1].strip() and cell_len(lines[-1] + space + piece) > width:
                lines.append(indent + piece)
            else:
                lines[-1] += space + piece
            space = ""
    return lines


def _pieces(word: str, width: int) -> list[str]:
    if cell_len(word) <= width:
        return [word]
    return [piece for part in _PARTS.split(word) for piece in ([part] if cell_len(part) <= width else _KEYS.split(part))]


def _by_reason(cells: Iterable[tuple[str, str]]) -> Iterator[Cells]:
    """Join the neighbours that share a reason."""
    for why, group in groupby(cells, key=lambda cell: cell[1]):
        yield "\n".join(text for text, _ in group), why


def _without_repeats(rows: Sequence[Row]) -> Iterator[Cells]:
    """Join the settings that make one key, and then the keys that are made from the same settings for the same reason."""
    origins: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        origins.setdefault((row.outcome, row.why), []).append(row.origin)
    outcomes: dict[tuple[str, str], list[str]] = {}
    for (outcome, why), settings in origins.items():
        outcomes.setdefault(("\n".join(settings), why), []).append(outcome)
    for (settings, why), keys in outcomes.items():
        yield settings, "\n".join(keys), why


def _print(console: Console, headings: Cells, rows: Iterable[Cells]) -> None:
    rows = list(rows)
    if not rows:
        return
    for most in CELLS:
        beside = [(*("\n".join(folded(cell, most)) for cell in row[:-1]), row[-1]) for row in rows]
        widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in list(zip(*beside, strict=True))[:-1]]
        if sum(widths) + REASON + GAPS <= console.width:
            reason = console.width - sum(widths) - GAPS
            console.print(_table(headings, [(*row[:-1], "\n".join(folded(row[-1], reason, ""))) for row in beside], widths))
            return
    console.print(f"\n[bold]{', '.join(filter(None, headings))}[/bold]\n", highlight=False)
    for line in _stacked(rows, console.width):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(headings: Cells, rows: Sequence[Cells], widths: Sequence[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading, width in zip(headings, (*widths, None), strict=True):
        table.add_column(heading, no_wrap=width is not None, min_width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _stacked(rows: Sequence[Cells], width: int) -> Iterator[str]:
    """The cells of each row below one another."""
    for first, *rest in rows:
        yield from folded(first, width)
        for cell in filter(None, rest):
            yield from (f"{BELOW}{line}" for line in folded(cell, width - len(BELOW)))
