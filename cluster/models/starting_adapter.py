"""`model.adapter`: take rank, scale and targets of a run from the PEFT folder that it starts from, and refuse what engines cannot serve.

Reads only `adapter_config.json` and the head of `adapter_model.safetensors`; no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cluster.models.adapter_base import named_base, require_same_name
from cluster.models.base_record import read_record
from cluster.models.shape import ModelShape, model_shape
from configs.contracts.errors import ConfigError
from configs.schema.model import EMBEDDINGS, UNSERVED_LORA_KEYS, VLLM_LORA_RANKS, LoraSection
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

PLAIN_INITS = (None, True, False, "gaussian", "orthogonal")
"""Ways to draw a fresh adapter that leave the base model as it is. All others of PEFT (PiSSA, OLoRA, CorDA, LoftQ, ...) may change it."""

UNSERVED_KEYS = UNSERVED_LORA_KEYS | {
    "alora_invocation_tokens": "engines switch no adapter on in the middle of a sequence",
    "use_bdlora": "vLLM cannot serve block-diagonal LoRA",
    "arrow_config": "vLLM cannot serve routed adapters",
    "velora_config": "vLLM cannot serve VeLoRA",
    "kasa_config": "vLLM cannot serve KaSA",
    "monteclora_config": "vLLM cannot serve MonteCLoRA",
}
LINEAR_NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""In the order of `ModelShape.linear_shapes`."""

Config = TypeVar("Config", RunConfig, SftConfig)

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""


def with_starting_adapter(config: Config) -> Config:
    """Return the run with rank, alpha and targets of its `model.adapter`; with its own if that is merged into the base, or there is none.

    Raises:
        ConfigError: the folder cannot be read, names another model of the hub, holds what the engines cannot serve, or differs from what
            `model.lora` says expressly; or a warm start would change the adapter's base.
    """
    if config.model.adapter is None:
        return config
    if isinstance(config, RunConfig) and config.learner.warm_start is not None and not config.model.merge_adapter:
        raise ConfigError(
            f"learner.warm_start with model.adapter {config.model.adapter}: the warm start changes the weights that the adapter was trained on; set "
            "learner.warm_start: null, or merge the adapter first with model.merge_adapter: true"
        )
    found = with_adapter_settings(config)
    folder = Path(found.model.adapter or "")
    if read_record(folder) is None:  # by a record the run decides itself, as soon as its base is there
        require_same_name(folder, named_base(folder), config.model.path, "model.path")
    return found


def with_adapter_settings(config: Config) -> Config:
    """Do the same without looking at the base that the adapter was trained on."""
    folder = Path(config.model.adapter or "").absolute()
    settings, shapes = plain_lora(folder, config.model.path)
    lora = config.model.lora if config.model.merge_adapter else _lora_of(config.model.lora, folder, settings, shapes)
    return config.model_copy(update={"model": config.model.model_copy(update={"adapter": str(folder), "lora": lora})})


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """The content of an `adapter_config.json`."""

    r: int
    alpha: float
    use_rslora: bool
    dropout: float
    every: Mapping[str, object]
    """All settings, under PEFT's names."""


def plain_lora(folder: Path, base: str) -> tuple[AdapterSettings, Shapes]:
    """Read settings and tensor shapes of a PEFT folder.

    Args:
        base: the model that the adapter goes on; its shape is compared if it is known without loading the model.

    Raises:
        ConfigError: the folder cannot be read, is for another base model, or is no LoRA adapter of the kind that engines serve.
    """
    settings, shapes = _settings(folder), _shapes(folder)
    _refuse_unserved(folder, settings)
    _refuse_damaged(folder, settings.r, shapes)
    shape = model_shape(base)
    if shape is not None:
        _refuse_other_base(folder, base, shapes, shape)
    return settings, shapes


def _settings(folder: Path) -> AdapterSettings:
    try:
        settings = json.loads((folder / "adapter_config.json").read_text())
        if not isinstance(settings, dict):
            raise ValueError("no settings")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"adapter {folder} has no adapter_config.json that can be read ({error}); give the path of a PEFT folder"
        ) from None
    r, alpha, dropout = (settings.get(name) for name in ("r", "lora_alpha", "lora_dropout"))
    if settings.get("peft_type") != "LORA" or not isinstance(r, int):
        raise ConfigError(f"adapter {folder} is of the type {settings.get('peft_type')}: only LORA is supported; give another or none")
    if not isinstance(alpha, int | float) or alpha <= 0:
        raise ConfigError(f"adapter {folder} has the lora_alpha {alpha!r}: it must be a number above 0; restore its adapter_config.json")
    rate = float(dropout) if isinstance(dropout, int | float) else 0.0
    return AdapterSettings(r, float(alpha), bool(settings.get("use_rslora")), rate, settings)


