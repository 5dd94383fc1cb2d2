"""Nodes of a joined cluster are late, die, and are cut off and come back: the run goes on with what is left, and loses nothing.

    first life     2 nodes, no room for the learner ─► a late node ─► that node dies, no other comes ─► PlacementError
    second life    a node joins, same command ─► a node with rollout and reward worker dies ─► another joins
                   ─► a node is cut off for a moment ─► the learner's node is cut off until Ray calls it dead, another joins, it comes back
                   ─► SIGTERM

Bodies of groups are small here, and Ray would carry them in its messages: `RAY_max_direct_call_object_size` sends them to the object stores,
where those of a real run are.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from cluster.output import checkpoint
from configs.contracts.errors import PlacementError
from tests import REPOSITORY
from tests.faults.nodes import Cluster, Node, cluster, may_make_namespaces
from tests.faults.whole import require_balanced
from tests.runs.training import SMALL, Training

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not may_make_namespaces(), reason="this user may not make network namespaces")]

RAY = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
    "RAY_max_direct_call_object_size": "1000",
}
"""A node that is cut off counts as dead after about 8 s."""
SHORT_CUT_S = 3.0
NODE_CPUS = 2
SETTINGS = (
    *SMALL,
    "learner.max_steps=1000000",
    "learner.num_iterations=3",  # the learner is slower than the engines, so that groups are ready when a node dies
    "learner.cpus_per_rank=1.5",
    "actors.num_workers=2",
    "rewards.num_workers=2",
    "rewards.cpus_per_worker=0.25",
    "data.eval_samples=0",
    "cluster.max_staleness=4",
    "cluster.save_steps=5",
    "cluster.logged_groups_per_step=4",
)
SECOND = ("cluster.lost_resources_wait_s=120", "rewards.cpus_per_worker=0.4", "actors.cpus_per_worker=1.1")
"""Settings of the second life: only one of the reward workers has room beside the learner, and a node has room for one rollout worker, so that
the one that is lost needs a new node wherever the others are."""
FIRST_STEP_S = 200.0
LOST_AGAIN = "making the learner group again"


@dataclass(frozen=True)
class Ended:
    """The end of one life."""

    output: str
    code: int


@dataclass(frozen=True)
class Lives:
    """Both lives of the run, and what was seen of them."""

    first: Ended
    second: Ended
    steps_without_node: int
    """Steps trained between the death of a node with a rollout and a reward worker and the coming of another."""
    learners_lost: tuple[int, int, int]
    """Learner groups lost in the second life until after the death of a node, the short cut, and the long one."""
    replaced: tuple[int, int]
    """Rollout workers replaced until before the short cut, and after it."""
    cut_off_rank_ran: bool
    """The rank that was cut off was alive when its replacement had trained."""
    left: list[psutil.Process]
    """Processes of roles at the end, on any node."""
    out_dir: Path


@contextmanager
def run_on(nodes: Cluster, out_dir: Path, output: Path, *overrides: str) -> Iterator[Training]:
    """Start the run on the head."""
    command = [sys.executable, "-m", "cluster", "train", "configs/quickstart.yaml", *SETTINGS, *overrides, f"out_dir={out_dir}"]
    command.append(f"cluster.address={nodes.address}")
    with output.open("w") as log:
        process = subprocess.Popen(
            nodes.within(nodes.head, command), cwd=REPOSITORY, env=nodes.environment, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    try:
        yield Training(process, out_dir, output)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def until(run: Training, condition: Callable[[], object], timeout_s: float = 90.0) -> None:
    """Return when the condition holds. The run must not end before."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert run.process.poll() is None and time.monotonic() < deadline, run.output()[-5000:]
        time.sleep(0.05)


def train_more(run: Training, steps: int, timeout_s: float = 90.0) -> None:
    wanted = run.steps_done() + steps
    run.wait_for_step(wanted, timeout_s)


def node_with(nodes: Cluster, *names: str) -> Node:
    """Find a node that carries a process of each name."""
    return next(node for node in nodes.nodes if all(node.processes(name) for name in names))


def first_life(nodes: Cluster, out_dir: Path, model: str) -> tuple[Training, int]:
    """Begin without room for the learner, train on a late node, and end when that dies. Returns the run and its exit code."""
    with run_on(nodes, out_dir, out_dir.with_suffix(".1"), "cluster.lost_resources_wait_s=5", model) as run:
        until(run, lambda: "waiting for room for the learner" in run.output(), FIRST_STEP_S)
        nodes.join(NODE_CPUS)
        run.wait_for_step(7, FIRST_STEP_S)
        node_with(nodes, "ray::LearnerWorker").die()
        return run, run.finish(120)


