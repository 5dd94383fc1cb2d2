"""References that stand for bodies which a test does not open."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import ray

from configs.contracts.records import RolloutGroup, ScoredGroup


class NoBody:
    """A reference of a body or a buffer that nobody may open."""

    def __await__(self) -> Generator[Any, None, Any]:
        raise AssertionError("this body was opened, and nothing here has a reason to")


NO_BODY = NoBody()


def opened(group: ScoredGroup) -> RolloutGroup:
    """The body of a group, from Ray's object store."""
    return RolloutGroup(ray.get(cast("ray.ObjectRef", group.body)))
