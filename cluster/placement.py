"""RunConfig + cluster resources -> which role sits where; says at once what cannot fit.

Ray lets an actor that can never be placed wait for ever without a word, so the arithmetic is done here first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.contracts.errors import PlacementError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig


@dataclass(frozen=True, slots=True)
class Node:
    """What one node offers to Ray."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Role:
    """A number of equal processes."""

    name: str
    count: int
    cpus: float
    gpus: float

    def ray_options(self) -> dict[str, Any]:
        """Arguments for `.options(...)` of one process. A lost one is replaced by its pool, never by Ray."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0, "max_task_retries": 0}

    def devices(self) -> str:
        """How one process is described to people: `1 GPU`, `0.45 GPU`, `1 CPU core`."""
        if self.gpus:
            return f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''}"
        return f"{self.cpus:g} CPU core{'s' if self.cpus != 1 else ''}"


@dataclass(frozen=True, slots=True)
class Placement:
    """The roles of a run, and on which node each process is expected to sit."""

    rollouts: Role
    learners: Role
    rewards: Role
    nodes: Mapping[str, tuple[str, ...]]
    """Node -> processes; empty where the nodes are not known yet (local mode, dry run)."""

    @property
    def roles(self) -> tuple[Role, Role, Role]:
        return self.rollouts, self.learners, self.rewards

    @property
    def cpus(self) -> float:
        """Cores that all processes reserve together."""
        return sum(role.count * role.cpus for role in self.roles)

    @property
    def gpus(self) -> float:
        return sum(role.count * role.gpus for role in self.roles)


def roles(config: RunConfig | SftConfig, learner: bool = True) -> Placement:
    """What a run needs, before anything is known of the cluster; without `learner`, what serving its model needs.

    A supervised fine-tuning has a learner alone.
    """
    training = config.learner
    learners = Role("learner", training.ranks if learner else 0, training.cpus_per_rank, training.gpus_per_rank)
    if isinstance(config, SftConfig):
        return Placement(Role("rollout", 0, 0.0, 0.0), learners, Role("reward", 0, 0.0, 0.0), nodes={})
    actors, rewards = config.actors, config.rewards
    return Placement(
        rollouts=Role("rollout", actors.num_workers, actors.cpus_per_worker, actors.gpus_per_worker),
        learners=learners,
        rewards=Role("reward", rewards.num_workers, rewards.cpus_per_worker, 0.0),
        nodes={},
    )


def place(config: RunConfig | SftConfig, nodes: list[Node], learner: bool = True) -> Placement:
    """Fit every process into a node, largest first; without `learner`, those that serve its model.

    Raises:
        PlacementError: naming the role, what it asks for, what there is, and what to lower.
    """
    need = roles(config, learner)
    have_gpus, have_cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    fewer = "actors.num_workers, learner.ranks" if need.rollouts.count else "learner.ranks"
    remedy = f"lower {fewer} or the gpus_per_* of the roles, or add nodes"
    if need.gpus > have_gpus + 1e-9:
        asked = ", ".join(f"{role.count} x {role.gpus:g} for {role.name}" for role in need.roles if role.count * role.gpus)
        raise PlacementError(f"the run asks for {need.gpus:g} GPUs ({asked}) but the cluster has {have_gpus:g}: {remedy}")
    if need.cpus > have_cpus + 1e-9:
        asked = ", ".join(f"{role.count} x {role.cpus:g} for {role.name}" for role in need.roles if role.count * role.cpus)
        raise PlacementError(
            f"the run asks for {need.cpus:g} CPU cores ({asked}) but the cluster has {have_cpus:g}: lower the cpus_per_* of the roles, or add nodes"
        )
    free = {node.name: [node.gpus, node.cpus] for node in nodes}
    placed: dict[str, list[str]] = {node.name: [] for node in nodes}
    for role in sorted(need.roles, key=lambda role: (-role.gpus, -role.cpus)):
        for index in range(role.count):
            node = _node_with_room(free, role)
            if node is None:
                left = "; ".join(f"{name}: {gpus:g} GPUs, {cpus:g} cores" for name, (gpus, cpus) in free.items())
                raise PlacementError(
                    f"{role.name} {index} needs {role.gpus:g} GPUs and {role.cpus:g} CPU cores on one node, and none has them left ({left}): {remedy}"
                )
            free[node][0] -= role.gpus
            free[node][1] -= role.cpus
            placed[node].append(f"{role.name} {index}")
    return Placement(need.rollouts, need.learners, need.rewards, {name: tuple(names) for name, names in placed.items()})


def _node_with_room(free: Mapping[str, list[float]], role: Role) -> str | None:
    return next((name for name, (gpus, cpus) in free.items() if gpus + 1e-9 >= role.gpus and cpus + 1e-9 >= role.cpus), None)
