"""The kinds of recipes: what their settings are, what is made of them, and which command takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

from configs.faults import all_keys
from configs.loading import Config, config_of, sft_config_of
from configs.recipes.draft import Draft
from configs.recipes.grpo_keys import GRPO_KEYS
from configs.recipes.grpo_rules import work_out
from configs.recipes.sft_keys import LAUNCHERS, SFT_KEYS
from configs.recipes.sft_rules import work_out_sft
from configs.recipes.tables import KeyTables
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig


@dataclass(frozen=True)
class RecipeKind(Generic[Config]):
    """Recipes of one kind of training."""

    name: str
    """For people."""
    command: str
    """That runs one."""
    convert_command: str
    """That writes what it becomes."""
    example: str
    """Of an override."""
    tables: KeyTables
    work_out: Callable[[Draft], None]
    """Puts everything into a draft that does not stand for itself."""
    config_of: Callable[..., Config]
    """Tree, source, overrides and origins -> the configuration; of `configs.loading`."""
    root: type[Config]

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Key of the configuration -> its place in the schema."""
        return {key: place for place, key in enumerate(all_keys(self.root))}


GRPO = RecipeKind[RunConfig](
    name="GRPO",
    command="rollcast train",
    convert_command="rollcast convert",
    example="learner.beta=0.04",
    tables=GRPO_KEYS,
    work_out=work_out,
    config_of=config_of,
    root=RunConfig,
)
SFT = RecipeKind[SftConfig](
    name="supervised fine-tuning",
    command="rollcast sft",
    convert_command="rollcast convert --sft",
    example="learner.learning_rate=1e-4",
    tables=SFT_KEYS,
    work_out=work_out_sft,
    config_of=sft_config_of,
    root=SftConfig,
)
KINDS: tuple[RecipeKind[Any], ...] = (GRPO, SFT)


def telling(kind: RecipeKind[Any], settings: Iterable[str]) -> list[str]:
    """Those of `settings` that recipes of this kind alone have."""
    others = frozenset().union(*(other.tables.known for other in KINDS if other is not kind))
    return [setting for setting in settings if setting in kind.tables.known - others - LAUNCHERS]


def kind_that_is_meant(kind: RecipeKind[Any], settings: Iterable[str]) -> RecipeKind[Any]:
    """Another kind, where settings of that one alone are given, and none of this one alone; else this one."""
    given = list(settings)
    if telling(kind, given):
        return kind
    return next((other for other in KINDS if telling(other, given)), kind)