def _shapes(folder: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"adapter {folder} has no adapter_model.safetensors that can be read ({error}); save it with PEFT's save_pretrained"
        ) from None


def _refuse_unserved(folder: Path, settings: AdapterSettings) -> None:
    harmless = {"bias": (None, "none"), "init_lora_weights": PLAIN_INITS}
    asked = [key for key in UNSERVED_KEYS if settings.every.get(key) not in harmless.get(key, (None, False, [], {}))]
    if asked:
        faults = "; ".join(f"its {key} is {settings.every[key]!r}, and {UNSERVED_KEYS[key]}" for key in asked)
        remedy = "convert it to a plain LoRA adapter (PEFT's path_initial_model_for_weight_conversion), or start from another one"
        raise ConfigError(f"adapter {folder} cannot be trained and served: {faults}; {remedy}")
    if not 0 < settings.r <= VLLM_LORA_RANKS[-1]:
        raise ConfigError(f"adapter {folder} has rank {settings.r}, and vLLM serves 1 to {VLLM_LORA_RANKS[-1]}; start from another one")


def _refuse_damaged(folder: Path, r: int, shapes: Shapes) -> None:
    """Refuse tensors that are not A or B of rank `r` on a linear layer."""
    for name, shape in shapes.items():
        axis = {"lora_A": 0, "lora_B": 1}.get(name.split(".")[-2] if name.endswith(".weight") else "")
        if axis is None or len(shape) != 2 or shape[axis] != r or _module(name) in EMBEDDINGS:
            raise ConfigError(
                f"adapter {folder} holds {name} of shape {list(shape)}: it must be A or B of rank {r} on a linear layer of the decoder; "
                "start from another adapter"
            )
    if not shapes:
        raise ConfigError(f"adapter {folder} holds no tensors; start from another adapter")


def _refuse_other_base(folder: Path, model_path: str, shapes: Shapes, shape: ModelShape) -> None:
    sizes: dict[str, tuple[int, int]] = dict(zip(LINEAR_NAMES, shape.linear_shapes, strict=True))
    for name, found in shapes.items():
        if _module(name) not in sizes:
            continue
        inputs, outputs = sizes[_module(name)]
        is_a = name.endswith("lora_A.weight")
        layer = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        if found[1 if is_a else 0] != (inputs if is_a else outputs) or layer >= shape.layers:
            raise ConfigError(
                f"adapter {folder} is for another model than {model_path}: {name} has the shape {list(found)}, where the model "
                f"has {shape.layers} layers and {inputs} inputs and {outputs} outputs there; give the adapter's own base model, or another adapter"
            )


def _lora_of(given: LoraSection, folder: Path, settings: AdapterSettings, shapes: Shapes) -> LoraSection:
    """Make the section `model.lora` of an adapter. `given` may repeat its settings, and may choose the dropout."""
    own = LoraSection(
        r=settings.r,
        alpha=settings.alpha,
        use_rslora=settings.use_rslora,
        target_modules=tuple(sorted({_module(name) for name in shapes})),
        dropout=given.dropout if "dropout" in given.model_fields_set else settings.dropout,
    )
    asked, held = given.model_dump(), own.model_dump()
    for key in asked.keys() & given.model_fields_set - {"dropout"}:
        if _comparable(asked[key]) not in ("all-linear", _comparable(held[key])):
            raise ConfigError(
                f"model.lora.{key} is {asked[key]}, but the adapter in model.adapter {folder} has {held[key]}, which holds; "
                f"remove model.lora.{key}"
            )
    return own


def _module(tensor_name: str) -> str:
    """`...self_attn.q_proj.lora_A.weight` -> `q_proj`."""
    return tensor_name.split(".")[-3] if tensor_name.count(".") >= 2 else tensor_name


def _comparable(value: object) -> object:
    """Turn a tuple of paths of modules into the set of their names; anything else stays."""
    return {str(name).rpartition(".")[2] for name in value} if isinstance(value, tuple) else value
