"""Load a user's rewards as the graders of a run will, before anything of the run starts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from configs.contracts.errors import DataError
from configs.schema.rewards import RewardsSection
from rewards.functions.per_completion import ARGUMENTS
from rewards.grading.graders import Graders

Needs: TypeAlias = Mapping[str, Sequence[str]]
"""Name of a user's reward -> the columns without which it cannot be called."""


def try_own_rewards(section: RewardsSection) -> Needs:
    """Load every reward of the user's in a grader, with its limits of time and memory: their modules never run in this process.

    Raises:
        RewardError: one cannot be loaded, or cannot be called by keywords, or takes nothing that a call gives.
    """
    own = [spec for spec in section.functions if ":" in spec.name]
    if not own:
        return {}
    needs = asyncio.run(_needs(section.model_copy(update={"functions": tuple(own)})))
    return {spec.name: columns for spec, columns in zip(own, needs, strict=True) if columns}


def require_columns(needs: Needs, columns: Collection[str]) -> None:
    """Raise DataError if a user's reward has an argument that nothing gives it."""
    for name, needed in needs.items():
        missing = [column for column in needed if column not in columns]
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


async def _needs(section: RewardsSection) -> Sequence[Sequence[str]]:
    graders = await Graders.start(
        [(spec.name, spec.params) for spec in section.functions],
        count=1,
        timeout_s=section.timeout_s,
        memory_limit_bytes=section.memory_limit_bytes,
        cwd=Path.cwd(),
    )
    await graders.close()
    return graders.needed_columns
