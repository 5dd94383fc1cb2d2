"""Evaluation sets with a short name: `math_500` stands for a hub id, a split and the names of its columns.

Sources: ids, splits and columns are those of the sets' own cards and of lighteval's tasks, by which Open-R1 evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from actors.generated.sources import is_generated, require_generated, write_generated
from actors.rows.rows import Rows, load_rows, local_files
from actors.rows.views import renamed, with_parts
from configs.contracts.errors import DataError
from configs.schema.sources import MixturePart

EVALUATION_SEED = 1_000
"""Seed of evaluation sets that are made: the same problems for every model, and no run's own unless it has this seed."""

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


def require_named_or_path(spec: str) -> list[Path] | None:
    """Look for an evaluation set without reading it; one on the hub is not asked for. Returns its files, if they are known to be here.

    Raises:
        DataError: there is none at this path, or it has no such split.
    """
    if is_generated(spec):
        require_generated(spec, None)
        return None
    if is_named(spec):
        return None
    path, split = _path_and_split(spec)
    return local_files(MixturePart(path=path, split=split))


def is_named(spec: str) -> bool:
    """Tell a name of `NAMED_SETS` from a path."""
    return spec in NAMED_SETS and not Path(spec).exists()


def _path_and_split(spec: str) -> tuple[str, str]:
    path, at, split = spec.rpartition("@")
    return (spec, "test") if not at or Path(spec).expanduser().exists() else (path, split)


def _made(spec: str) -> Rows:
    with TemporaryDirectory(prefix="rollcast-rows-") as folder:
        return load_rows(str(write_generated(spec, None, Path(folder), EVALUATION_SEED)))


def load_named_or_path(spec: str, prompt_column: str | None = None) -> tuple[Rows, str]:
    """Open an evaluation set; returns its rows, and the column of their prompts.

    Args:
        spec: a name of `NAMED_SETS`; or `reasoning_gym:TASK`, whose problems are then others than those of a run; or a file, folder or hub
            id, followed by `@split` for another split than `test` (if a local data set has only one split, it is taken).
        prompt_column: the column of the prompts of a data set that is not in `NAMED_SETS`, if it exists there.

    Raises:
        DataError: there is no such data set, or none of its columns is known to hold prompts.

    Example: `load_named_or_path("math_500")`, `load_named_or_path("data/my.jsonl")`, `load_named_or_path("openai/gsm8k@train")`.
    """
    if is_named(spec):
        known = NAMED_SETS[spec]
        rows = load_rows(known.path, name=known.name, split=known.split)
        return renamed(rows, known.columns, f"the gold column of {spec}"), known.prompt_column
    if is_generated(spec):
        return _made(spec), "prompt"
    path, split = _path_and_split(spec)
    try:
        rows = load_rows(path, split=split)
    except DataError as error:
        raise DataError(f"{error.message} (sets known by name: {', '.join(NAMED_SETS)})") from None
    rows = with_parts(rows, (prompt_column,) if prompt_column is not None else ())
    column = next((name for name in (prompt_column, *PROMPT_COLUMNS) if name in rows.columns), None)
    if column is None:
        raise DataError(
            f"{spec} has the columns {', '.join(rows.columns)}, none of which is known to hold prompts; "
            f"name one of them {', '.join(PROMPT_COLUMNS[:-1])} or {PROMPT_COLUMNS[-1]}"
        )
    return rows, column
