"""Engines and graders without a learner: the base model and adapters from disk, one after another in the same engine."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.adapters import able_to_serve, read_adapter
from cluster.errors import ConfigError
from cluster.placement import Node, place, roles
from cluster.records import Prompt, PromptId, RolloutGroup, RolloutRequest, Sampling
from cluster.serving import Serving, serving
from configs.schema import RunConfig

Run = Callable[[Coroutine[Any, Any, Any]], Any]
PROMPT = tuple(range(7, 27))


def run_config(model: Path, **model_settings: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "model": {"path": str(model), "dtype": "float32", **model_settings},
            "data": {"path": "builtin:addition", "max_prompt_length": 96},
            "actors": {"gpus_per_worker": 0, "num_generations": 4, "max_completion_length": 16, "max_num_seqs": 16},
            "rewards": {"functions": [{"name": "accuracy", "params": {"answer_style": "answer_tag"}}], "graders_per_worker": 1},
            "learner": {"gpus_per_rank": 0, "train_batch_size": 8},
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from learner.tiny_model import create_tiny_model

    return create_tiny_model(tmp_path_factory.mktemp("served") / "model", seed=3)


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of different ranks, as PEFT saves them; `half` is the first in float16."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.numpy import load_file, save_file
    from transformers import AutoModelForCausalLM

    folders = {}
    for name, r, targets in (("small", 4, ["q_proj", "v_proj"]), ("large", 12, "all-linear")):
        torch.manual_seed(r)
        peft = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets))
        for parameter in (parameter for key, parameter in peft.named_parameters() if "lora_B" in key):
            torch.nn.init.normal_(parameter, std=0.15)
        folders[name] = tmp_path_factory.mktemp("adapters") / name
        peft.save_pretrained(str(folders[name]))
    half = folders["half"] = tmp_path_factory.mktemp("adapters") / "half"
    half.mkdir()
    (half / "adapter_config.json").write_text((folders["small"] / "adapter_config.json").read_text())
    weights = load_file(folders["small"] / "adapter_model.safetensors")
    save_file({key: value.astype(np.float16) for key, value in weights.items()}, half / "adapter_model.safetensors")
    return folders


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield lambda coroutine: runner.run(asyncio.wait_for(coroutine, 300))


@pytest.fixture(scope="module")
def served(
    ray_local: None, run: Run, model: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    config = able_to_serve(run_config(model), [None, *adapters.values()])
    logs, stack, name = tmp_path_factory.mktemp("logs"), AsyncExitStack(), f"serving-test-{os.getpid()}"
    started = serving(config, str(model), roles(config, learner=False), log_dir=logs, run_name=name)
    yield run(stack.enter_async_context(started))
    run(stack.aclose())
    assert not Path(f"/dev/shm/rollcast-{name}").exists(), "adapters were left in shared memory"


def greedy(model: Path, adapter: Path | None, tokens: int) -> tuple[list[int], list[float]]:
    """What transformers and PEFT make of the prompt, in float64: tokens and their log-probabilities."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(model)
    network = (PeftModel.from_pretrained(network, str(adapter)) if adapter else network).double().eval()
    token_ids, logprobs = list(PROMPT), []
    for _ in range(tokens):
        with torch.no_grad():
            distribution = network(torch.tensor([token_ids])).logits[0, -1].log_softmax(-1)
        token_ids.append(int(distribution.argmax()))
        logprobs.append(float(distribution.max()))
        if token_ids[-1] == network.config.eos_token_id:
            break
    return token_ids[len(PROMPT) :], logprobs


@pytest.mark.slow
def test_one_engine_serves_base_and_adapters_in_any_order(served: Serving, run: Run, model: Path, adapters: dict[str, Path]) -> None:
    """Also the base again after an adapter of every module: nothing of it may be left. Float32 against float64: 1e-5 nats is far above the
    rounding of three layers (5e-7 is what is seen) and far below what an adapter changes."""
    request = RolloutRequest(Prompt(PromptId(-1, 0), PROMPT, "", {"solution": "1"}), Sampling(1, 12, temperature=0.0))
    for version, name in enumerate((None, "large", "small", None, "half")):
        folder = adapters[name] if name else None
        run(served.install(folder))
        summary, body = run(served.rollouts.rollout(request))
        group = RolloutGroup(run(fetch(body)))
        tokens, logprobs = greedy(model, folder, 12)
        assert group.token_ids_T(0).tolist() == tokens, name
        np.testing.assert_allclose(group.logprobs_T(0), logprobs, atol=1e-5)
        assert (summary.min_policy_version, summary.max_policy_version) == (version, version)
        assert run(served.rewards.score(body, summary, 0)).columns["accuracy"].values_G == (0.0,)


