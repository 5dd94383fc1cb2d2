"""The two kinds of recipes: GRPO and supervised fine-tuning, each with its settings, its conversion rules and its commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeAlias

from configs.faults import all_keys
from configs.loading import Config, config_of, sft_config_of
from configs.recipes.draft import Draft
from configs.recipes.grpo_keys import GRPO_KEYS
from configs.recipes.grpo_rules import apply_rules
from configs.recipes.sft_keys import SFT_KEYS
from configs.recipes.sft_rules import apply_sft_rules
from configs.recipes.tables import KeyTables
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.yaml_files import YamlValue


@dataclass(frozen=True)
class RecipeKind(Generic[Config]):
    """Recipes of one kind of training."""

    name: str
    """Display name."""
    command: str
    """Command that runs such a recipe."""
    convert_command: str
    """Command that converts it."""
    example: str
    """Example of an override, for errors."""
    tables: KeyTables
    apply_rules: Callable[[Draft], None]
    """Sets every key of a draft that needs more than a copied value."""
    config_of: Callable[[dict[str, YamlValue], str, Sequence[str], Mapping[str, str]], Config]
    """(tree, source, overrides, origins) -> the configuration: a function of `configs.loading`."""
    root: type[Config]

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Key of the configuration -> its position in the schema."""
        return {key: position for position, key in enumerate(all_keys(self.root))}


AnyKind: TypeAlias = RecipeKind[RunConfig | SftConfig]

GRPO = RecipeKind[RunConfig](
    name="GRPO",
    command="rollcast train",
    convert_command="rollcast convert",
    example="learner.beta=0.04",
    tables=GRPO_KEYS,
    apply_rules=apply_rules,
    config_of=config_of,
    root=RunConfig,
)
SFT = RecipeKind[SftConfig](
    name="supervised fine-tuning",
    command="rollcast sft",
    convert_command="rollcast convert --sft",
    example="learner.learning_rate=1e-4",
    tables=SFT_KEYS,
    apply_rules=apply_sft_rules,
    config_of=sft_config_of,
    root=SftConfig,
)
KINDS: tuple[AnyKind, ...] = (GRPO, SFT)


def exclusive_settings(kind: AnyKind, settings: Iterable[str]) -> list[str]:
    """Select the settings that only recipes of this kind have."""
    others = frozenset().union(*(other.tables.known for other in KINDS if other is not kind))
    return [setting for setting in settings if setting in kind.tables.known - others]


def guess_kind(kind: AnyKind, settings: Iterable[str]) -> AnyKind:
    """Guess the kind of a recipe: `kind`, unless settings exclusive to another kind are given and none exclusive to this one."""
    given = list(settings)
    if exclusive_settings(kind, given):
        return kind
    return next((other for other in KINDS if exclusive_settings(other, given)), kind)
