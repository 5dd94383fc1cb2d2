"""The answer to a file or a command line of another system: whose it is, which of its settings have a counterpart here, and which have none.

run.sh is a command line of verl, for GRPO; ... its settings that have a counterpart:
  actor_rollout_ref.model.path: Qwen/Qwen2.5-7B    ->  model.path: Qwen/Qwen2.5-7B
  data.train_batch_size: 128                       ->  learner.train_batch_size (128 prompts x 8 completions, ...)
no counterpart: data.truncation, trainer.nnodes
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from configs.foreign.fine_tuners import FINE_TUNERS
from configs.foreign.rl_systems import RL_SYSTEMS
from configs.foreign.systems import OFFERED, Counterpart, Settings, System
from configs.launch.other_trainers import TRAINERS
from configs.yaml_files import YamlValue, in_yaml, shown

SYSTEMS = (*RL_SYSTEMS, *FINE_TUNERS)

HIDDEN = "…"
"""Shown instead of a secret."""

_SECRET = re.compile(
    r"(?:hub|hf|ms|auth|access|swanlab|wandb)_?token$|^token$|(?:api|wandb)_?key$|secret|password|^use_wandb$", re.IGNORECASE
)
_PLACE = re.compile(r"\{(?P<name>[\w.]*)(?:\|(?P<default>[^}]*))?\}")
_WIDEST = 60
"""Most columns of their half of the table."""


@dataclass(frozen=True)
class Command:
    """The command of rollcast that was given what is of another system."""

    kind: str
    """`GRPO` or `SFT`: what it trains by."""
    keys: Mapping[str, Collection[str]]
    """`GRPO` and `SFT` -> every key that such a run has."""


def answer_to_settings(settings: Settings, source: str, command: Command) -> str | None:
    """Answer settings that another system wrote; None if no other is known by them.

    Args:
        settings: with dotted names, as `flat` makes them.
        source: name of the file, for the answer.
    """
    system = next((system for system in SYSTEMS if system.wrote(settings)), None)
    return None if system is None else _answer(system, settings, f"{source} is a file of {system.name}", "", command)


def answer_to_line(line: str, settings: Settings, source: str, command: Command) -> str | None:
    """Answer a command line that starts another system, or has only its settings; None if no other is known by it.

    Args:
        line: the words that start a program, joined by blanks.
        settings: what the line sets, and the files that it names.
        source: where the line stands, for the answer.
    """
    system = next((system for system in SYSTEMS if system.starts(line)), None)
    system = system or next((system for system in SYSTEMS if system.wrote(settings)), None)
    return None if system is None else _answer(system, settings, f"{source} is a command line of {system.name}", line, command)


def flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Settings with dotted names for those inside others: `{"a": {"b": 1}}` as `{"a.b": 1}`."""
    found: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found |= flat({str(name): inside for name, inside in value.items()}, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def table_of(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns: their settings, and what takes their place."""
    width = min(_WIDEST, max((len(theirs) for theirs, _ in rows), default=0))
    return "".join(f"\n  {theirs:<{width}}  ->  {ours}" for theirs, ours in rows)


def named(name: str, value: object) -> str:
    """A setting with its value as it was written, or without it if it is a secret."""
    return f"{name}: {HIDDEN if _SECRET.search(name) else shown_value(value)}"


def shown_value(value: object) -> str:
    """A value in one line, cut where it is long."""
    if isinstance(value, bool | int | float | list | dict | None) and len(str(value)) <= 80:
        return in_yaml(cast("YamlValue", value))
    return value if isinstance(value, str) and len(value) <= 80 and "\n" not in value else shown(value)


def _answer(system: System, settings: Settings, subject: str, line: str, command: Command) -> str:
    objective = system.objective_of(settings, line)
    head = f"{subject}{f', for {objective}' if objective else ''}"
    if objective not in OFFERED:
        return f"{head}; {TRAINERS}, so run it with {system.name}"
    kind = ("SFT" if objective == "SFT" else "GRPO") if objective else command.kind
    example, ours = ("quickstart_sft", "rollcast sft") if kind == "SFT" else ("quickstart", "rollcast train")
    keys = command.keys[kind]
    pairs = [(name, value, _target(system.counterparts.get(name), keys)) for name, value in settings.items()]
    taken = [(named(name, value), _ours(found, value, settings)) for name, value, found in pairs if found is not None]
    others = [name for name, _, found in pairs if found is None and name not in system.objectives]
    answer = (
        f"{head}; rollcast reads its own files and recipes of TRL, Open-R1 and MedicalGPT: write a file (`rollcast init {example}` gives one to edit) "
        f"and start it with `{ours}`."
    )
    if taken:
        answer += f" Its settings that have a counterpart:{table_of(taken)}"
    if others:
        answer += f"\nno counterpart: {', '.join(others)}"
    return answer + (f"\n{system.remedy}" if system.remedy else "")


def _target(found: Counterpart | None, keys: Collection[str]) -> tuple[str, str] | None:
    """Our key, of those that this kind of run has, and what becomes of the value."""
    key = next((key for key in found.keys if key in keys), None) if found else None
    return None if found is None or key is None else (key, found.note)


def _ours(target: tuple[str, str], value: object, settings: Settings) -> str:
    key, note = target

    def fill(place: re.Match[str]) -> str:
        return shown_value(settings.get(place["name"], place["default"]) if place["name"] else value)

    filled = _PLACE.sub(fill, note)
    return f"{key} ({filled})" if note else f"{key}: {shown_value(value)}"
