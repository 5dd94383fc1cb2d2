"""Columns that nothing reads: a notice of them, and what to do about those that mean something to other trainers."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from types import MappingProxyType

from actors.rows.files import JsonValue
from actors.rows.rows import Rows

_LOOKED_AT_ROWS = 100
_SHOWN_CHARACTERS = 60

_PICTURES = (
    "rows with them cannot be trained on here, which reads text only: the model would answer without seeing them; leave such rows out"
)
_PREFERENCE = "it makes the rows pairs for a preference training (DPO, ORPO), which does not exist here"
_FEEDBACK = "it judges the answer of its row, as KTO trains on it, which does not exist here: bad answers are imitated like good ones; leave them out"
_SYSTEM = "it is the system message of its row, which the model does not get here"
_VARIABLES = "it sets variables of the chat template for its row, which are not set here: set model.chat_template to one that needs none"
_TOKENS = "rows are tokenised here, by the model's chat template: give texts"
_TURNS = "it holds the turns of a conversation before its last question, which the model does not get here"

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "tools": "it lists the functions that the model may call, which the model is not told here",
        "functions": "it lists the functions that the model may call, which the model is not told here; call the column `tools`",
        "system": _SYSTEM,
        "system_prompt": _SYSTEM,
        "input": "it is the second half of an Alpaca instruction, which the model does not get here: join it to the prompt",
        "history": _TURNS,
        "images": _PICTURES,
        "image": _PICTURES,
        "videos": _PICTURES,
        "video": _PICTURES,
        "audios": _PICTURES,
        "audio": _PICTURES,
        "reasoning_content": "it is the reasoning before the answer, which is not imitated here: put it into the answer, as <think>...</think>",
        "chosen": _PREFERENCE,
        "rejected": _PREFERENCE,
        "rejected_response": _PREFERENCE,
        "label": "in OpenRLHF's data it is the gold answer: set data.columns={label: solution}; in KTO's it judges the answer of its row, of which "
        "bad ones would be imitated like good ones: leave them out",
        "kto_tag": _FEEDBACK,
        "chat_template_kwargs": _VARIABLES,
        "input_ids": _TOKENS,
        "labels": _TOKENS,
        "reward_model": "in verl's data it holds the gold answer: set data.columns={reward_model.ground_truth: solution}",
        "enable_thinking": _VARIABLES,
        "multi_modal_data": _PICTURES,
        "agent_name": "it names an agent loop of verl, which does not exist here: the model answers once, without tools that run",
        "env_class": "it names an environment of SkyRL, which does not exist here: choose rewards.functions",
    }
)
"""Name of a column -> what it means to other trainers, and what is to be done about it here."""


def first_values(rows: Rows) -> dict[str, JsonValue]:
    """Every column with its first value that is not null, among the first rows."""
    found: dict[str, JsonValue] = dict.fromkeys(rows.columns)
    for index in range(min(len(rows), _LOOKED_AT_ROWS)):
        missing = [column for column, value in found.items() if value is None]
        if not missing:
            break
        row = rows.row(index)
        found |= {column: row[column] for column in missing}
    return found


def unused_columns(
    values: Mapping[str, JsonValue], read: Collection[str], passed_on: bool = False, meanings: Mapping[str, str] = ELSEWHERE
) -> tuple[list[str], str]:
    """Sentences on the columns that nothing reads.

    Args:
        values: every column with its first value, from `first_values`.
        read: columns that something reads by their name.
        passed_on: a reward takes every column (`**kwargs`). Those that mean something elsewhere are still warned of: they change what the model
            sees, and a reward that takes whatever there is does not do that.
        meanings: what columns mean elsewhere. A column that holds nothing in the first rows means nothing.

    Returns:
        A warning for each column that means something elsewhere, and a notice of the others, "" if there is none.
    """
    left = {column: value for column, value in values.items() if column not in read and not _is_part_of(column, read)}
    warnings = [
        f"column {column!r} (first {_shown(value)}) is used by nothing; {meanings[column.lower()]}"
        for column, value in left.items()
        if column.lower() in meanings and value not in (None, "", [], {})
    ]
    others = [
        f"{column} ({_shown(value)})" for column, value in left.items() if column.lower() not in meanings or value in (None, "", [], {})
    ]
    notice = f"columns that nothing uses, with their first value: {', '.join(others)}" if others and not passed_on else ""
    return warnings, notice


def _is_part_of(column: str, read: Collection[str]) -> bool:
    """True if a part of the column is read, as by `reward_model.ground_truth`."""
    return any(name.startswith(f"{column}.") for name in read)


def _shown(value: JsonValue) -> str:
    text = json.dumps(value, ensure_ascii=False)
    shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in shown)
