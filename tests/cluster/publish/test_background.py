"""Pushes beside the training: one at a time, the newest of those that wait, no failure that ends a run, and nothing left behind.

The hub's gate, not a clock, decides how long an upload takes.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save

from cluster.publish.background import HubUploads
from configs.schema.cluster import PushToHubSection
from tests.cluster.hub_server import READER, Hub, running_hub
from tests.cluster.run_directories import make_run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        for name, value in hub.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the adapters of four checkpoints."""
    run = make_run(tmp_path / "run", steps=4)
    for step in (1, 2, 3, 4):
        adapter = run / "checkpoints" / f"step-{step}" if step < 4 else run / "adapter"
        adapter.mkdir(parents=True)
        (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1}))
        (adapter / "adapter_model.safetensors").write_bytes(weights(step))
    (run / "hub" / "tokenizer").mkdir(parents=True)
    (run / "hub" / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"}')
    return run


def weights(step: int) -> bytes:
    return save({"a.lora_A.weight": np.full((1, 4), float(step), np.float32)})


def uploads_of(run: Path, said: list[str], **settings: Any) -> HubUploads:
    return HubUploads(run, PushToHubSection(**settings), "me/grpo", said.append)


def save_step(uploads: HubUploads, step: int) -> None:
    """As the loop does it; then the checkpoint is removed, as `save_total_limit` does, while its push may still wait."""
    saved = uploads.run / "checkpoints" / f"step-{step}"
    uploads.after_save(step, saved)
    shutil.rmtree(saved)


def pushes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if "push" in child.cmdline()]


def messages(hub: Hub) -> list[str]:
    return [message for _, message, _ in hub.repositories["me/grpo"].commits]


async def test_of_saves_that_wait_the_newest_is_pushed(hub: Hub, run: Path) -> None:
    """While the hub holds back the first upload, saves return at once: they are followed by others here, and nobody opens the gate before."""
    said: list[str] = []
    uploads = uploads_of(run, said)
    hub.gate.clear()
    save_step(uploads, 1)
    assert await asyncio.to_thread(hub.held.acquire, timeout=60), f"no upload began: {said}"
    save_step(uploads, 2)
    save_step(uploads, 3)
    assert len(pushes()) == 1
    hub.gate.set()
    while uploads._working is not None and not uploads._working.done():
        await asyncio.sleep(0.05)
    assert messages(hub) == ["Step 1", "Step 3"]
    assert hub.files("me/grpo")["adapter_model.safetensors"] == weights(3) and "tokenizer.json" in hub.files("me/grpo")
    found = await uploads.finish(4, whole=True)
    assert found == {"repo_id": "me/grpo", "pushed_steps": [1, 3, 4], "failed_steps": [], "superseded": 1, "last_error": ""}
    assert hub.files("me/grpo")["adapter_model.safetensors"] == weights(4)
    await uploads.close()
    assert not (run / "hub").exists() and not pushes()


async def test_a_push_that_fails_is_said_and_counted_and_the_next_goes_on(hub: Hub, run: Path) -> None:
    said: list[str] = []
    uploads = uploads_of(run, said)
    hub.broken = True
    save_step(uploads, 1)
    while uploads._working is not None and not uploads._working.done():
        await asyncio.sleep(0.05)
    assert any("push of step 1" in line and "answers 500" in line for line in said)
    assert any("WARNING: the push of step 1 to me/grpo failed; training continues" in line for line in said)
    hub.broken = False
    save_step(uploads, 2)
    found = await uploads.finish(4, whole=True)
    assert (found["pushed_steps"][-1], found["failed_steps"]) == (4, [1]) and "answers 500" in found["last_error"]
    assert "HubError" in (run / "logs" / "push.log").read_text()
    await uploads.close()


async def test_a_result_that_is_not_pushed_comes_with_the_command(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    said: list[str] = []
    uploads = uploads_of(run, said, hub_private_repo=True, hub_model_revision="v1")
    found = await uploads.finish(4, whole=True)
    assert found["failed_steps"] == [4] and "answers 403" in found["last_error"]
    assert said[-1].startswith("WARNING: the result was not pushed to me/grpo")
    assert said[-1].endswith(f"rollcast push {run} --repo-id me/grpo --private --revision v1")
    await uploads.close()


async def test_the_end_of_a_run_waits_so_long_and_no_longer(hub: Hub, run: Path) -> None:
    """The gate is never opened: only the time limit can end the wait, and it leaves no process."""
    said: list[str] = []
    uploads = uploads_of(run, said, push_timeout_s=0.5)
    hub.gate.clear()
    found = await uploads.finish(4, whole=True)
    assert found["failed_steps"] == [4] and "push_timeout_s 0.5 s" in found["last_error"]
    assert not pushes()
    await uploads.close()


async def test_a_stopped_run_pushes_no_more(hub: Hub, run: Path) -> None:
    said: list[str] = []
    uploads = uploads_of(run, said)
    hub.gate.clear()
    save_step(uploads, 1)
    assert await asyncio.to_thread(hub.held.acquire, timeout=60), f"no upload began: {said}"
    save_step(uploads, 2)
    found = await uploads.finish(4, whole=False)
    assert found["pushed_steps"] == [] and "rollcast push" in said[-1]
    await uploads.close()
    assert not pushes() and not (run / "hub").exists()
    assert messages(hub) == []


async def test_pushing_at_the_end_alone(hub: Hub, run: Path) -> None:
    uploads = uploads_of(run, [], hub_strategy="end")
    save_step(uploads, 1)
    assert not pushes() and hub.requests == []
    assert (await uploads.finish(4, whole=True))["pushed_steps"] == [4]
    await uploads.close()
