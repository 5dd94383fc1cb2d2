"""What a training system of others is known by, and which of its settings have a counterpart here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

Settings = Mapping[str, object]
"""The settings of a file or a line; those inside others have dotted names, such as `trainer.save_freq`."""


@dataclass(frozen=True)
class Counterpart:
    """A key of rollcast that takes the place of a setting."""

    keys: tuple[str, ...]
    """Our keys, the first that the kind of training has: `("data.max_length", "data.max_prompt_length")`."""
    note: str = ""
    """What becomes of the value, if it is not the same. `{name}` stands for the value of another setting, `{}` for its own."""


@dataclass(frozen=True)
class System:
    """One training system."""

    name: str
    command: str
    """Pattern of a command line that starts it."""
    marks: tuple[str, ...]
    """Groups of settings, names separated by blanks: a file that has all of one group is the system's. `a.` stands for a section `a`."""
    table: str
    """A line for each setting that has a counterpart: `theirs = ours` or `theirs = ours; what becomes of the value`."""
    objectives: tuple[str, ...] = ()
    """Settings whose value names the objective; the first that is given counts."""
    sections: tuple[str, ...] = ()
    """Sections whose name is that of the objective."""
    commands: tuple[tuple[str, str], ...] = ()
    """(pattern in a command line, objective)."""
    objective: str = ""
    """Objective where nothing says another."""
    remedy: str = ""
    """One more sentence on what there is to do."""

    @cached_property
    def counterparts(self) -> Mapping[str, Counterpart]:
        """Their setting -> our key."""
        found: dict[str, Counterpart] = {}
        for line in filter(None, map(str.strip, self.table.splitlines())):
            theirs, _, ours = line.partition(" = ")
            keys, _, note = ours.partition("; ")
            found[theirs] = Counterpart(tuple(keys.split(" | ")), note)
        return found

    def starts(self, line: str) -> bool:
        """Tell whether a command line starts this system."""
        return re.search(self.command, line) is not None

    def wrote(self, settings: Settings) -> bool:
        """Tell whether settings are this system's."""
        return any(all(_is_in(name, settings) for name in group.split()) for group in self.marks)

    def objective_of(self, settings: Settings, line: str) -> str:
        """What a file or a line trains by, in capitals: `GRPO`, `SFT`, `DPO`, ...; empty if nothing says so."""
        named = [str(settings[setting]) for setting in self.objectives if setting in settings]
        named += [section for section in self.sections if _is_in(f"{section}.", settings)]
        if named:
            return OBJECTIVES.get(named[0].lower(), named[0].upper())
        return next((objective for pattern, objective in self.commands if re.search(pattern, line)), self.objective)


OBJECTIVES: Mapping[str, str] = {
    "gae": "PPO",
    "group_norm": "GRPO",
    "dr_grpo": "GRPO",
    "reinforce_plus_plus": "REINFORCE++",
    "reinforce_plus_plus_baseline": "REINFORCE++",
    "reinforce": "REINFORCE++",
    "reinforce_baseline": "REINFORCE++",
    "pt": "pre-training",
    "rm": "reward modelling",
    "sft": "SFT",
    "distillation": "on-policy distillation",
    "gkd": "on-policy distillation",
}
"""Their name of an objective -> ours, where it is not the same in capitals."""

OFFERED = ("", "GRPO", "RLOO", "REINFORCE++", "SFT")
"""Objectives that rollcast has."""


def _is_in(name: str, settings: Settings) -> bool:
    """Tell whether a setting is given, or something of a section `name.`."""
    return any(key.startswith(name) for key in settings) if name.endswith(".") else name in settings
