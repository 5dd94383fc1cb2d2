"""Evaluation sets with a short name: `math_500` stands for a hub id, a split and the names of its columns.

Sources: ids, splits and columns are those of the sets' own cards and of lighteval's tasks, by which Open-R1 evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from actors.rows.rows import Rows, load_rows
from actors.rows.views import renamed
from configs.contracts.errors import DataError

PROMPT_COLUMNS = ("prompt", "problem", "question", "instruction", "messages")
"""Columns in which other data sets hold the prompt; the first that exists is used."""


@dataclass(frozen=True)
class NamedSet:
    """Location and columns of an evaluation set."""

    path: str
    """Hub id."""
    split: str
    prompt_column: str
    columns: Mapping[str, str] = field(default_factory=dict)
    """Its column names -> ours. The gold answer becomes `solution`, the column that the accuracy reward reads."""
    name: str | None = None
    """Configuration on the hub."""


_GOLD = MappingProxyType({"answer": "solution"})
"""The column `answer` becomes the gold answer, in place of a `solution` column with a worked solution. Of GSM8K's answers, the accuracy reward
reads only the part after `####`."""

NAMED_SETS: Mapping[str, NamedSet] = MappingProxyType(
    {
        "math_500": NamedSet("HuggingFaceH4/MATH-500", "test", "problem", _GOLD),
        "aime_2024": NamedSet("HuggingFaceH4/aime_2024", "train", "problem", _GOLD),
        "aime_2025": NamedSet("yentinglin/aime_2025", "train", "problem", _GOLD),
        "gsm8k": NamedSet("openai/gsm8k", "test", "question", _GOLD, name="main"),
    }
)
"""Name -> evaluation set."""


def load_named_or_path(spec: str, prompt_column: str | None = None) -> tuple[Rows, str]:
    """Open an evaluation set; returns its rows, and the column of their prompts.

    Args:
        spec: a name of `NAMED_SETS`; or a file, folder or hub id, followed by `@split` for another split than `test`
            (if a local data set has only one split, it is taken).
        prompt_column: the column of the prompts of a data set that is not in `NAMED_SETS`, if it exists there.

    Raises:
        DataError: there is no such data set, or none of its columns is known to hold prompts.

    Example: `load_named_or_path("math_500")`, `load_named_or_path("data/my.jsonl")`, `load_named_or_path("openai/gsm8k@train")`.
    """
    if spec in NAMED_SETS and not Path(spec).exists():
        known = NAMED_SETS[spec]
        rows = load_rows(known.path, name=known.name, split=known.split)
        return renamed(rows, known.columns, f"the gold column of {spec}"), known.prompt_column
    path, at, split = spec.rpartition("@")
    if not at or Path(spec).expanduser().exists():
        path, split = spec, "test"
    try:
        rows = load_rows(path, split=split)
    except DataError as error:
        raise DataError(f"{error.message} (sets known by name: {', '.join(NAMED_SETS)})") from None
    column = next((name for name in (prompt_column, *PROMPT_COLUMNS) if name in rows.columns), None)
    if column is None:
        raise DataError(
            f"{spec} has the columns {', '.join(rows.columns)}, none of which is known to hold prompts; "
            f"name one of them {', '.join(PROMPT_COLUMNS[:-1])} or {PROMPT_COLUMNS[-1]}"
        )
    return rows, column
