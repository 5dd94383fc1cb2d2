"""Test `rollcast sft`, and GRPO in two stages from its adapter: whole runs, stopped, killed and resumed."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cluster.models.merge import find_source
from configs.loading import load_config, load_sft_config
from tests.runs.conftest import SHORT_SFT, KilledStages
from tests.runs.training import SFT, Training, learnt, run_to_end, training


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.slow
def test_a_fine_tuning_learns_and_leaves_what_it_should(tuned: Training) -> None:
    metrics, summary = tuned.metrics(), tuned.summary()
    assert [step["step"] for step in metrics] == list(range(41))
    held_out = {int(step["step"]): step["eval/loss"] for step in metrics if "eval/loss" in step}
    assert list(held_out) == [0, 15, 30, 40] and held_out[40] < 0.7 * held_out[0]
    assert (summary["eval_loss_before"], summary["eval_loss_after"]) == (held_out[0], held_out[40])
    assert (summary["exit_reason"], summary["steps"], summary["data"]["sequences"]) == ("finished", 40, 1000)
    found = {str(path.relative_to(tuned.out_dir)) for path in tuned.out_dir.rglob("*") if path.is_file()}
    wanted = {
        "config.yaml", "metrics.jsonl", "report.html", "adapter/adapter_model.safetensors", "adapter/README.md", "adapter/tokenizer.json",
        "adapter/chat_template.jinja", "checkpoints/step-000030/manifest.json", "checkpoints/step-000040/manifest.json", "logs/learner-0.log",
    }  # fmt: skip
    assert wanted <= found and not any(name.endswith((".tmp", "run.lock")) for name in found)
    page = (tuned.out_dir / "report.html").read_text()
    assert "Token accuracy" in page and "fine-tuned" in page and "held-out loss" in page
    assert "Sampled completions" not in page and "completions per second" not in page
    assert load_sft_config(tuned.out_dir / "config.yaml").learner.max_steps == 40


@pytest.mark.slow
def test_a_whole_model_is_left_that_ends_answers_with_the_chosen_token(tmp_path: Path) -> None:
    options = ("learner.use_peft=false", "learner.max_steps=2", "model.eos_token=<think>", "data.eval_samples=20")
    run = run_to_end(tmp_path / "sft", *options, command=SFT)
    folder = run.out_dir / "model"
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer["eos_token"] == "<think>" and len(ends) == 2 and ends[0] == 2
    trained, base = tensors(folder), tensors(run.out_dir / "base_model")
    assert trained.keys() == base.keys() and not any(torch.equal(trained[name], base[name]) for name in base)


@pytest.mark.slow
def test_a_stopped_fine_tuning_resumes_to_the_uninterrupted_one(tuned: Training, tmp_path: Path) -> None:
    with training(tmp_path / "run", *SHORT_SFT, command=SFT) as stopped:
        stopped.wait_for_step(12)
        stopped.process.send_signal(signal.SIGTERM)
        assert stopped.finish() == 143, stopped.output()
    steps = stopped.summary()["steps"]
    assert stopped.summary()["exit_reason"] == "stopped by SIGTERM" and 11 <= steps < 40
    assert (stopped.out_dir / f"checkpoints/step-{steps:06d}/manifest.json").is_file()
    resumed = run_to_end(tmp_path / "run", *SHORT_SFT, command=SFT)
    assert f"resuming from {resumed.out_dir}/checkpoints/step-{steps:06d}" in resumed.output()
    assert learnt(resumed.metrics()) == learnt(tuned.metrics())
    expected, found = tensors(tuned.out_dir / "adapter"), tensors(resumed.out_dir / "adapter")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    options = ("--resume", f"{resumed.out_dir}/checkpoints/step-000040")
    with training(tmp_path / "run", *SHORT_SFT, "learner.train_batch_size=16", command=SFT, options=options) as other:
        assert other.finish() == 1 and "made with learner.train_batch_size 32, but this run has 16" in other.output()


@pytest.mark.slow
def test_a_finished_fine_tuning_with_more_steps_begins_anew_or_goes_on_from_the_checkpoint_that_is_named(tmp_path: Path) -> None:
    small = (*SHORT_SFT, "data.train_samples=200", "data.eval_samples=4")
    run_to_end(tmp_path / "run", *small, "learner.max_steps=2", command=SFT)
    anew = run_to_end(tmp_path / "run", *small, "learner.max_steps=3", command=SFT)
    assert f"had a finished run of 2 steps: it is kept as {anew.out_dir}.1, and this run begins anew with step 1" in anew.output()
    assert [step["step"] for step in anew.metrics()] == [0, 1, 2, 3]
    options = ("--resume", f"{anew.out_dir}/checkpoints/step-000003")
    for steps, told in ((5, "the run goes on from step 3 to 5"), (3, "step 3 of 3 is done already: only the end is left")):
        with training(tmp_path / "run", *small, f"learner.max_steps={steps}", command=SFT, options=options) as more:
            assert more.finish() == 0 and told in more.output(), more.output()
        assert more.summary()["steps"] == steps and [step["step"] for step in more.metrics()] == list(range(steps + 1))


@pytest.mark.slow
def test_a_streamed_fine_tuning_resumes_at_the_exact_row(tmp_path: Path) -> None:
    """Buffers of 20 rows and batches of 32: the checkpoint lies within a buffer."""
    streamed = ("data.streaming=true", "data.shuffle_buffer_size=20", "data.eval_samples=20", "learner.max_steps=6", "cluster.save_steps=3")
    whole = run_to_end(tmp_path / "run", *streamed, command=SFT)
    expected, metrics, summary = tensors(whole.out_dir / "adapter"), learnt(whole.metrics()), whole.summary()
    assert [step["step"] for step in whole.metrics()] == list(
        range(7)
    ) and "of the first 20 rows: 20 sequences to train on" in whole.output()
    assert (summary["data"]["rows"], summary["held_out"]["sequences"], summary["exit_reason"]) == (200, 20, "finished")
    shutil.rmtree(whole.out_dir / "adapter")
    options = ("--resume", f"{whole.out_dir}/checkpoints/step-000003")
    with training(tmp_path / "run", *streamed, command=SFT, options=options) as resumed:
        assert resumed.finish() == 0, resumed.output()
    assert "resuming from" in resumed.output() and learnt(resumed.metrics()) == metrics
    assert resumed.summary()["data"] == summary["data"]
    found = tensors(resumed.out_dir / "adapter")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_two_stages_of_grpo_on_the_merged_adapter_survive_a_kill(killed_stages: KilledStages) -> None:
    """The reference of `beta` is the merged model. A fresh adapter has no divergence from it; the second stage's adapter, trained by the first, has."""
    ended = killed_stages.ended
    assert "already finished\n" in ended.output() and f"resuming from {ended.out_dir}/2-all/checkpoints" in ended.output()
    assert (ended.out_dir / "1-few/metrics.jsonl").read_bytes() == killed_stages.first_metrics
    few, strict = (ended.stage(name) for name in ("1-few", "2-all"))
    assert [step["step"] for step in strict.metrics()] == [1, 2, 3, 4]
    assert few.metrics()[0]["kl"] == pytest.approx(0, abs=1e-9) and strict.metrics()[0]["kl"] > 1e-6
    assert strict.metrics()[0]["train/learning_rate"] < few.metrics()[-1]["train/learning_rate"]
    assert load_config(strict.out_dir / "config.yaml").learner.beta == 0.01
    summary = ended.summary()
    assert [(stage["name"], stage["steps"]) for stage in summary["stages"]] == [("1-few", 4), ("2-all", 4)]
    assert (summary["exit_reason"], summary["steps"]) == ("finished", 8)
    last, kept = tensors(strict.out_dir / "adapter"), tensors(ended.out_dir / "adapter")
    assert all(torch.equal(last[name], kept[name]) for name in last)
    merged, base = tensors(few.out_dir / "merged_model"), tensors(few.out_dir / "base_model")
    assert not torch.equal(merged["model.layers.0.mlp.up_proj.weight"], base["model.layers.0.mlp.up_proj.weight"])
    assert find_source(ended.out_dir).base == str(few.out_dir / "merged_model"), "what the last adapter is on"
