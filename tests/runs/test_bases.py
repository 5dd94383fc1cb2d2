"""Every adapter of a chain SFT -> merge -> two stages of GRPO is served on its own base: checked token by token against transformers and PEFT."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.models.adapter_base import adapter_digest
from cluster.models.base_record import BaseRecord, read_record
from cluster.models.weights_digest import weights_digest
from learner.model.tiny_model import build_tokenizer
from tests import REPOSITORY
from tests.cluster.evaluation.test_serving import greedy
from tests.runs.conftest import KilledStages
from tests.runs.training import Training

TOKENS = 24


@pytest.fixture(scope="module")
def merged(killed_stages: KilledStages) -> Training:
    return killed_stages.ended


def command(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_answers(rows: list[dict], base: Path, adapter: Path | None) -> None:
    tokenizer = build_tokenizer()
    for row in rows:
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        assert row["completion_ids"] == greedy(base, adapter, prompt, TOKENS), (base, adapter)


@pytest.mark.slow
def test_adapters_carry_the_digest_of_the_base_that_they_were_trained_on(tuned: Training, merged: Training) -> None:
    few, last = merged.stage("1-few").out_dir, merged.stage("2-all").out_dir
    assert read_record(tuned.out_dir / "adapter") == BaseRecord(weights_digest(tuned.out_dir / "base_model"))
    of_merged = BaseRecord(weights_digest(few / "merged_model"))
    for folder in (few / "adapter", last / "adapter", merged.out_dir / "adapter", last / "checkpoints/step-000004/learner/adapter"):
        assert read_record(folder) == of_merged
    made_from = json.loads((few / "merged_model" / "merged_from.json").read_text())
    assert made_from == {"adapter": adapter_digest(tuned.out_dir / "adapter"), "base": weights_digest(tuned.out_dir / "base_model")}


@pytest.mark.slow
def test_a_run_on_a_merged_base_is_evaluated_on_it(merged: Training, tmp_path: Path) -> None:
    said = command("evaluate", str(merged.out_dir), "-o", str(tmp_path / "out"))
    base = merged.out_dir / "1-few" / "merged_model"
    assert f"evaluating {merged.out_dir}/adapter on its base {base}" in said and "believed" not in said and "WARNING" not in said
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["model"], summary["weights"]) == (str(base), weights_digest(base))
    assert_answers(pq.read_table(tmp_path / "out" / "held_out.parquet").to_pylist(), base, merged.out_dir / "adapter")


@pytest.mark.slow
def test_models_are_compared_each_on_its_own_base(tuned: Training, merged: Training, tmp_path: Path) -> None:
    """`base` is the model before the merge, and the adapter of the fine-tuning shares its engine."""
    sft, grpo = tuned.out_dir / "adapter", merged.out_dir / "adapter"
    said = command("compare", str(merged.out_dir), "base", f"sft={sft}", f"grpo={merged.out_dir}", "-o", str(tmp_path / "out"))
    assert said.count("starting engines on") == 2 and "WARNING" not in said
    on_merged, on_original = merged.out_dir / "1-few" / "merged_model", tuned.out_dir / "base_model"
    rows = pq.read_table(tmp_path / "out" / "comparison.parquet").to_pylist()
    for name, base, adapter in (("base", on_original, None), ("sft", on_original, sft), ("grpo", on_merged, grpo)):
        assert_answers([row for row in rows if row["model"] == name], base, adapter)
    texts = {name: [row["completion"] for row in rows if row["model"] == name] for name in ("base", "sft", "grpo")}
    assert len({*map(tuple, texts.values())}) == 3, "otherwise the above could not fail"
    bases = json.loads((tmp_path / "out" / "summary.json").read_text())["bases"]
    assert bases["sft"]["weights"] == bases["base"]["weights"] == weights_digest(on_original) != bases["grpo"]["weights"]
    assert bases["grpo"] == {"path": str(on_merged), "weights": weights_digest(on_merged)}
