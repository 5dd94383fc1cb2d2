"""The tables of a trainer's settings: what each is here. Every setting is in exactly one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class KeyTables:
    """What is made of the settings of one kind of recipe.

    Example:
        >>> shared = KeyTables(targets={"seed": "seed"}, no_effect_because={"nothing is compiled": "torch_compile"})
        >>> sorted((shared | KeyTables(no_effect_because={"nothing is compiled": "torchdynamo"})).known)
        ['seed', 'torch_compile', 'torchdynamo']
    """

    old_names: Mapping[str, str] = field(default_factory=dict)
    """Another version's, script's or launcher's name -> the name in the tables below."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Setting -> the key of a run that takes its value as it stands."""
    worked_out: Mapping[str, str] = field(default_factory=dict)
    """Setting -> in words, what is made of it, often together with others."""
    refused: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    """Setting -> the values that ask for nothing (null is always one), and what to do about any other, which ends with an error."""
    no_effect_because: Mapping[str, str] = field(default_factory=dict)
    """Why settings have no effect here -> these settings, with blanks between them."""
    never_null: Mapping[str, str] = field(default_factory=dict)
    """Setting for which null asks for something -> what to do about it."""
    accelerate: Mapping[str, str] = field(default_factory=dict)
    """Key of an accelerate file (nested ones with a dot) that counts -> in words, what is made of it."""
    accelerate_no_effect: Mapping[str, str] = field(default_factory=dict)
    """Key of an accelerate file -> why it has no effect here."""
    on_the_gpu: str = ""
    """What an accelerate file might ask to have elsewhere, and is not."""
    text: frozenset[str] = frozenset()
    """Settings whose value on the command line is text as it stands."""
    secrets: frozenset[str] = frozenset()
    """Settings, as written, whose value is never shown."""

    def __or__(self, other: KeyTables) -> KeyTables:
        """Both; settings without an effect for one reason are listed together."""
        both = {each.name: _both(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        reasons = both["no_effect_because"]
        for why in self.no_effect_because.keys() & other.no_effect_because.keys():
            reasons[why] = f"{self.no_effect_because[why]} {other.no_effect_because[why]}"
        return KeyTables(**both)

    @cached_property
    def no_effect(self) -> Mapping[str, str]:
        """Setting -> why it has no effect here."""
        return {key: why for why, keys in self.no_effect_because.items() for key in keys.split()}

    @cached_property
    def known(self) -> frozenset[str]:
        """Every name that a recipe may use."""
        return frozenset().union(self.old_names, self.targets, self.worked_out, self.refused, self.no_effect)

    def markdown(self) -> str:
        """The tables for a page of docs/."""
        cells = {setting: f"`{target}`" for setting, target in self.targets.items()} | dict(self.worked_out)
        cells |= {setting: f"refused{_unless(neutral)}: {remedy}" for setting, (neutral, remedy) in self.refused.items()}
        cells |= {old: f"an old name of `{new}`" for old, new in self.old_names.items()}
        lines = ["| setting | here |", "|---|---|", *(f"| `{setting}` | {cells[setting]} |" for setting in sorted(cells))]
        lines += ["", "No effect:", "", "| because | settings |", "|---|---|"]
        lines += [f"| {why} | {' '.join(f'`{key}`' for key in sorted(keys.split()))} |" for why, keys in self.no_effect_because.items()]
        return "\n".join(lines) + "\n"


def _both(one: Any, other: Any) -> Any:
    return one or other if isinstance(one, str) else one | other


def _unless(neutral: tuple[Any, ...]) -> str:
    shown = ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in neutral if value not in ("", [], {}))
    return f" unless {shown}" if shown else ""
