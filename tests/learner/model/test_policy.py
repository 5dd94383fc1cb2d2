"""The adapter out and in, what is refused, and the canary."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.contracts.errors import AdapterError, ConfigError
from configs.schema.model import LoraSection, ModelSection
from learner.model.adapters import export_adapter, load_adapter, save_adapter
from learner.model.policy import Policy


def load(path: Path, *, dtype: str = "float32", r: int = 4, seed: int = 0, dropout: float = 0.0) -> Policy:
    lora = LoraSection(r=r, alpha=8.0, dropout=dropout)
    return Policy.load(ModelSection(path=str(path), dtype=dtype, lora=lora), str(path), seed=seed)  # type: ignore[arg-type]


def randomise(policy: Policy) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.normal_(0, 0.2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_goes_out_and_in_bit_for_bit(dtype: str, tiny_qwen2: Path) -> None:
    sender, receiver = load(tiny_qwen2, dtype=dtype), load(tiny_qwen2, dtype=dtype, seed=1)
    randomise(sender)
    sent = export_adapter(sender, 3, canary_token_ids=(5, 9, 2, 6))
    assert sent.buffer.dtype == np.uint8 and sent.manifest.nbytes == sent.buffer.nbytes == sent.manifest.slots[-1].end_byte
    assert (sent.manifest.version, sent.manifest.dtype, sent.manifest.r, sent.manifest.alpha) == (3, dtype, 4, 8.0)
    assert sent.manifest.slots[0].name == "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    assert sent.manifest.target_modules == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    load_adapter(receiver, sent)
    received = export_adapter(receiver, 3, canary_token_ids=(5, 9, 2, 6))
    assert np.array_equal(sent.buffer, received.buffer) and sent.manifest == received.manifest


def test_the_canary_is_what_transformers_says_of_the_sequence(tiny_qwen2: Path) -> None:
    policy = load(tiny_qwen2, dropout=0.5)
    randomise(policy)
    token_ids = (5, 9, 2, 6, 33)
    canary = export_adapter(policy, 0, token_ids).manifest.canary
    assert canary is not None and canary.token_ids == token_ids
    with torch.no_grad(), policy.evaluating():
        logits = policy.model(input_ids=torch.tensor([token_ids])).logits[0, :-1].double()
    expected = torch.log_softmax(logits, -1)[range(4), list(token_ids[1:])]
    assert np.abs(np.array(canary.logprobs) - expected.numpy()).max() < 2e-5  # float32 logits of up to 10; see numerics/test_logprobs.py


def test_the_reference_is_the_model_without_its_adapter(tiny_qwen2: Path) -> None:
    from learner.model.policy import one_sequence

    policy = load(tiny_qwen2)
    packed = policy.tensors(one_sequence((1, 2, 3, 4)))
    fresh = policy(packed)[0].detach()  # B = 0: the adapter does nothing yet
    randomise(policy)
    assert torch.equal(policy.reference_logprobs(packed), fresh)
    assert not torch.equal(policy(packed)[0].detach(), fresh)
    assert all(parameter.requires_grad for parameter in policy.trainable().values()) and len(policy.trainable()) == 28


def test_values_that_are_not_finite_are_refused(tiny_qwen2: Path) -> None:
    policy = load(tiny_qwen2)
    parameter = next(iter(policy.trainable().values()))
    with torch.no_grad():
        parameter[0, 0] = float("inf")
    with pytest.raises(AdapterError, match=r"version 4 has values in .*q_proj.lora_A.weight that are not finite"):
        export_adapter(policy, 4)


def test_a_damaged_or_foreign_adapter_is_refused(tiny_qwen2: Path) -> None:
    policy = load(tiny_qwen2)
    adapter = export_adapter(policy, 1)
    damaged = adapter.buffer.copy()
    damaged[17] ^= 1
    with pytest.raises(AdapterError, match="does not match its hash"):
        load_adapter(policy, dataclasses.replace(adapter, buffer=damaged))
    with pytest.raises(AdapterError, match="other tensors"):
        load_adapter(load(tiny_qwen2, r=8), adapter)


def test_a_saved_folder_is_one_that_peft_loads(tiny_qwen2: Path, tmp_path: Path) -> None:
    policy = load(tiny_qwen2)
    randomise(policy)
    save_adapter(policy, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    again = Policy.load(ModelSection(path=str(tiny_qwen2), dtype="float32", adapter=str(tmp_path)), str(tiny_qwen2))
    assert np.array_equal(export_adapter(again, 0).buffer, export_adapter(policy, 0).buffer)


def test_models_that_packing_cannot_reproduce_are_refused(tiny_qwen2: Path, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen2Config, Qwen2ForCausalLM

    size = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    sliding = Qwen2Config(**size, use_sliding_window=True, sliding_window=8, max_window_layers=1)  # type: ignore[arg-type]
    Qwen2ForCausalLM(sliding).save_pretrained(tmp_path / "sliding")
    with pytest.raises(ConfigError, match="sliding_attention"):
        load(tmp_path / "sliding")
    capped = Gemma2Config(**size, head_dim=8, final_logit_softcapping=0.5, initializer_range=0.5, layer_types=["full_attention"] * 2)  # type: ignore[arg-type]
    Gemma2ForCausalLM(capped).save_pretrained(tmp_path / "capped")
    with pytest.raises(ConfigError, match="differ from the model's own"):
        load(tmp_path / "capped")


def test_gradient_checkpointing_changes_no_gradient(tiny_qwen2: Path) -> None:
    from learner.model.policy import one_sequence

    gradients = []
    for checkpointing in (False, True):
        policy = Policy.load(
            ModelSection(path=str(tiny_qwen2), dtype="float32", lora=LoraSection(r=4)),
            str(tiny_qwen2),
            gradient_checkpointing=checkpointing,
        )
        policy(policy.tensors(one_sequence(range(1, 20))))[0].sum().backward()
        gradients.append({name: parameter.grad for name, parameter in policy.trainable().items()})
    assert all(gradient is not None and torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())
    assert any(bool(gradient.any()) for gradient in gradients[0].values())
