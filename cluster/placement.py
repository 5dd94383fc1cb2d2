"""Fit the processes of a run into the nodes of a cluster, or say at once what does not fit.

Ray would let an actor that fits nowhere wait for ever without a word, so the arithmetic is done here first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from configs.contracts.errors import PlacementError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

ROUNDING = 1e-9
"""Tolerance of sums of GPU fractions: 0.45 + 0.55 may come out a little more or less than 1."""


@dataclass(frozen=True, slots=True)
class Node:
    """The CPU cores and GPUs of one node of the cluster."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True, slots=True)
class Role:
    """The processes of one role; each reserves the same cores and GPUs."""

    name: str
    count: int
    cpus: float
    gpus: float

    def ray_options(self) -> dict[str, float]:
        """Arguments for Ray's `.options(...)` of one process. Ray never restarts it: its pool replaces a lost process."""
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_restarts": 0, "max_task_retries": 0}

    def devices(self) -> str:
        """The devices of one process, for people: `1 GPU`, `0.45 GPU`, `1 CPU core`."""
        if self.gpus:
            return f"{self.gpus:g} GPU{'s' if self.gpus > 1 else ''}"
        return f"{self.cpus:g} CPU core{'s' if self.cpus != 1 else ''}"


@dataclass(frozen=True, slots=True)
class Placement:
    """The roles of a run, and the node on which each process is expected to run."""

    rollouts: Role
    learners: Role
    rewards: Role
    nodes: Mapping[str, tuple[str, ...]]
    """Node name -> the processes of all nodes with that name; empty while the nodes are unknown (in a dry run, and before Ray has started)."""

    @property
    def roles(self) -> tuple[Role, Role, Role]:
        return self.rollouts, self.learners, self.rewards

    @property
    def cpus(self) -> float:
        """CPU cores reserved by all processes together."""
        return sum(role.count * role.cpus for role in self.roles)

    @property
    def gpus(self) -> float:
        """GPUs reserved by all processes together."""
        return sum(role.count * role.gpus for role in self.roles)


def roles(config: RunConfig | SftConfig, learner: bool = True) -> Placement:
    """The processes of a run, before anything is known of the cluster; `learner=False` leaves out the learner, to serve a model.

    Supervised fine-tuning has learner processes only.
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


def place(config: RunConfig | SftConfig, nodes: Sequence[Node], learner: bool = True, where: str = "the cluster") -> Placement:
    """Assign every process to a node, the largest first; `learner=False` leaves out the learner, to serve a model.

    Args:
        where: what the nodes are, for errors.

    Raises:
        PlacementError: names the role, what it asks for, what the cluster has, and what to lower.
    """
    need = roles(config, learner)
    fewer = "actors.num_workers, learner.ranks" if need.rollouts.count else "learner.ranks"
    remedy = f"lower {fewer} or the gpus_per_* of the roles (in a recipe: --num_processes), or add nodes"
    _require_totals(need, nodes, remedy, where)
    free = [[node.gpus, node.cpus] for node in nodes]  # by number, since several nodes may have one name
    placed: dict[str, list[str]] = {node.name: [] for node in nodes}
    for role in sorted(need.roles, key=lambda role: (-role.gpus, -role.cpus)):
        for index in range(role.count):
            number = _node_with_room(free, role)
            if number is None:
                left = "; ".join(f"{node.name}: {gpus:g} GPUs, {cpus:g} cores" for node, (gpus, cpus) in zip(nodes, free, strict=True))
                raise PlacementError(
                    f"{role.name} {index} needs {role.gpus:g} GPUs and {role.cpus:g} CPU cores on one node, and none has them left ({left}): {remedy}"
                )
            free[number][0] -= role.gpus
            free[number][1] -= role.cpus
            placed[nodes[number].name].append(f"{role.name} {index}")
    return Placement(need.rollouts, need.learners, need.rewards, {name: tuple(names) for name, names in placed.items()})


def _require_totals(need: Placement, nodes: Sequence[Node], remedy: str, where: str) -> None:
    """Raise PlacementError where all nodes together have fewer GPUs or cores than the run asks for."""
    have_gpus, have_cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    if have_cpus == 0:
        raise PlacementError(
            f"the cluster has 0 CPU cores on {len(nodes)} live nodes, but the run asks for {need.cpus:g}: Ray may have died, for example because "
            "its head was killed or ran out of memory. Look at `ray status` and at the logs in logs/ray, start Ray again, and run the same command"
        )
    if need.gpus > have_gpus + ROUNDING:
        asked = ", ".join(f"{role.count} x {role.gpus:g} for {role.name}" for role in need.roles if role.count * role.gpus)
        raise PlacementError(f"the run asks for {need.gpus:g} GPUs ({asked}) but {where} has {have_gpus:g}: {remedy}")
    if need.cpus > have_cpus + ROUNDING:
        asked = ", ".join(f"{role.count} x {role.cpus:g} for {role.name}" for role in need.roles if role.count * role.cpus)
        raise PlacementError(
            f"the run asks for {need.cpus:g} CPU cores ({asked}) but {where} has {have_cpus:g}: lower the cpus_per_* of the roles, or add nodes"
        )


def _node_with_room(free: Sequence[Sequence[float]], role: Role) -> int | None:
    """The number of the first node whose free (GPUs, CPU cores) hold one process of the role."""
    has_room = (gpus + ROUNDING >= role.gpus and cpus + ROUNDING >= role.cpus for gpus, cpus in free)
    return next((number for number, fits in enumerate(has_room) if fits), None)
