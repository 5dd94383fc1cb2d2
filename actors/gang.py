"""Gangs: prompts that start on one engine together, in the order of their ids, so that a synchronous run repeats bit for bit.

The last bits of a completion's log-probabilities depend on the other requests in its batch, and so on which request came a
millisecond earlier. In synchronous mode steps do not overlap, so all prompts of a step can wait for the last one:

    step of 6 prompts, 2 workers    gang 0/0: prompts 0 2 4 ─► GangBarrier of worker 0, size 3 ─► start together, in this order
                                    gang 0/1: prompts 1 3 5 ─► GangBarrier of worker 1, size 3 ─► start together, in this order

The pool assigns (`assign_gangs`), the worker collects (`GangBarrier`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from configs.contracts.records import Gang, RolloutRequest

Member = TypeVar("Member")


def assign_gangs(requests: Sequence[RolloutRequest], workers: int, name: str) -> list[tuple[int, RolloutRequest]]:
    """Spread requests evenly over workers, as one gang each; the same requests always go to the same workers.

    Args:
        requests: in any order; they are assigned in the order of their ids.
        workers: number of workers, at least 1.
        name: distinct for every call of a run.

    Returns:
        For each request, in the order given: the number of its worker, and the request with its gang.
    """
    order = sorted(range(len(requests)), key=lambda position: (requests[position].prompt.id, requests[position].attempt))
    worker_of = {position: rank % workers for rank, position in enumerate(order)}
    sizes = [len(range(worker, len(requests), workers)) for worker in range(workers)]
    return [
        (worker_of[position], replace(request, gang=Gang(f"{name}/{worker_of[position]}", sizes[worker_of[position]])))
        for position, request in enumerate(requests)
    ]


@dataclass
class GangBarrier(Generic[Member]):
    """The members of one gang that have arrived.

    Example::

        barrier = GangBarrier(size=3)
        barrier.join("b")    # None: one of three
        barrier.leave()       # None: another will not come
        barrier.join("a")    # ["b", "a"]: complete
    """

    size: int
    members: list[Member] = field(default_factory=list)

    def join(self, member: Member) -> list[Member] | None:
        """Add a member; returns all members if it was the last, else None."""
        self.members.append(member)
        return self._complete()

    def leave(self) -> list[Member] | None:
        """Stop waiting for one member, whose prompt was refused; returns as `join` does."""
        self.size -= 1
        return self._complete()

    def _complete(self) -> list[Member] | None:
        return self.members if len(self.members) == self.size else None
