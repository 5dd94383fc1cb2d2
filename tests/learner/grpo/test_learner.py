"""GrpoLearner over real Ray, DeepSpeed and gloo.

Protected: a step trains and reports; the same batch in another order is the same step, bit for bit; a resumed run is the
uninterrupted one, bit for bit, and may go on with another number of ranks; a batch that is not finite is skipped, saved, and ends the
run when repeated; a dead rank ends the group with an error that names it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import ray

from configs.contracts.errors import CheckpointError, LearnerError, NonFiniteError
from configs.contracts.metrics import values
from configs.contracts.records import adapter_sha256
from configs.schema.run import RunConfig
from learner.engine.ranks import Ranks
from learner.engine.watchdog import CallLimits
from learner.grpo.batch_metrics import batch_metrics
from learner.grpo.learner import GrpoLearner, WarmStartProgress
from learner.packing import Denominators
from tests.learner.rollouts import run_config, scored_groups

pytestmark = pytest.mark.usefixtures("ray_local")
Result = TypeVar("Result")


def run(work: Awaitable[Result]) -> Result:
    async def main() -> Result:
        return await asyncio.wait_for(work, timeout=180)

    return asyncio.run(main())


async def started(config: RunConfig, log_dir: Path, resume_folder: Path | None = None) -> GrpoLearner:
    group = GrpoLearner.create(config, ray_options={}, log_dir=log_dir)
    await group.start(config.model.path, 10, resume_folder, canary_token_ids=(3, 1, 4, 1, 5))
    return group


async def steps(group: GrpoLearner, seeds: range) -> list[tuple[float, float, str]]:
    """(loss, gradient norm, adapter hash) after one step on each seed's batch."""
    results = []
    for seed in seeds:
        report = await group.step(scored_groups(seed, ray.put), step=seed)
        manifest = (await group.export_adapter()).manifest
        results.append((report.metrics["train/loss"], report.metrics["train/grad_norm"], manifest.sha256))
    return results


def test_two_ranks_step_export_save_and_resume_bit_for_bit(tiny_qwen2: Path, tmp_path: Path) -> None:
    config = run_config(tiny_qwen2, ranks=2, model={"lora": {"r": 4, "alpha": 8.0, "dropout": 0.1}})

    async def scenario() -> None:
        group = await started(config, tmp_path / "a")
        await steps(group, range(2))
        await group.save(tmp_path / "checkpoint")
        uninterrupted = await steps(group, range(2, 4))
        await group.close()
        group = await started(config, tmp_path / "b", tmp_path / "checkpoint")
        adapter = await group.export_adapter()
        manifest, buffer_ref = adapter.manifest, adapter.buffer
        assert manifest.version == 2
        assert adapter_sha256(await buffer_ref) == manifest.sha256
        assert manifest.canary is not None and len(manifest.canary.logprobs) == 4
        assert await steps(group, range(2, 4)) == uninterrupted
        assert len(await group.worker_pids()) == 2
        await group.close()

        alone = await started(run_config(tiny_qwen2, ranks=1), tmp_path / "c", tmp_path / "checkpoint")
        assert (await alone.export_adapter()).manifest.sha256 == manifest.sha256
        await alone.step(scored_groups(2, ray.put), step=2)
        await alone.close()

    run(scenario())


@pytest.mark.slow
def test_ranks_over_nf4_share_one_model(quantisable: Path, tmp_path: Path) -> None:
    async def one_step(ranks: int) -> tuple[float, float, str]:
        group = await started(run_config(quantisable, ranks=ranks, model={"quantization": "nf4"}), tmp_path / f"{ranks}")
        try:
            return (await steps(group, range(1)))[0]
        finally:
            await group.close()

    async def scenario() -> None:
        (loss, norm, _), (other_loss, other_norm, _) = await one_step(1), await one_step(2)
        assert loss == pytest.approx(other_loss, abs=2e-5) and norm == pytest.approx(other_norm, rel=1e-4)  # the order of sums

    run(scenario())


