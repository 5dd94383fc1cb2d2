"""Run the tutorials of docs/tutorials, command by command: SFT -> GRPO in two stages -> evaluate -> compare -> merge -> push, and a recipe of
Open-R1 from its conversion to the hub.

Blocks marked `bash` are run as they are, in a separate folder. Blocks marked `sh` need GPUs or the hub; only their `rollcast train` lines are run,
with `--dry-run`. Each result is asserted. Both guides push to a local server that speaks the hub's protocol.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.loading import load_config
from tests import REPOSITORY
from tests.cluster.hub_server import Hub, running_hub

TUTORIALS = REPOSITORY / "docs" / "tutorials"


def commands(page: Path, kind: str) -> list[str]:
    """Return the commands in blocks of a kind, without `make env`: the environment of the tests is already there."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and line != "make env"]


@dataclass
class Guide:
    """A folder in which a reader follows a tutorial."""

    folder: Path
    hub: Hub
    said: dict[str, str] = field(default_factory=dict)
    """What each command printed."""

    def follow(self, page: Path) -> None:
        for command in commands(page, "bash"):
            self.said[command] = self.run(command)

    def run(self, command: str) -> str:
        words = shlex.split(command)
        program = {".venv/bin/python": [sys.executable], ".venv/bin/rollcast": [sys.executable, "-m", "cluster"]}[words[0]]
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment = own | self.hub.environment(self.folder) | {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
        done = subprocess.run(
            [*program, *words[1:]], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout + done.stderr

    def said_by(self, beginning: str) -> str:
        (found,) = [said for command, said in self.said.items() if command.startswith(f".venv/bin/rollcast {beginning}")]
        return found


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def guide(folder: Path, hub: Hub) -> Guide:
    for name in ("configs", "examples"):
        (folder / name).symlink_to(REPOSITORY / name)
    return Guide(folder, hub)


@pytest.fixture(scope="module")
def medical(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Guide:
    followed = guide(tmp_path_factory.mktemp("medical"), hub)
    followed.follow(TUTORIALS / "medical.md")
    return followed


@pytest.fixture(scope="module")
def open_r1(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Guide:
    followed = guide(tmp_path_factory.mktemp("open-r1"), hub)
    followed.follow(TUTORIALS / "open_r1.md")
    return followed


@pytest.fixture(scope="module")
def own_reward(tmp_path_factory: pytest.TempPathFactory, hub: Hub) -> Guide:
    followed = guide(tmp_path_factory.mktemp("own-reward"), hub)
    followed.follow(TUTORIALS / "own_reward.md")
    return followed


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def test_both_languages_give_the_same_commands() -> None:
    for kind in ("bash", "sh"):
        assert commands(TUTORIALS / "medical.md", kind) == commands(TUTORIALS / "medical.zh.md", kind)


@pytest.mark.parametrize("page", ["medical.md", "medical.zh.md", "open_r1.md", "own_reward.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (TUTORIALS / page).read_text(encoding="utf-8")):
        assert (TUTORIALS / target).exists(), target


def test_sft_learns_the_layout_and_the_demonstrations_mistake(medical: Guide) -> None:
    run = medical.folder / "runs/medical/sft"
    summary = read(run / "summary.json")
    assert summary["exit_reason"] == "finished" and summary["eval_loss_after"] < 0.1 * summary["eval_loss_before"]
    assert (run / "adapter/adapter_model.safetensors").exists() and (run / "adapter/chat_template.jinja").exists()


def test_the_stages_follow_one_another_and_learn(medical: Guide) -> None:
    run = medical.folder / "runs/medical/grpo"
    first, second = (read(run / f"{name}/summary.json") for name in ("1-explore", "2-refine"))
    assert first["exit_reason"] == second["exit_reason"] == "finished"
    assert second["accuracy_before"] == pytest.approx(first["accuracy_after"], abs=0.02), "it did not begin with the first one's adapter"
    assert second["accuracy_after"] >= first["accuracy_before"] + 0.1
    assert (run / "adapter/adapter_model.safetensors").read_bytes() == (run / "2-refine/adapter/adapter_model.safetensors").read_bytes()


def test_the_evaluation_counts_every_completion(medical: Guide) -> None:
    folder = medical.folder / "runs/medical/evaluation"
    (file,) = folder.glob("*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert len(rows) == 200 * 4
    right = [row["rewards/accuracy"] == 1.0 for row in rows]
    by_prompt = [sum(right[first : first + 4]) for first in range(0, len(right), 4)]
    said = medical.said_by("evaluate")
    assert f"{sum(right) / len(right):.3f}" in said
    assert f"{sum(count > 0 for count in by_prompt) / 200:.3f}" in said, "pass@4 of four samples is the share of prompts with a right one"


def test_the_comparison_shows_what_each_step_won(medical: Guide) -> None:
    folder = medical.folder / "runs/medical/comparison"
    rows = pq.read_table(folder / "comparison.parquet").to_pylist()
    assert {row["model"] for row in rows} == {"base", "sft", "grpo"} and len(rows) == 3 * 200
    means = {
        model: math.fsum(row["rewards/accuracy"] or 0.0 for row in rows if row["model"] == model) / 200 for model in ("base", "sft", "grpo")
    }
    assert means["base"] == 0.0 < means["sft"] < means["grpo"], means
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert "http://" not in re.sub(r"http://www\.w3\.org/[\w/]+", "", page) and "<script src" not in page


def test_the_merged_model_answers_as_base_and_adapter(medical: Guide) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    runs = medical.folder / "runs/medical"
    tokenizer = AutoTokenizer.from_pretrained(runs / "merged")
    base = AutoModelForCausalLM.from_pretrained(runs / "sft/base_model", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, str(runs / "grpo/adapter"))
    merged = AutoModelForCausalLM.from_pretrained(runs / "merged", dtype=torch.float32)
    messages = [{"role": "user", "content": "17 mg at 8, 25 mg at 20: mg a day?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        difference = (merged(ids).logits.log_softmax(-1) - adapted(ids).logits.log_softmax(-1)).abs().mean().item()
    # Rounding to bfloat16 changes a weight by at most 2**-9 of its size: a few hundredths of a nat after three layers.
    assert difference < 0.05


@pytest.mark.parametrize(("name", "run"), [("medical-grpo", "medical/grpo"), ("laptop-grpo", "laptop")])
def test_the_adapter_is_on_the_hub(request: pytest.FixtureRequest, hub: Hub, name: str, run: str) -> None:
    followed = request.getfixturevalue("medical" if name.startswith("medical") else "open_r1")
    files = hub.files(f"me/{name}")
    assert files["adapter_model.safetensors"] == (followed.folder / "runs" / run / "adapter/adapter_model.safetensors").read_bytes()
    assert "README.md" in files and str(followed.folder).encode() not in b"".join(files.values())


def test_the_guides_recipe_is_planned_as_the_guide_says(open_r1: Guide) -> None:
    said = open_r1.said_by("train openr1.yaml --dry-run")
    assert "448 completions = 28 prompts x 16 generations a step" in said
    assert "learner 6" in said and "rollout 0" in said and "cosine_with_min_lr" in said
    config = load_config(open_r1.folder / "openr1.yaml")
    assert [(spec.name, spec.weight) for spec in config.rewards.functions] == [("accuracy", 1.0), ("format", 1.0), ("tag_count", 1.0)]
    assert (config.actors.num_workers, config.learner.ranks, config.groups_per_step) == (1, 7, 28)


def test_the_rehearsal_leaves_what_a_run_leaves(open_r1: Guide) -> None:
    run = open_r1.folder / "runs/laptop"
    summary = read(run / "summary.json")
    assert summary["exit_reason"] == "finished" and summary["steps"] == 20
    assert summary["accounting"]["drawn"] == summary["accounting"]["trained"] == 160
    assert any(name.startswith("eval/") for line in (run / "metrics.jsonl").read_text().splitlines() for name in json.loads(line))
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("page", ["medical.md", "open_r1.md"])
def test_what_needs_gpus_can_at_least_be_planned(request: pytest.FixtureRequest, page: str) -> None:
    followed = request.getfixturevalue("medical" if page == "medical.md" else "open_r1")
    trained = [command for command in commands(TUTORIALS / page, "sh") if command.startswith(".venv/bin/rollcast train")]
    assert len(trained) == 2
    for command in trained:
        assert "placement" in followed.run(f"{command} --dry-run")


def test_a_task_of_reasoning_gym_is_shown_and_learned(own_reward: Guide) -> None:
    said = own_reward.said_by("data examples/reasoning_gym.yaml")
    assert (
        "reasoning_gym reads the gold answer in reasoning_gym: all of the first 1,000 can be read" in said
        and "Spell this word backward" in said
    )
    lines = [json.loads(line) for line in (own_reward.folder / "runs/own_reward/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "rewards/whole_word/mean" in line]
    first, last = (math.fsum(line["rewards/reasoning_gym/mean"] for line in part) / 60 for part in (steps[:60], steps[-60:]))
    # Measured: 0.04 more, of which 5,000 graded completions on each side leave 0.005 to chance. Held out, an untrained model has under 0.1.
    summary = read(own_reward.folder / "runs/own_reward/summary.json")
    assert last > first + 0.01 and summary["reward_after"] > 0.4, (first, last, summary["reward_after"])
    assert all(
        0 <= line["rewards/whole_word/mean"] <= line["rewards/reasoning_gym/mean"] + 1e-6 and "right_length" in line for line in steps
    )


def test_a_reward_of_ones_own_scores_the_completions_of_a_run(own_reward: Guide) -> None:
    assert "whole_word" in own_reward.said_by("score examples/whole_word.py")
    assert "reasoning_gym" in own_reward.said_by("score reasoning_gym")
