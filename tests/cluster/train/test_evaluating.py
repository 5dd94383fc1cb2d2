"""When a run is evaluated while it trains, and what training sees of it. A small pool by hand: the rules need no process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.prompts.eval_sets import EvalSet
from cluster.evaluation.evaluate import read_evaluation
from cluster.output.sinks import MetricSinks
from cluster.train.evaluating import TrainingEvaluations
from configs.contracts.errors import RewardError
from configs.contracts.records import (
    AdapterRef,
    Completion,
    Grades,
    GroupSummary,
    Prompt,
    PromptId,
    RolloutGroup,
    RolloutRequest,
    Scores,
    SyncReport,
    VersionSpan,
)
from configs.schema.run import RunConfig


class Pool:
    """Samples at once under the version it has; `hold` keeps every rollout waiting."""

    def __init__(self) -> None:
        self.version = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.in_hand = 0
        self.most_in_hand = 0
        self.together: list[int] = []

    def assign(self, requests: Sequence[RolloutRequest]) -> list[RolloutRequest]:
        self.together.append(len(requests))
        return list(requests)

    async def rollout(self, request: RolloutRequest) -> tuple[GroupSummary, Any]:
        self.in_hand += 1
        self.most_in_hand = max(self.most_in_hand, self.in_hand)
        began = self.version
        await self.hold.wait()
        await asyncio.sleep(0)
        self.in_hand -= 1
        G = request.sampling.num_generations
        completion = Completion((5, 6), (0.0, 0.0), (VersionSpan(began, 0, 1), VersionSpan(self.version, 1, 2)), "stop", "42")
        table = RolloutGroup.build(request, [completion] * G).table
        summary = GroupSummary(request.prompt.id, 0, 1, (2,) * G, (False,) * G, began, self.version, "rollout 0", 0.0)
        return summary, at_once(table)

    async def broadcast(self, adapter: AdapterRef) -> SyncReport:
        raise AssertionError("an evaluation broadcasts nothing")


def at_once(value: Any) -> asyncio.Future[Any]:
    """What a reference in the object store is to the driver."""
    found = asyncio.get_running_loop().create_future()
    found.set_result(value)
    return found


class Rewards:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def score(self, body: Any, summary: GroupSummary, step: int) -> Scores:
        if self.error:
            raise self.error
        G = len(summary.completion_tokens_G)
        return Scores(summary.prompt_id, 0, (1.0,) * G, {"accuracy": Grades((1.0,) * G, ("scored",) * G)}, 0.0)


def evaluations(
    folder: Path, *, max_staleness: int = 1, error: Exception | None = None, prompts: int = 12, said: list[str] | None = None
) -> Any:
    config = RunConfig.model_validate(
        {
            "model": {"path": "m"},
            "data": {"path": "d"},
            "actors": {"max_num_seqs": 16},
            "cluster": {"max_staleness": max_staleness},
            "evaluation": {"steps": 2, "num_generations": 2},
        }
    )
    asked = EvalSet("held_out", [Prompt(PromptId(-1, index), (1,), "?") for index in range(prompts)])
    sinks = MetricSinks(folder, "run", ray_metrics=False)
    say = (said if said is not None else []).append
    return TrainingEvaluations(Pool(), Rewards(error), config, [asked], folder / "evaluations", sinks, say)


async def broadcast(evaluating: Any, version: int) -> None:
    """Do what the loop does with a new adapter."""
    evaluating.rollouts.version = version
    await evaluating.on_new_adapter(version)


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


async def test_a_synchronous_run_waits_for_its_evaluation(tmp_path: Path) -> None:
    evaluating = evaluations(tmp_path, max_staleness=0)
    evaluating.rollouts.hold.clear()
    await broadcast(evaluating, 1)  # step 1 is not due
    evaluated = asyncio.create_task(broadcast(evaluating, 2))
    await asyncio.sleep(0.01)
    assert not evaluated.done(), "the loop may not use the engines yet"
    evaluating.rollouts.hold.set()
    await evaluated
    assert evaluating.rollouts.together == [12], "as one gang, to be reproducible"
    assert [(line["step"], line["eval/held_out/accuracy"]) for line in logged(tmp_path)] == [(2, 1.0)]


async def test_an_asynchronous_run_goes_on_and_leaves_room_for_training(tmp_path: Path) -> None:
    """16 seats, of which an evaluation takes a quarter: 2 groups of 2."""
    said: list[str] = []
    evaluating = evaluations(tmp_path, said=said)
    evaluating.rollouts.hold.clear()
    await broadcast(evaluating, 2)
    await asyncio.sleep(0.01)
    await broadcast(evaluating, 3)
    evaluating.rollouts.hold.set()
    await evaluating.finish(3)
    assert evaluating.rollouts.most_in_hand == 2
    [line] = logged(tmp_path)
    assert (line["step"], line["eval/held_out/min_policy_version"], line["eval/held_out/max_policy_version"]) == (2, 2, 3)
    assert said == [
        "evaluation after step 2, held_out: accuracy 1.000 [0.758, 1.000], pass@2 1.000, maj@2 1.000 (sampled by versions 2 to 3)"
    ]


async def test_an_evaluation_that_is_overtaken_is_left_out_but_the_last_is_not(tmp_path: Path) -> None:
    said: list[str] = []
    evaluating = evaluations(tmp_path, said=said)
    evaluating.rollouts.hold.clear()
    await broadcast(evaluating, 2)
    await broadcast(evaluating, 4)
    assert "the evaluation after step 4 is left out: that after step 2 still runs" in said[0]
    evaluating.rollouts.hold.set()
    await evaluating.finish(4)
    assert [line["step"] for line in logged(tmp_path)] == [2, 4]


async def test_a_resumed_run_makes_up_for_what_it_missed_once(tmp_path: Path) -> None:
    for _ in range(2):
        resumed = evaluations(tmp_path)
        resumed.rollouts.version = 2
        await resumed.catch_up(2)
        await resumed.finish(2)
    evaluating = evaluations(tmp_path)
    await evaluating.catch_up(0)
    await evaluating.catch_up(3)
    await evaluating.finish(3)
    assert [line["step"] for line in logged(tmp_path)] == [2]
    assert (tmp_path / "evaluations" / "step-000002" / "held_out.parquet").exists()


async def test_what_ends_an_evaluation_ends_the_run(tmp_path: Path) -> None:
    evaluating = evaluations(tmp_path, error=RewardError("too many failed"))
    await broadcast(evaluating, 2)
    await asyncio.sleep(0.01)
    with pytest.raises(RewardError, match="too many failed"):
        await broadcast(evaluating, 3)


async def test_an_evaluation_is_given_up_with_its_run(tmp_path: Path) -> None:
    evaluating = evaluations(tmp_path)
    evaluating.rollouts.hold.clear()
    await broadcast(evaluating, 2)
    await asyncio.sleep(0.01)
    await evaluating.cancel()
    assert len(asyncio.all_tasks()) == 1
    assert not (tmp_path / "metrics.jsonl").exists()


async def test_an_evaluation_that_cannot_be_written_goes_on(tmp_path: Path) -> None:
    evaluating = evaluations(tmp_path, max_staleness=0)
    evaluating.sinks.say = evaluating.say
    (tmp_path / "evaluations").write_text("no folder")
    await broadcast(evaluating, 2)
    assert [line["step"] for line in logged(tmp_path)] == [2]


@pytest.mark.parametrize("content", ["", "[]", "{}", "null", "[" * 100_000])
def test_a_damaged_evaluation_is_measured_again(tmp_path: Path, content: str) -> None:
    said: list[str] = []
    assert read_evaluation(tmp_path / "evaluation_before.json", said.append) is None and not said
    (tmp_path / "evaluation_before.json").write_text(content)
    assert read_evaluation(tmp_path / "evaluation_before.json", said.append) is None
    assert said == [f"{tmp_path / 'evaluation_before.json'} is damaged, and is measured again"]
