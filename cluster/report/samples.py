"""Sampled completions of a few steps, for a report."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.output.completions import COMPLETION_COLUMNS, DATA_PREFIX, OUTCOME_PREFIX, REWARD_PREFIX

GROUPS_OF_A_STEP, COMPLETIONS_OF_A_GROUP = 2, 4
SHOWN_CHARACTERS = 4000
"""The middle of a longer text is left out: the beginning shows how the model reasons, the end what it answers."""

FOLDED_CHARACTERS, FOLDED_LINES = 600, 12
"""A text with more characters or lines is folded."""

DATA_CHARACTERS, DATA_COLUMNS = 600, 8
UNREADABLE_TRIES = 5
_STEP = re.compile(r"step-(\d+)\.parquet")
_OWN_COLUMNS = frozenset(COMPLETION_COLUMNS)


@dataclass(frozen=True)
class Judgement:
    """The value that one reward gave one completion, and its outcome."""

    reward: str
    value: float | None
    outcome: str | None


@dataclass(frozen=True)
class SampledCompletion:
    text: str
    reward: float | None
    advantage: float | None
    judgements: Sequence[Judgement]
    tokens: int | None
    finish_reason: str | None
    policy_versions: Sequence[int]

    @property
    def long(self) -> bool:
        return is_long(self.text)


@dataclass(frozen=True)
class SampledGroup:
    """Some completions of a prompt, from the highest reward to the lowest. Of many, only the best and the worst are kept."""

    step: int
    prompt_id: str
    prompt: str
    data: Mapping[str, str]
    completions: Sequence[SampledCompletion]
    size: int
    """Number of completions that the file holds for this prompt."""

    @property
    def long(self) -> bool:
        return is_long(self.prompt)


def read_samples(folder: Path, steps: int = 3) -> list[SampledGroup]:
    """Read groups of `steps` steps, spread evenly from the first to the last. If a file cannot be read, a neighbour takes its place."""
    files = sorted((int(match[1]), file) for file in folder.glob("step-*.parquet") if (match := _STEP.fullmatch(file.name)))
    taken: dict[int, list[SampledGroup]] = {}
    for index in _spread(len(files), steps):
        for near in sorted(range(len(files)), key=lambda other, index=index: abs(other - index))[:UNREADABLE_TRIES]:
            step, file = files[near]
            if step not in taken and (groups := list(_groups(step, file))):
                taken[step] = groups
                break
    return [group for step in sorted(taken) for group in taken[step]]


def _spread(count: int, wanted: int) -> list[int]:
    if wanted == 1:
        return [count - 1] if count else []
    return sorted({round(part * (count - 1) / (wanted - 1)) for part in range(wanted)}) if count else []


def count_outcomes(folder: Path, most_files: int = 50) -> dict[str, dict[str, int]]:
    """Count each outcome of each reward in the sampled completions, in at most `most_files` files spread evenly over the run."""
    files = sorted(folder.glob("step-*.parquet"))
    counts: dict[str, dict[str, int]] = {}
    for index in _spread(len(files), min(most_files, max(2, len(files)))):
        for name, column in _columns(files[index], OUTCOME_PREFIX).items():
            of_reward = counts.setdefault(name.removeprefix(OUTCOME_PREFIX), {})
            for outcome in column:
                if outcome is not None:
                    of_reward[str(outcome)] = of_reward.get(str(outcome), 0) + 1
    return counts


def _columns(file: Path, prefix: str) -> dict[str, list[object]]:
    try:
        names = [name for name in pq.read_schema(file).names if name.startswith(prefix)]
        return pq.read_table(file, columns=names).to_pydict()
    except (OSError, pa.ArrowException):
        return {}


def _groups(step: int, file: Path) -> Iterator[SampledGroup]:
    rows_of: dict[str, list[dict[str, object]]] = {}
    for row in _rows(file):
        rows_of.setdefault(str(row.get("prompt_id")), []).append(row)
    for prompt_id, rows in list(rows_of.items())[:GROUPS_OF_A_STEP]:
        completions = sorted((_completion(row) for row in rows), key=_by_reward)
        if len(completions) > COMPLETIONS_OF_A_GROUP:
            half = COMPLETIONS_OF_A_GROUP // 2
            completions = completions[:half] + completions[-half:]
        yield SampledGroup(step, prompt_id, shown(str(rows[0].get("prompt") or "")), _data(rows[0]), completions, len(rows))


def _rows(file: Path) -> list[dict[str, object]]:
    try:
        names = [name for name in pq.read_schema(file).names if name not in ("completion_ids", "messages")]
        return pq.read_table(file, columns=names).to_pylist()
    except (OSError, pa.ArrowException):
        return []


def _by_reward(completion: SampledCompletion) -> tuple[bool, float]:
    return completion.reward is None, -(completion.reward or 0.0)


def _completion(row: Mapping[str, object]) -> SampledCompletion:
    names = [name.removeprefix(REWARD_PREFIX) for name in row if name.startswith(REWARD_PREFIX)]
    tokens, versions = row.get("tokens"), row.get("policy_versions")
    return SampledCompletion(
        text=shown(str(row.get("completion") or "")),
        reward=_number(row.get("reward")),
        advantage=_number(row.get("advantage")),
        judgements=[Judgement(name, _number(row.get(REWARD_PREFIX + name)), _string(row.get(OUTCOME_PREFIX + name))) for name in names],
        tokens=tokens if isinstance(tokens, int) else None,
        finish_reason=_string(row.get("finish_reason")),
        policy_versions=versions if isinstance(versions, list) else [],
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _data(row: Mapping[str, object]) -> dict[str, str]:
    """Return the columns of the data set, such as the solution."""
    names = [name for name in row if name not in _OWN_COLUMNS and not name.startswith((REWARD_PREFIX, OUTCOME_PREFIX))]
    present = [name for name in names if row[name] is not None][:DATA_COLUMNS]
    return {name.removeprefix(DATA_PREFIX): shown(_as_text(row[name]), DATA_CHARACTERS) for name in present}


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def shown(text: str, most: int = SHOWN_CHARACTERS) -> str:
    """Make a text fit for a page: shorten it, and replace control characters by visible signs."""
    if len(text) > most:
        left_out = len(text) - most
        text = f"{text[: most * 5 // 8]}\n[… {left_out:,} characters left out …]\n{text[-(most * 3 // 8) :]}"
    return text.translate(_VISIBLE)


_VISIBLE = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"} | {0x7F: "␡"} | dict.fromkeys(range(0x80, 0xA0), "�")


def is_long(text: str) -> bool:
    return len(text) > FOLDED_CHARACTERS or text.count("\n") >= FOLDED_LINES
