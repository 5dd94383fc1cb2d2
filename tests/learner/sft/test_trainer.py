"""Supervised fine-tuning over real Ray, DeepSpeed and gloo, against plain transformers.

Protected: loss and gradient are those of a cross-entropy on the same rows, however they are packed and on one rank or two; what is not imitated
has no loss; a resumed run is the uninterrupted one, bit for bit, with an adapter and with every weight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from configs.contracts.errors import DataError
from configs.contracts.records import DEMONSTRATION_SCHEMA
from configs.schema.model import ModelSection
from configs.schema.sft import SftConfig
from learner.model.policy import Policy
from learner.sft.demonstrations import demonstrations, num_trained, pack_demonstrations
from learner.sft.learner import SftLearner
from learner.sft.trainer import RowOrder, sft_loss
from tests.learner.rollouts import VOCABULARY

Result = TypeVar("Result")
ROWS = 12
RELATIVE = 2e-5
"""float32: the same sums in another order. Values are of the order 1, the largest difference seen is 2e-6."""


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Conversations of one to three imitated turns, of very different lengths."""
    random = np.random.default_rng(5)
    ids, trained = [], []
    for row in range(ROWS):
        turns = [(int(random.integers(1, 12)), int(random.integers(1, 20))) for _ in range(1 + row % 3)]
        mask = list(chain.from_iterable([False] * asked + [True] * answered for asked, answered in turns)) + [False] * (row % 2)
        ids.append(random.integers(0, VOCABULARY, len(mask)).astype(np.int32))
        trained.append(mask)
    return pa.table([ids, trained], schema=DEMONSTRATION_SCHEMA)


@pytest.fixture(scope="module")
def plain(tiny_qwen2: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_qwen2, dtype=torch.float32, attn_implementation="eager")


def plain_losses(model: Any, table: pa.Table, rows: Sequence[int]) -> tuple[torch.Tensor, int]:
    """Sum of the cross-entropy of the imitated tokens, one unpadded row at a time, and how many they are."""
    total, count = torch.zeros(()), 0
    for row in rows:
        ids = torch.tensor(table["token_ids"][row].as_py())
        labels = torch.where(torch.tensor(table["trained"][row].as_py()), ids, -100)[1:]
        total = total + cross_entropy(model(ids[None]).logits[0, :-1], labels, reduction="sum")
        count += int((labels != -100).sum())
    return total, count


def config(model_path: Path, *, ranks: int = 1, token_budget: int = 512, model: dict[str, Any] | None = None, **learner: Any) -> SftConfig:
    return SftConfig.model_validate(
        {
            "model": {"path": str(model_path), "dtype": "float32", "lora": {"r": 4, "alpha": 8}} | (model or {}),
            "data": {"path": "unused", "max_length": 128},
            "learner": {"ranks": ranks, "gpus_per_rank": 0, "train_batch_size": 4, "token_budget": token_budget, "learning_rate": 1e-2} | learner,
            "seed": 1,
        }
    )  # fmt: skip


def run(work: Awaitable[Result]) -> Result:
    async def main() -> Result:
        return await asyncio.wait_for(work, timeout=180)

    return asyncio.run(main())


def stored(table: pa.Table, path: Path) -> Path:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return path


async def started(settings: SftConfig, table: pa.Table, folder: Path, resume_folder: Path | None = None) -> SftLearner:
    folder.mkdir(exist_ok=True)
    group = SftLearner.create(settings, ray_options={}, log_dir=folder)
    files = stored(table, folder / "train.arrow"), stored(table.slice(0, 5), folder / "eval.arrow")
    await group.start(settings.model.path, *files, total_steps=6, resume_folder=resume_folder)
    return group


