"""Load a user's rewards as the graders of a run will, before anything of the run starts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from configs.contracts.column_paths import RowColumns
from configs.contracts.errors import DataError, RewardError
from configs.schema.rewards import RewardsSection
from rewards.convention.group_input import Columns
from rewards.convention.per_completion import ARGUMENTS, PerCompletionReward
from rewards.functions.registry import load
from rewards.grading.calling import EVERY_COLUMN
from rewards.grading.graders import Graders


@dataclass(frozen=True)
class OwnColumns:
    """The columns of the data that a user's reward takes as arguments."""

    needed: Sequence[str]
    """Those without which it cannot be called."""
    read: Sequence[str]
    """Those that it names, and `EVERY_COLUMN` if it takes whatever there is."""


Needs: TypeAlias = Mapping[str, OwnColumns]
"""Name of a user's reward -> the columns that it takes."""


def try_own_rewards(section: RewardsSection) -> Needs:
    """Load every reward of the user's in a grader, with its limits of time and memory: their modules never run in this process.

    Raises:
        RewardError: one cannot be loaded, or cannot be called by keywords, or takes nothing that a call gives.
    """
    own = [spec for spec in section.functions if ":" in spec.name]
    if not own:
        return {}
    needs = asyncio.run(_needs(section.model_copy(update={"functions": tuple(own)})))
    return {spec.name: columns for spec, columns in zip(own, needs, strict=True)}


def require_columns(needs: Needs, columns: Collection[str]) -> None:
    """Raise DataError if a user's reward has an argument that nothing gives it."""
    for name, taken in needs.items():
        missing = [column for column in taken.needed if column not in columns]
        if missing:
            raise DataError(
                f"reward {name} cannot be called without {', '.join(missing)}, and the data have the columns {', '.join(columns)}; rename "
                f"the argument to one of them or of {', '.join(sorted(ARGUMENTS))}, or give it a default"
            )


def shadowed_columns(columns: Collection[str]) -> list[str]:
    """Sentences on the columns that functions of the user's never see, since an argument of every call has the same name."""
    return [
        f"the data have a column {name!r}, and rollcast gives rewards an argument of that name: a function of yours gets rollcast's, "
        f"never the column; to read the column, rename it, as in data.columns={{{name}: my_{name}}}"
        for name in sorted(ARGUMENTS.intersection(columns))
    ]


def columns_read(section: RewardsSection, needs: Needs, columns: Columns) -> frozenset[str]:
    """The columns that the rewards read, of a row with these columns; `EVERY_COLUMN` is among them if a reward takes whatever there is.

    Args:
        needs: from `try_own_rewards`. A reward of the user's that is not in it, being loaded on the cluster, may read every column.
    """
    read, columns = set[str](), RowColumns(columns)
    for spec in section.functions:
        reward = None if ":" in spec.name else load(spec.name, **spec.params)
        if isinstance(reward, PerCompletionReward):
            with suppress(RewardError):  # it lacks its column, and says so when it is checked
                read.update(reward.columns_read(columns))
        else:
            read.update(needs[spec.name].read if spec.name in needs else (EVERY_COLUMN,))
    return frozenset(read)


async def _needs(section: RewardsSection) -> Sequence[OwnColumns]:
    graders = await Graders.start(
        [(spec.name, spec.params) for spec in section.functions],
        count=1,
        timeout_s=section.timeout_s,
        memory_limit_bytes=section.memory_limit_bytes,
        cwd=Path.cwd(),
    )
    await graders.close()
    return [OwnColumns(*columns) for columns in zip(graders.needed_columns, graders.read_columns, strict=True)]