@pytest.mark.slow
def test_a_checkpoint_goes_on_alike_on_another_number_of_ranks(tiny_qwen2: Path, tmp_path: Path) -> None:
    async def go_on(ranks: int, folder: str, checkpoint: Path | None) -> GrpoLearner:
        return await started(run_config(tiny_qwen2, ranks=ranks), tmp_path / folder, checkpoint)

    async def scenario() -> None:
        for before, after in ((2, 1), (1, 2)):
            checkpoint = tmp_path / f"checkpoint-{before}"
            group = await go_on(before, f"{before}", None)
            await steps(group, range(2))
            await group.save(checkpoint)
            uninterrupted = await steps(group, range(2, 5))
            await group.close()
            group = await go_on(after, f"{before}-{after}", checkpoint)
            resumed = await steps(group, range(2, 5))
            await group.close()
            for (loss, norm, _), (other_loss, other_norm, _) in zip(uninterrupted, resumed, strict=True):
                # Gradients are summed in another order; Adam turns that into 1e-4 of a weight (see the next test), and the loss follows.
                assert loss == pytest.approx(other_loss, abs=1e-3) and norm == pytest.approx(other_norm, rel=1e-2)
            assert uninterrupted[0][:2] == pytest.approx(resumed[0][:2], abs=2e-5), "the first step is the same but for the order of sums"

    run(scenario())


def test_order_of_groups_and_accumulation_do_not_matter(tiny_qwen2: Path, tmp_path: Path) -> None:
    async def one_step(budget: int, folder: str, *, backwards: bool = False) -> tuple[dict[str, float], np.ndarray]:
        group = await started(run_config(tiny_qwen2, token_budget=budget), tmp_path / folder)
        groups = scored_groups(1, ray.put)
        report = await group.step(groups[::-1] if backwards else groups, step=3)
        buffer_ref = (await group.export_adapter()).buffer
        buffer: Any = await buffer_ref
        buffer = buffer.view(np.float32).copy()
        await group.close()
        return dict(report.metrics), buffer

    async def scenario() -> tuple[Any, Any, Any]:
        return await one_step(4096, "a"), await one_step(4096, "b", backwards=True), await one_step(48, "c")

    (metrics, adapter), (reversed_metrics, reversed_adapter), (_, accumulated) = run(scenario())
    for name in ("learner/computed_tokens_per_s", "learner/completion_tokens_per_s", "learner/peak_memory_bytes"):
        assert metrics.pop(name) > 0 and reversed_metrics.pop(name) > 0, "these are the machine's"
    assert metrics == reversed_metrics and np.array_equal(adapter, reversed_adapter)
    # Adam's first step moves each weight by about the learning rate (1e-2), whatever its gradient's size, so a gradient that is nearly 0
    # may turn rounding (1e-7 of its terms) into a visible share of a step: 1e-4 is a hundredth of one.
    assert np.abs(adapter - accumulated).max() < 1e-4
    assert metrics["staleness/max"] == 3 and metrics["num_tokens"] > 0 and 0 < metrics["packing/fill"] <= 1
    assert 0 < metrics["packing/prefix_saving"] < 1 and "mfu" not in metrics
    assert {"kl"}.isdisjoint(metrics) and {
        "entropy",
        "reward",
        "reward_std",
        "rewards/accuracy/mean",
        "train/learning_rate",
    } <= metrics.keys()


def test_truncated_completions_are_masked_but_counted(tmp_path: Path) -> None:
    """As in TRL: they shape their group's advantages and `grpo`'s mean over completions; the tokens are those that are left."""
    groups = [
        replace(
            scored,
            scores=replace(scored.scores, rewards_G=(4.0, 0.0, None, 2.0)),
            summary=replace(scored.summary, truncated_G=(True, False, True, False), completion_tokens_G=(24, 3, 24, 5)),
        )
        for scored in scored_groups(1, ray.put, prompts=2)
    ]

    def prepared(**learner: Any) -> Any:
        group = GrpoLearner(run_config(tmp_path, scale_rewards="none", **learner), Ranks([], tmp_path, CallLimits(), 100.0))
        return group._computed(groups, group._advantages(groups))

    assert prepared() == ([(2.0, -2.0, None, None)] * 2, Denominators(6, 64, 24)), "an advantage of 0 is not computed, but counted"
    assert prepared(entropy_coef=0.1) == ([(2.0, -2.0, None, 0.0)] * 2, Denominators(6, 64, 24))
    assert prepared(beta=0.1)[0] == prepared(entropy_coef=0.1)[0]
    assert prepared(mask_truncated_completions=True) == ([(None, -2.0, None, None)] * 2, Denominators(6, 16, 24))
    metrics = values(batch_metrics(groups, 0))
    assert metrics["completions/clipped_ratio"] == 0.5 and metrics["completions/max_terminated_length"] == 5
    assert metrics["completions/mean_terminated_length"] == 4 and metrics["completions/min_terminated_length"] == 3


