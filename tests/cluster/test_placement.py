"""Test where processes are placed, and the errors when they do not fit."""

import pytest

from cluster.inspection.dry_run import batch_arithmetic, device_map
from cluster.placement import Node, place
from configs.contracts.errors import PlacementError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig


def config(**sections: dict) -> RunConfig:
    return RunConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, **sections})


def test_more_gpus_than_the_cluster_has_names_both_numbers_and_the_roles() -> None:
    run = config(actors={"num_workers": 2}, learner={"ranks": 7})
    with pytest.raises(PlacementError, match=r"9 GPUs \(2 x 1 for rollout, 7 x 1 for learner\) but the cluster has 8.*lower"):
        place(run, [Node("a", 64, 8)])


def test_more_cores_than_the_cluster_has() -> None:
    run = config(actors={"gpus_per_worker": 0, "cpus_per_worker": 4}, learner={"gpus_per_rank": 0})
    with pytest.raises(PlacementError, match=r"6 CPU cores .* but the cluster has 2"):
        place(run, [Node("a", 2, 0)])


@pytest.mark.parametrize("nodes", [[], [Node("head", 0, 0)]])
def test_a_cluster_that_lost_its_head_is_told_from_one_that_is_too_small(nodes: list[Node]) -> None:
    with pytest.raises(
        PlacementError, match=rf"0 CPU cores on {len(nodes)} live nodes.*Ray may have died.*`ray status`.*run the same command"
    ):
        place(config(), nodes)


def test_a_worker_that_spans_nodes_does_not_fit_though_the_sum_would() -> None:
    run = config(actors={"gpus_per_worker": 4}, learner={"ranks": 4})
    with pytest.raises(PlacementError, match="on one node"):
        place(run, [Node("a", 8, 3), Node("b", 8, 5 - 2), Node("c", 8, 2)])


def test_every_process_is_placed_once() -> None:
    run = config(actors={"num_workers": 1}, learner={"ranks": 7})
    placement = place(run, [Node("a", 64, 8)])
    assert sorted(placement.nodes["a"]) == sorted(["rollout 0", "reward 0", *(f"learner {rank}" for rank in range(7))])


def test_nodes_of_one_name_have_the_room_of_all() -> None:
    """Containers often have one host name on every machine."""
    run = config(actors={"num_workers": 2}, learner={"ranks": 1})
    processes = place(run, [Node("trainer", 8, 1)] * 3 + [Node("trainer", 0, 0)]).nodes["trainer"]
    assert sorted(processes) == ["learner 0", "reward 0", "rollout 0", "rollout 1"]


def test_the_device_map_gives_each_gpu_its_processes() -> None:
    whole = device_map(config(actors={"num_workers": 1}, learner={"ranks": 2}))
    assert whole == {"GPU 0": ["rollout 0"], "GPU 1": ["learner 0"], "GPU 2": ["learner 1"], "CPU": ["reward 0"]}
    shared = device_map(config(actors={"gpus_per_worker": 0.45}, learner={"gpus_per_rank": 0.45}))
    assert shared == {"GPU 0": ["rollout 0", "learner 0"], "CPU": ["reward 0"]}
    parallel = device_map(config(actors={"gpus_per_worker": 2}, learner={"ranks": 1}))
    assert parallel["GPUs 0-1"] == ["rollout 0"]


def test_batch_arithmetic_of_the_guide() -> None:
    run = config(actors={"num_generations": 16}, learner={"ranks": 7, "train_batch_size": 448})
    assert batch_arithmetic(run)[0].startswith("batch: 448 completions = 28 prompts x 16 generations a step; about 64 completions a rank")


def test_a_fine_tuning_asks_for_its_ranks_alone() -> None:
    run = SftConfig.model_validate({"model": {"path": "m"}, "data": {"path": "d"}, "learner": {"ranks": 2}})
    assert place(run, [Node("a", 2, 2)]).nodes["a"] == ("learner 0", "learner 1")
    assert device_map(run) == {"GPU 0": ["learner 0"], "GPU 1": ["learner 1"]}
    with pytest.raises(PlacementError, match=r"2 GPUs \(2 x 1 for learner\) but the cluster has 1: lower learner.ranks or"):
        place(run, [Node("a", 2, 1)])