async def fetch(body: Any) -> Any:
    return await body


def test_the_adapters_differ_from_the_base(model: Path, adapters: dict[str, Path]) -> None:
    """By more than ten times the tolerance: otherwise the test above could not fail."""
    found = [greedy(model, folder, 1)[1][0] for folder in (None, adapters["small"], adapters["large"])]
    assert min(abs(found[0] - found[1]), abs(found[0] - found[2]), abs(found[1] - found[2])) > 1e-4


def test_an_adapter_travels_as_it_is_saved(model: Path, adapters: dict[str, Path]) -> None:
    from safetensors.numpy import load_file

    adapter = read_adapter(run_config(model), adapters["small"], 5)
    saved = load_file(adapters["small"] / "adapter_model.safetensors")
    found = {slot.name: adapter.buffer[slot.start_byte : slot.end_byte].view("<f4").reshape(slot.shape) for slot in adapter.manifest.slots}
    assert found.keys() == saved.keys()
    assert all(np.array_equal(found[name], saved[name]) for name in saved)
    assert (adapter.manifest.version, adapter.manifest.r, adapter.manifest.alpha) == (5, 4, 8.0)


def test_bfloat16_travels_as_its_bytes_and_mixed_types_as_float32(model: Path, tmp_path: Path, adapters: dict[str, Path]) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    exact = {name: tensor.bfloat16() for name, tensor in load_file(adapters["small"] / "adapter_model.safetensors").items()}
    (tmp_path / "adapter_config.json").write_text((adapters["small"] / "adapter_config.json").read_text())
    save_file(exact, tmp_path / "adapter_model.safetensors")
    adapter = read_adapter(run_config(model), tmp_path, 0)
    slot = adapter.manifest.slots[1]
    raw = torch.from_numpy(adapter.buffer[slot.start_byte : slot.end_byte].view(np.int16).copy()).view(torch.bfloat16).reshape(slot.shape)
    assert adapter.manifest.dtype == "bfloat16" and torch.equal(raw, exact[slot.name])
    other = next(name for name in exact if name != slot.name)
    save_file(exact | {other: exact[other].float()}, tmp_path / "adapter_model.safetensors")
    adapter = read_adapter(run_config(model), tmp_path, 0)
    slot = adapter.manifest.slots[1]
    wide = torch.from_numpy(adapter.buffer[slot.start_byte : slot.end_byte].view("<f4").copy()).reshape(slot.shape)
    assert adapter.manifest.dtype == "float32" and torch.equal(wide, exact[slot.name].float())


def test_engines_have_room_for_the_largest_adapter(model: Path, adapters: dict[str, Path]) -> None:
    assert able_to_serve(run_config(model), [None, adapters["small"], adapters["large"]]).model.lora.r == 12
    assert able_to_serve(run_config(model, adapter=str(adapters["large"])), [None]).model.adapter is None


def test_an_adapter_of_another_model_is_refused_before_anything_starts(model: Path, tmp_path: Path, adapters: dict[str, Path]) -> None:
    other = json.loads((model / "config.json").read_text()) | {"hidden_size": 256}
    (tmp_path / "config.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="is for another model than model.path"):
        able_to_serve(run_config(tmp_path), [adapters["small"]])


def test_serving_needs_no_room_for_a_learner(model: Path) -> None:
    config = run_config(model)
    alone = place(config, [Node("here", cpus=2, gpus=0)], learner=False)
    assert alone.nodes == {"here": ("rollout 0", "reward 0")}
    assert (roles(config).cpus, roles(config, learner=False).cpus) == (3, 2)
