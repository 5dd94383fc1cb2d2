"""References to bodies that a test never opens."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import ray

from configs.contracts.records import RolloutGroup, ScoredGroup


class NoBody:
    """A reference to a body or a buffer; opening it is an error."""

    def __await__(self) -> Generator[Any, None, Any]:
        raise AssertionError("this body was opened, and nothing here has a reason to")


NO_BODY = NoBody()


def opened(group: ScoredGroup) -> RolloutGroup:
    """Fetch the body of a group from Ray's object store."""
    return RolloutGroup(ray.get(cast("ray.ObjectRef", group.body)))
