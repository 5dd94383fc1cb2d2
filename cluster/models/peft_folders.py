"""Read adapters from PEFT folders into the buffers that are sent to engines, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from cluster.models.shape import ModelShape, model_shape
from cluster.models.starting_adapter import with_adapter_settings
from configs.contracts.adapter_buffer import parse, slots_of
from configs.contracts.errors import ConfigError
from configs.contracts.records import Adapter, AdapterManifest, adapter_sha256
from configs.schema.model import LoraSection
from configs.schema.run import RunConfig

ZERO_MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
"""Type in safetensors' words -> type that its bytes are read as. numpy has no bfloat16."""


def with_adapter(config: RunConfig, folder: Path) -> RunConfig:
    """Return the settings with this adapter instead of the run's own, and with its rank, alpha and targets.

    Raises:
        ConfigError: it cannot be read, is for another base model, or holds what the engines cannot serve.
    """
    model = config.model.model_copy(update={"adapter": str(folder), "lora": LoraSection()})
    return with_adapter_settings(config.model_copy(update={"model": model}))


def able_to_serve(config: RunConfig, folders: Iterable[Path | None]) -> RunConfig:
    """Return settings whose engines have room for the largest of these adapters; None stands for the base model.

    Raises:
        ConfigError: one of them cannot be served.
    """
    r = max((with_adapter(config, folder).model.lora.r for folder in folders if folder is not None), default=1)
    model = config.model.model_copy(update={"adapter": None, "lora": LoraSection(r=r)})
    return config.model_copy(update={"model": model})


def read_adapter(config: RunConfig, folder: Path, version: int) -> Adapter:
    """Read the adapter in a PEFT folder, without a canary. float16 becomes float32, which holds its values exactly.

    Raises:
        ConfigError: as of `with_adapter`, or its values are of another type.
    """
    lora = with_adapter(config, folder).model.lora
    tensors = _tensors(folder / "adapter_model.safetensors")
    all_bfloat16 = all(kind == "BF16" for kind, _ in tensors.values())
    values = {name: array if all_bfloat16 else _as_float32(kind, array) for name, (kind, array) in tensors.items()}
    return _pack(values, "bfloat16" if all_bfloat16 else "float32", lora, version, config.model.path)


def zero_adapter(config: RunConfig, model_path: str, version: int) -> Adapter:
    """Make an adapter that changes nothing. Engines never sample without an adapter; with this one they serve the base model.

    Zeros of rank 1 on one module are enough: vLLM clears what an adapter does not name.

    Raises:
        ConfigError: the shapes of the model cannot be found out.
    """
    shape = _shape(config, model_path)
    values = {
        f"{ZERO_MODULE}.lora_A.weight": np.zeros((1, shape.hidden), "<f4"),
        f"{ZERO_MODULE}.lora_B.weight": np.zeros((shape.heads * shape.head_dim, 1), "<f4"),
    }
    lora = LoraSection(r=1, alpha=1.0, target_modules=("q_proj",))
    return _pack(values, "float32", lora, version, config.model.path)


def _tensors(file: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Read each tensor of a file: name -> type, in safetensors' words, and values."""
    found = {}
    for name, tensor in parse(file.read_bytes()).items():
        if tensor.dtype not in DTYPES:
            raise ConfigError(f"{file} holds {name} as {tensor.dtype}; save it as float32, float16 or bfloat16")
        found[name] = (tensor.dtype, np.frombuffer(tensor.data, DTYPES[tensor.dtype]).reshape(tensor.shape))
    return found


def _as_float32(kind: str, values: np.ndarray) -> np.ndarray:
    if kind == "BF16":  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype("<f4")


def _pack(
    tensors: Mapping[str, np.ndarray], dtype: Literal["float32", "bfloat16"], lora: LoraSection, version: int, base_model: str
) -> Adapter:
    slots = slots_of({name: values.shape for name, values in tensors.items()}, dtype)
    buffer = np.concatenate([np.ascontiguousarray(tensors[slot.name]).reshape(-1).view(np.uint8) for slot in slots])
    manifest = AdapterManifest(
        version=version,
        sha256=adapter_sha256(buffer),
        dtype=dtype,
        slots=slots,
        r=lora.r,
        alpha=lora.alpha,
        target_modules=tuple(lora.target_modules),
        base_model=base_model,
        use_rslora=lora.use_rslora,
    )
    return Adapter(manifest, buffer)


def _shape(config: RunConfig, model_path: str) -> ModelShape:
    shape = model_shape(model_path) or model_shape(_hub_config_folder(config, model_path))
    if shape is None:
        raise ConfigError(
            f"the config.json of {model_path} does not say its sizes in the words of a plain decoder (hidden_size, num_attention_heads, ...), "
            "so that its base model cannot be served; give an adapter"
        )
    return shape


def _hub_config_folder(config: RunConfig, model_path: str) -> str:
    if Path(model_path).exists():
        return model_path
    from huggingface_hub import hf_hub_download

    revision = config.model.revision if model_path == config.model.path else None
    try:
        return str(Path(hf_hub_download(model_path, "config.json", revision=revision)).parent)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"the config.json of {model_path} cannot be read: {reason}; check model.path") from None