@pytest.mark.parametrize("token_budget", [72, 512], ids=["a row alone", "packed"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_and_gradient_are_those_of_a_plain_cross_entropy(
    tiny_qwen2: Path, table: pa.Table, plain: Any, token_budget: int, attention: str
) -> None:
    section = ModelSection.model_validate({"path": str(tiny_qwen2), "dtype": "float32", "attn_implementation": attention})
    policy = Policy.load(section, str(tiny_qwen2), full=True)
    batches = pack_demonstrations(table, range(ROWS), token_budget=token_budget, attention_width=policy.attention_width)
    assert len(batches) > 3 if token_budget == 72 else len(batches) <= 2
    count = num_trained(table, range(ROWS))
    assert count == sum(len(batch.imitated.target_ids_N) for batch in batches) < sum(len(batch.packed.target_ids_N) for batch in batches)
    losses = [sft_loss(policy(policy.tensors(batch.imitated))[0], num_tokens=count)[0] for batch in batches]
    sum(losses[1:], losses[0]).backward()
    expected, expected_count = plain_losses(plain, table, range(ROWS))
    plain.zero_grad()
    (expected / expected_count).backward()
    assert (count, float(sum(losses))) == (expected_count, pytest.approx(float(expected) / expected_count, rel=RELATIVE))
    gradients = dict(plain.named_parameters())
    for name, parameter in policy.causal.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-3, atol=RELATIVE, msg=name)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.usefixtures("ray_local")
def test_a_step_on_the_ranks_is_the_plain_one(tiny_qwen2: Path, table: pa.Table, plain: Any, tmp_path: Path, ranks: int) -> None:
    """A fresh adapter changes nothing, so that the first loss is the base's; with every weight trained the gradient is the base's, too."""
    settings = config(tiny_qwen2, ranks=ranks, use_peft=False)
    rows = RowOrder(ROWS, 4, 1).of_step(0)
    loss, count = plain_losses(plain, table, rows)
    plain.zero_grad()
    (loss / count).backward()
    norm = torch.stack([parameter.grad.norm() for parameter in plain.parameters()]).norm()
    held_out, held_out_count = plain_losses(plain, table, range(5))

    async def scenario() -> tuple[dict[str, float], dict[str, float]]:
        group = await started(settings, table, tmp_path / "full")
        before = await group.evaluate()
        step = await group.step(0)
        await group.close()
        return before, step

    before, step = run(scenario())
    assert before["eval/loss"] == pytest.approx(float(held_out) / held_out_count, rel=RELATIVE)
    assert step["train/loss"] == pytest.approx(float(loss) / count, rel=RELATIVE)
    assert step["train/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert step["num_tokens"] == sum(int(np.flatnonzero(table["trained"][row].as_py())[-1]) for row in rows), (
        "the last one predicts nothing"
    )
    assert step["train/mean_token_accuracy"] == pytest.approx(plain_accuracy(plain, table, rows))


def plain_accuracy(model: Any, table: pa.Table, rows: Sequence[int]) -> float:
    hits = []
    for row in rows:
        ids, trained = torch.tensor(table["token_ids"][row].as_py()), torch.tensor(table["trained"][row].as_py())
        hits.append((model(ids[None]).logits[0, :-1].argmax(-1) == ids[1:])[trained[1:]])
    return float(torch.cat(hits).double().mean())


@pytest.mark.parametrize(
    ("settings", "model"),
    [({"ranks": 2}, {"lora": {"r": 4, "alpha": 8, "dropout": 0.1}}), ({"use_peft": False, "gradient_checkpointing": True}, {})],
    ids=["an adapter with dropout", "every weight"],
)
@pytest.mark.usefixtures("ray_local")
def test_a_resumed_run_is_the_uninterrupted_one(
    tiny_qwen2: Path, table: pa.Table, tmp_path: Path, settings: dict[str, Any], model: dict[str, Any]
) -> None:
    asked = config(tiny_qwen2, model=model, **settings)
    arithmetic = ("train/loss", "train/grad_norm", "train/learning_rate", "num_tokens", "entropy")

    async def steps(group: SftLearner, first: int, last: int) -> list[dict[str, float]]:
        return [{name: (await group.step(index))[name] for name in arithmetic} for index in range(first, last)]

    async def scenario() -> None:
        group = await started(asked, table, tmp_path / "whole")
        await steps(group, 0, 2)
        await group.save(tmp_path / "half")
        expected = await steps(group, 2, 3)
        held_out = await group.evaluate()
        assert await group.evaluate() == held_out, "without dropout"
        expected += await steps(group, 3, 4)
        await group.save(tmp_path / "end")
        await group.close()
        group = await started(asked, table, tmp_path / "resumed", tmp_path / "half")
        assert await steps(group, 2, 4) == expected, "that the loss was measured in between changes nothing"
        await group.save(tmp_path / "again")
        if not asked.learner.use_peft:
            await group.save_model(tmp_path / "model")
        await group.close()
        assert (tmp_path / "again/optimizer.safetensors").read_bytes() == (tmp_path / "end/optimizer.safetensors").read_bytes()
        assert len({str(step["train/loss"]) for step in expected}) == 2 and expected[0]["train/grad_norm"] > 0

    run(scenario())
    if asked.learner.use_peft:
        assert (tmp_path / "again/adapter/adapter_model.safetensors").is_file()
    else:
        saved, master = load_file(tmp_path / "model/model.safetensors"), load_file(tmp_path / "again/optimizer.safetensors")
        assert all(torch.equal(saved[name], master[f"master/model.{name}"]) for name in saved)
        assert not (tmp_path / "again/adapter").exists()


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_has_every_row_once_and_the_last_step_what_is_left(shuffle: bool) -> None:
    order = RowOrder(10, 4, seed=3, limit=25, shuffle=shuffle)
    drawn = [order.of_step(index) for index in range(7)]
    assert [len(rows) for rows in drawn] == [4, 4, 4, 4, 4, 4, 1]
    rows = list(chain.from_iterable(drawn))
    assert sorted(rows[:10]) == sorted(rows[10:20]) == list(range(10))
    assert (rows[:10] != rows[10:20]) == shuffle
    assert len(set(rows[20:])) == 5
    assert RowOrder(10, 4, seed=4).of_step(0) != RowOrder(10, 4, seed=3).of_step(0)


def test_demonstrations_need_a_prompt_and_a_completion() -> None:
    assert demonstrations([([1, 2], [3])])["trained"].to_pylist() == [[False, False, True]]
    with pytest.raises(DataError, match="empty prompt or completion"):
        demonstrations([([], [3])])
