"""Sampled completions as Parquet files: a run writes them, `rollcast score` reads them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from configs.contracts.records import PromptId, RolloutGroup, ScoredGroup, Scores

COMPLETION_COLUMNS = (
    "step", "prompt_id", "completion_index", "prompt", "messages", "completion", "completion_ids", "finish_reason", "tokens",
    "policy_versions", "reward", "advantage",
)  # fmt: skip
"""Columns that every run writes. Others are the columns of the data set, and two for each reward (see the prefixes)."""

REWARD_PREFIX, OUTCOME_PREFIX = "rewards/", "outcomes/"
"""Prefixes of a reward's columns: the value that it gave, and the outcome of calling it."""

DATA_PREFIX = "data/"
"""Prefix of a column of the data set whose own name is one of `COMPLETION_COLUMNS`."""


CompletionRow: TypeAlias = dict[str, object]
"""One completion as a row: columns of `COMPLETION_COLUMNS`, of the data, and of the rewards."""

Advantages = Mapping[tuple[PromptId, int], tuple[float | None, ...]]
"""(prompt, attempt) of a group -> advantages of its completions."""


def completion_rows(step: int, groups: Sequence[ScoredGroup], bodies: Sequence[pa.Table], advantages: Advantages) -> list[CompletionRow]:
    """Make a row of each completion: its row of the data set, each reward and outcome, its advantage and policy versions."""
    rows: list[CompletionRow] = []
    for group, table in zip(groups, bodies, strict=True):
        advantages_G = advantages.get((group.summary.prompt_id, group.summary.attempt))
        rows += group_rows(step, group.scores, RolloutGroup(table), advantages_G)
    return rows


def write_completions(folder: Path, step: int, rows: Sequence[CompletionRow]) -> Path:
    """Write the completions of a step to one Parquet file, whole or not at all; returns its path."""
    file = folder / f"step-{step:06d}.parquet"
    folder.mkdir(exist_ok=True)
    unfinished = file.with_name(file.name + ".tmp")
    try:
        pq.write_table(table_of(rows), unfinished)
        unfinished.replace(file)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return file


def table_of(rows: Sequence[Mapping[str, object]]) -> pa.Table:
    """Make a table of rows. A column that Parquet cannot hold, such as one of mixed types, is kept as JSON text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({_encodable(name): _array([row.get(name) for row in rows]) for name in names})


def _array(values: list[object]) -> pa.Array:
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeError):  # mixed types; an integer over 64 bits; half of a surrogate pair
        return _json_texts(values)
    return array if _storable(array.type) else _json_texts(values)


def _json_texts(values: list[object]) -> pa.Array:
    return pa.array([None if value is None else _encodable(json.dumps(value, ensure_ascii=False, default=repr)) for value in values])


def _encodable(text: str) -> str:
    """Write half of a surrogate pair, which no encoding has, as JSON does: `\\ud800`."""
    return text.encode("utf-8", "backslashreplace").decode()


def _storable(kind: pa.DataType) -> bool:
    """Return False for an object without keys, at any depth: Parquet has no such type."""
    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_storable(kind.field(index).type) for index in range(kind.num_fields))
    return _storable(kind.value_type) if pa.types.is_list(kind) else True


def group_rows(step: int, scores: Scores, body: RolloutGroup, advantages_G: Sequence[float | None] | None = None) -> list[CompletionRow]:
    """Make a row of each completion of one group; without advantages if the group was not trained on."""
    advantages_G = advantages_G or (None,) * len(body)
    data = {f"{DATA_PREFIX}{name}" if name in COMPLETION_COLUMNS else name: value for name, value in body.columns.items()}
    texts, finish_reasons = body.texts_G, body.finish_reasons_G
    rows = []
    for index in range(len(body)):
        row: CompletionRow = data | {name: values[index] for name, values in scores.extras.items()}
        row |= {
            "step": step,
            "prompt_id": str(body.prompt_id),
            "completion_index": index,
            "prompt": body.prompt_text,
            "messages": body.messages if body.conversational else None,
            "completion": texts[index],
            "completion_ids": body.token_ids_T(index).tolist(),
            "finish_reason": finish_reasons[index],
            "tokens": len(body.token_ids_T(index)),
            "policy_versions": [span.version for span in body.spans(index)],
            "reward": scores.rewards_G[index],
            "advantage": advantages_G[index],
        }
        for name, column in scores.columns.items():
            row[f"{REWARD_PREFIX}{name}"] = column.values_G[index]
            row[f"{OUTCOME_PREFIX}{name}"] = column.outcomes_G[index]
        rows.append(row)
    return rows
