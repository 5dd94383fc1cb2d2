"""A policy's adapter as one flat buffer, which the engines load, or as a PEFT folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from configs.contracts.adapter_buffer import slots_of
from configs.contracts.errors import AdapterError
from configs.contracts.records import Adapter, AdapterManifest, Canary, adapter_sha256
from learner.model.policy import Policy


def export_adapter(policy: Policy, version: int, canary_token_ids: Sequence[int] = ()) -> Adapter:
    """Copy the adapter into one flat buffer in the model's dtype, with a canary if `canary_token_ids` are given.

    Raises:
        AdapterError: a value is not finite.
    """
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(policy.model)
    parts = []
    for name in sorted(state):
        tensor = state[name].detach().to(policy.dtype).contiguous().cpu()
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"adapter version {version} has values in {name} that are not finite; it is not sent to any engine")
        parts.append(tensor.flatten().view(torch.uint8).numpy())
    buffer = np.concatenate(parts)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    canary = None
    if canary_token_ids:
        canary = Canary(tuple(canary_token_ids), tuple(float(value) for value in policy.sequence_logprobs(canary_token_ids)))
    return Adapter(_manifest(policy, version, buffer, shapes, canary), buffer)


def load_adapter(policy: Policy, adapter: Adapter) -> None:
    """Put an exported adapter back into a policy, bit for bit.

    Raises:
        AdapterError: it does not match its hash, or has other tensors than this policy's.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    manifest = adapter.manifest
    if adapter_sha256(adapter.buffer) != manifest.sha256:
        raise AdapterError(
            f"the buffer of adapter version {manifest.version} does not match its hash {manifest.sha256[:12]}; fetch it again"
        )
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(policy.model).items()}
    if expected != {slot.name: slot.shape for slot in manifest.slots}:
        raise AdapterError(f"adapter version {manifest.version} (r {manifest.r}) has other tensors than this policy; check model.lora")
    dtype = getattr(torch, manifest.dtype)
    state = {
        slot.name: torch.from_numpy(adapter.buffer[slot.start_byte : slot.end_byte].copy()).view(dtype).reshape(slot.shape)
        for slot in manifest.slots
    }
    set_peft_model_state_dict(policy.model, state)


def save_adapter(policy: Policy, folder: Path) -> None:
    """Write the adapter as a PEFT folder (safetensors)."""
    policy.model.save_pretrained(str(folder), safe_serialization=True)


def _manifest(
    policy: Policy, version: int, buffer: np.ndarray, shapes: Mapping[str, tuple[int, ...]], canary: Canary | None
) -> AdapterManifest:
    config = policy.model.peft_config["default"]
    dtype = "bfloat16" if policy.dtype == torch.bfloat16 else "float32"
    slots = slots_of(shapes, dtype)
    return AdapterManifest(
        version=version,
        sha256=adapter_sha256(buffer),
        dtype=dtype,
        slots=slots,
        r=config.r,
        alpha=float(config.lora_alpha),
        # Read from the slots: PEFT's own `target_modules` may hold whole paths for "all-linear".
        target_modules=tuple(sorted({slot.name.split(".")[-3] for slot in slots})),
        base_model=policy.base_model,
        canary=canary,
        use_rslora=config.use_rslora,
    )
