"""Tables that say what becomes of each setting of a trainer. Every setting is in exactly one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from configs.yaml_files import YamlValue


@dataclass(frozen=True)
class KeyTables:
    """The settings of one kind of recipe, and their meaning here.

    Example:
        >>> shared = KeyTables(targets={"seed": "seed"}, no_effect_because={"nothing is compiled": "torch_compile"})
        >>> sorted((shared | KeyTables(no_effect_because={"nothing is compiled": "torchdynamo"})).known)
        ['seed', 'torch_compile', 'torchdynamo']
    """

    old_names: Mapping[str, str] = field(default_factory=dict)
    """Name in another version, script or launcher -> name in the tables below."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """Setting -> key of the run that takes its value unchanged."""
    by_rule: Mapping[str, str] = field(default_factory=dict)
    """Setting that a rule converts, often together with others -> the result in words."""
    refused: Mapping[str, tuple[tuple[YamlValue, ...], str]] = field(default_factory=dict)
    """Setting -> (harmless values, remedy). Any other value is an error that names the remedy; null is always harmless."""
    no_effect_because: Mapping[str, str] = field(default_factory=dict)
    """Reason -> settings that have no effect here for this reason, separated by blanks."""
    never_null: Mapping[str, str] = field(default_factory=dict)
    """Setting whose null is an error, because null asks for something -> rule and remedy."""
    accelerate: Mapping[str, str] = field(default_factory=dict)
    """Key of an accelerate file that counts (nested keys with a dot) -> the result in words."""
    accelerate_no_effect: Mapping[str, str] = field(default_factory=dict)
    """Key of an accelerate file -> why it has no effect here."""
    on_the_gpu: str = ""
    """The part of the model that an accelerate file may ask to offload, and that stays on the GPU here."""
    text: frozenset[str] = frozenset()
    """Settings whose value on the command line is text, not YAML."""
    secrets: frozenset[str] = frozenset()
    """Settings, as written in the recipe, whose value is never shown."""

    def __or__(self, other: KeyTables) -> KeyTables:
        """Join two tables; settings that have no effect for the same reason are listed together."""
        reasons = {**self.no_effect_because, **other.no_effect_because}
        for why in self.no_effect_because.keys() & other.no_effect_because.keys():
            reasons[why] = f"{self.no_effect_because[why]} {other.no_effect_because[why]}"
        return KeyTables(
            old_names={**self.old_names, **other.old_names},
            targets={**self.targets, **other.targets},
            by_rule={**self.by_rule, **other.by_rule},
            refused={**self.refused, **other.refused},
            no_effect_because=reasons,
            never_null={**self.never_null, **other.never_null},
            accelerate={**self.accelerate, **other.accelerate},
            accelerate_no_effect={**self.accelerate_no_effect, **other.accelerate_no_effect},
            on_the_gpu=self.on_the_gpu or other.on_the_gpu,
            text=self.text | other.text,
            secrets=self.secrets | other.secrets,
        )

    @cached_property
    def no_effect(self) -> Mapping[str, str]:
        """Setting -> why it has no effect here."""
        return {key: why for why, keys in self.no_effect_because.items() for key in keys.split()}

    @cached_property
    def known(self) -> frozenset[str]:
        """Every name that a recipe may use."""
        return frozenset().union(self.old_names, self.targets, self.by_rule, self.refused, self.no_effect)

    def markdown(self) -> str:
        """Write the tables for a page of docs/."""
        cells = {setting: f"`{target}`" for setting, target in self.targets.items()} | dict(self.by_rule)
        cells |= {setting: f"refused{_unless(harmless)}: {remedy}" for setting, (harmless, remedy) in self.refused.items()}
        cells |= {old: f"an old name of `{new}`" for old, new in self.old_names.items()}
        lines = ["| setting | here |", "|---|---|", *(f"| `{setting}` | {cells[setting]} |" for setting in sorted(cells))]
        lines += ["", "No effect:", "", "| because | settings |", "|---|---|"]
        lines += [f"| {why} | {' '.join(f'`{key}`' for key in sorted(keys.split()))} |" for why, keys in self.no_effect_because.items()]
        return "\n".join(lines) + "\n"


def _unless(harmless: tuple[YamlValue, ...]) -> str:
    shown = ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in harmless if value not in ("", [], {}))
    return f" unless {shown}" if shown else ""