def second_life(nodes: Cluster, out_dir: Path, first: Ended, model: str) -> Lives:
    """Resume the run on a late node, and strike it."""
    nodes.join(NODE_CPUS)
    with run_on(nodes, out_dir, out_dir.with_suffix(".2"), *SECOND, model) as run:

        def losses() -> int:
            return run.output().count(LOST_AGAIN)

        def replaced() -> int:
            return run.output().count("is lost and started again")

        until(run, lambda: "training ..." in run.output(), FIRST_STEP_S)
        train_more(run, 4)
        node_with(nodes, "ray::RolloutWorker", "ray::RewardWorker").die()
        before = run.steps_done()
        train_more(run, 8)
        alone, lost = run.steps_done() - before, [losses()]
        late = nodes.join(NODE_CPUS)
        until(run, lambda: late.processes("ray::RolloutWorker"))
        train_more(run, 10)
        replaced_before = replaced()
        cut_off_for_a_moment(node_with(nodes, "ray::RolloutWorker"))
        train_more(run, 8)
        lost.append(losses())
        replaced_after = replaced()
        ran = cut_off_learner(nodes, run)
        lost.append(losses())
        run.process.send_signal(signal.SIGTERM)
        code = run.finish(60)
    left = [
        process for node in nodes.nodes for name in ("RolloutWorker", "RewardWorker", "LearnerWorker") for process in node.processes(name)
    ]
    return Lives(
        first, Ended(run.output(), code), alone, (lost[0], lost[1], lost[2]), (replaced_before, replaced_after), ran, left, out_dir
    )


def cut_off_for_a_moment(node: Node) -> None:
    node.cut_off()
    time.sleep(SHORT_CUT_S)
    node.connect()


def cut_off_learner(nodes: Cluster, run: Training) -> bool:
    """Cut the learner off until another trains, and let it come back. Returns whether its process was alive all that time."""
    node, lost = node_with(nodes, "ray::LearnerWorker"), run.output().count(LOST_AGAIN)
    (rank,) = node.processes("ray::LearnerWorker")
    node.cut_off()
    nodes.join(NODE_CPUS)
    until(run, lambda: run.output().count(LOST_AGAIN) > lost)
    train_more(run, 3)
    ran = rank.is_running()
    node.connect()
    until(run, lambda: not rank.is_running())
    train_more(run, 3)
    return ran


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Lives]:
    with cluster(2, NODE_CPUS, **RAY) as nodes:
        model = f"model.path={tiny_model}"
        first, code = first_life(nodes, tmp_path_factory.mktemp("nodes") / "run", model)
        yield second_life(nodes, first.out_dir, Ended(first.output(), code), model)


def test_a_run_without_room_for_its_learner_says_so_and_goes_on_when_a_node_comes(lives: Lives) -> None:
    waits = "waiting for room for the learner, 870 s more at most: the learner asks for 1 x (0 GPUs, 1.5 CPU cores)"
    assert waits in lives.first.output
    assert "step 7/" in lives.first.output


def test_a_run_whose_learner_lost_its_node_ends_with_what_is_missing_when_no_node_comes(lives: Lives) -> None:
    assert lives.first.code == PlacementError.exit_code
    assert "PlacementError: the learner asks for 1 x (0 GPUs, 1.5 CPU cores): " in lives.first.output
    assert "cluster.lost_resources_wait_s 5 is over" in lives.first.output
    assert "resuming from" in lives.second.output


def test_a_run_that_loses_a_node_with_rollout_and_reward_worker_goes_on_with_the_others(lives: Lives) -> None:
    """Groups that were ready, and whose bodies were on that node alone, would cost the learner its step, and so the group of its ranks."""
    assert lives.steps_without_node >= 8
    assert lives.learners_lost[0] == 0
    assert "reward worker" in lives.second.output


def test_a_node_that_is_cut_off_for_a_moment_costs_nothing(lives: Lives) -> None:
    assert lives.learners_lost[1] == 0
    assert lives.replaced[0] == lives.replaced[1]


def test_a_learner_whose_node_is_cut_off_is_made_again_on_another_and_the_old_one_ends(lives: Lives) -> None:
    assert lives.cut_off_rank_ran, "it was not cut off for long enough to be there at the same time as its replacement"
    assert lives.learners_lost[2] == 1
    assert f"{LOST_AGAIN} (1 of 2)" in lives.second.output


def test_nothing_is_lost_trained_twice_or_left_behind(lives: Lives) -> None:
    assert lives.second.code == 128 + signal.SIGTERM
    figures = require_balanced(lives.out_dir)
    assert figures["steps"] == json.loads((lives.out_dir / "summary.json").read_text())["steps"]
    last = checkpoint.newest(lives.out_dir / "checkpoints")
    assert last is not None and last.step == figures["steps"]
    assert not list((lives.out_dir / "checkpoints").glob("*.tmp"))
    assert not lives.left
