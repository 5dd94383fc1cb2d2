"""Gold answers that stand in their own prompts, so that the model need only copy them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

from configs.contracts.records import Prompt

ANSWERS = ("solution", "answer", "ground_truth", "gold", "target", "response", "output", "completion", "demonstration")
"""Columns that mostly hold the answer."""

_FEWEST, _SHARE = 4, 0.5
_BOXED = re.compile(r"\\boxed\{([^{}]+)\}")


def leak_warnings(prompts: Sequence[Prompt], columns: Collection[str] = ()) -> Iterator[str]:
    """Warn of columns whose answers stand word for word in the prompts of their own rows, and rarely in those of others.

    Letters of a choice and numbers stand in many prompts by chance: what counts is that a row's own answer does so more than twice as often as
    its neighbour's.

    Args:
        columns: that hold golds, besides `ANSWERS`.
    """
    for column in dict.fromkeys((*columns, *ANSWERS)):
        rows = [(prompt.text, gold) for prompt in prompts if isinstance(gold := prompt.columns.get(column), str) and gold.strip()]
        if len(rows) < _FEWEST:
            continue
        own = sum(_stands_in(text, gold) for text, gold in rows)
        others = sum(_stands_in(text, gold) for (text, _), (_, gold) in zip(rows, rows[1:] + rows[:1], strict=True))
        if own >= _SHARE * len(rows) and others * 2 <= own:
            yield (
                f"the answer in column {column!r} stands word for word in the prompt of {own} of the first {len(rows)} rows ({own / len(rows):.0%}): "
                "the model need only copy it; take it out of the prompts, or ignore this if the task is to find a passage"
            )


def _stands_in(text: str, gold: str) -> bool:
    """Look for the answer, or for what `####` or a box marks in it, not inside a longer word or number."""
    forms = [gold.strip(), gold.rpartition("####")[2].strip(), *_BOXED.findall(gold)]
    return any(re.search(rf"(?<![A-Za-z0-9.]){re.escape(form)}(?![A-Za-z0-9]|\.[0-9])", text) for form in forms if form)