def test_batches_that_are_not_finite_are_skipped_saved_and_end_the_run(tiny_qwen2: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        group = await started(run_config(tiny_qwen2, ranks=2, max_nonfinite_steps=2), tmp_path)
        before = (await group.export_adapter()).manifest
        report = await group.step(scored_groups(1, ray.put, poison=float("nan")), step=0)
        after = (await group.export_adapter()).manifest
        # A skipped step is a step: the window counts it, and engines that never confirmed its version would stall a synchronous run.
        assert report.skipped and report.policy_version == after.version == 1 and after.sha256 == before.sha256
        bad = {
            rank: [np.load(file)["behaviour_logprobs_N"] for file in tmp_path.glob(f"nonfinite-step-000000-rank-{rank}-*.npz")]
            for rank in (0, 1)
        }
        finite = {rank: all(np.isfinite(logprobs_N).all() for logprobs_N in saved) for rank, saved in bad.items()}
        assert all(bad.values()) and sorted(finite.values()) == [False, True], "one rank's loss is not finite, and both skip and save"
        assert not (await group.step(scored_groups(2, ray.put), step=0)).skipped
        await group.step(scored_groups(1, ray.put, poison=float("nan")), step=1)
        with pytest.raises(NonFiniteError, match="2 steps in a row"):
            await group.step(scored_groups(1, ray.put, poison=float("nan")), step=1)

    run(scenario())


def test_a_dead_rank_ends_the_group_with_its_name_and_log(tiny_qwen2: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        group = await started(run_config(tiny_qwen2, ranks=2), tmp_path)
        victim = (await group.worker_pids())[1]
        with (tmp_path / "learner-1.log").open("a") as log:
            log.write("last words\n")
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(LearnerError, match=r"learner rank 1(.|\n)*last words"):
            await group.step(scored_groups(1, ray.put), step=0)
        assert time.monotonic() - began < 15
        with pytest.raises(LearnerError, match="closed"):
            await group.step(scored_groups(1, ray.put), step=0)

    run(scenario())


def test_a_checkpoint_of_another_adapter_is_refused(tiny_qwen2: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        group = await started(run_config(tiny_qwen2), tmp_path / "a")
        await group.save(tmp_path / "checkpoint")
        await group.close()
        with pytest.raises(CheckpointError, match=r"model\.lora"):
            await started(run_config(tiny_qwen2, model={"lora": {"r": 8, "alpha": 8.0}}), tmp_path / "b", tmp_path / "checkpoint")

    run(scenario())


def test_warm_start_learns_and_saves_a_model(tiny_qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for file in tiny_qwen2.iterdir():
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    rows = [([1, 2, first], [first, first + 1, first + 2]) for first in range(3, 40)]
    config = run_config(tiny_qwen2, ranks=2, warm_start={"max_steps": 40, "train_batch_size": 8, "learning_rate": 1e-2})
    progress: list[WarmStartProgress] = []

    async def scenario() -> None:
        group = GrpoLearner.create(config, ray_options={}, log_dir=tmp_path)
        await group.warm_start(str(tmp_path / "model"), rows, tmp_path / "out", progress.append)
        await group.start(str(tmp_path / "out"), 10)
        assert (await group.export_adapter()).manifest.version == 0
        await group.close()

    run(scenario())
    assert [point.step for point in progress] == [10, 20, 30, 40]
    assert progress[-1].loss < progress[0].loss / 2
    assert (tmp_path / "out" / "model.safetensors").exists() and (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
