"""Progress of counted work: a bar in a terminal; elsewhere, such as in the log of a job, a line every half minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 30.0


@contextmanager
def counting(what: str, total: int, console: Console, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int], None]]:
    """Show the progress of `total` pieces of work. Yields a function that takes the number of pieces just done.

    Example::

        with counting("math_500", len(prompts), console) as advance:
            for prompt in prompts:
                ...
                advance(1)
    """
    if not console.is_terminal:
        yield _Lines(what, total, console, clock).advance
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda count: progress.advance(bar, count)


@dataclass
class _Lines:
    what: str
    total: int
    console: Console
    clock: Callable[[], float]
    done: int = 0
    began_s: float = field(init=False)
    printed_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.began_s = self.printed_s = self.clock()

    def advance(self, count: int) -> None:
        self.done += count
        now_s = self.clock()
        if now_s - self.printed_s < LINE_EVERY_S:
            return
        self.printed_s = now_s
        took_s = now_s - self.began_s
        left_s = took_s / self.done * (self.total - self.done)
        line = f"{self.what}: {self.done:,}/{self.total:,}  {took_s:.0f} s  left {left_s:.0f} s"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
