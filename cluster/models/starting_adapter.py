"""`model.adapter`: what the PEFT folder to start from decides, and what the engines could not serve, before anything starts.

Reads only `adapter_config.json` and the head of `adapter_model.safetensors`; no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from cluster.models.shape import ModelShape, model_shape
from configs.contracts.errors import ConfigError
from configs.schema.model import BUILTIN, DEQUANTISED_MODEL, EMBEDDINGS, UNSERVED_LORA_KEYS, VLLM_LORA_RANKS, LoraSection
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

COMPARED_PLACES, COMPARED_BYTES = 64, 4096
"""Of every weight file, when two models are compared."""

Config = TypeVar("Config", RunConfig, SftConfig)

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""


def with_starting_adapter(config: Config) -> Config:
    """The run with rank, alpha and targets of its `model.adapter`; with its own where that is merged into the base, or there is none.

    Raises:
        ConfigError: the folder cannot be read, is for another base model, holds what the engines cannot serve, or differs from what
            `model.lora` says expressly.
    """
    if config.model.adapter is None:
        return config
    folder = Path(config.model.adapter).absolute()
    settings, shapes = plain_lora(folder, config.model.path)
    if (named := trained_on_another(settings, config.model.path)) is not None:
        raise ConfigError(
            f"model.adapter {folder} was trained on {named}, and model.path is {config.model.path}: on another model of the same shape it makes one "
            f"that nobody trained; set model.path to {named}, or to a folder that holds it"
        )
    lora = config.model.lora if config.model.merge_adapter else _lora_of(config.model.lora, folder, settings, shapes)
    return config.model_copy(update={"model": config.model.model_copy(update={"adapter": str(folder), "lora": lora})})


def trained_on_another(settings: Mapping[str, Any], base: str) -> str | None:
    """The hub id of the model that an adapter names as its own, where `base` is another hub id. Of a local folder nobody can tell."""
    named = str(settings.get("base_model_name_or_path") or "")
    folders = any(Path(name).expanduser().is_absolute() or Path(name).is_dir() or name.startswith(BUILTIN) for name in (named, base))
    return named if named and not folders and named != base else None


def doubt_about_base(folder: Path, base: str) -> str | None:
    """Return a warning when the adapter was trained on a local model whose weights differ from those of `base`; the weights are meaningless there.

    It is no error: a base that was rounded or quantised on purpose has other weights as well. Where the files are of other sizes (another
    type, other shards) nobody can tell.
    """
    named = _settings(folder).get("base_model_name_or_path")
    if not named or Path(base).name == DEQUANTISED_MODEL or not _other_weights(Path(named).expanduser(), Path(base).expanduser()):
        return None
    return (
        f"WARNING: the adapter {folder} was trained on {named}, whose weights are not those of {base}: on another model it makes one that "
        f"nobody trained; unless that is meant, give {named} instead"
    )


def _other_weights(first: Path, second: Path) -> bool:
    """Return True when two folders hold weight files of the same names and sizes that differ in a sample of their bytes."""
    files = [{file.name: file.stat().st_size for file in each.glob("*.safetensors")} for each in (first, second)]
    if files[0] != files[1]:
        return False
    return any(_samples(first / name, size) != _samples(second / name, size) for name, size in files[0].items())


def _samples(file: Path, size_bytes: int) -> list[bytes]:
    """Places spread evenly over a file: whole models are too large to compare before every run."""
    with file.open("rb") as content:
        found = []
        for place in range(COMPARED_PLACES):
            content.seek(place * size_bytes // COMPARED_PLACES)
            found.append(content.read(COMPARED_BYTES))
        return found


def plain_lora(folder: Path, base: str) -> tuple[dict[str, Any], Shapes]:
    """Settings and tensor shapes of a PEFT folder.

    Args:
        base: the model it is to go on, which is looked at where its shape is known without loading it.

    Raises:
        ConfigError: the folder cannot be read, is for another base model, or is no LoRA adapter of the kind that engines serve.
    """
    settings, shapes = _settings(folder), _shapes(folder)
    _refuse_unserved(folder, settings)
    _refuse_damaged(folder, settings["r"], shapes)
    shape = model_shape(base)
    if shape is not None:
        _refuse_other_base(folder, base, shapes, shape)
    return settings, shapes


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "adapter_config.json").read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"adapter {folder} has no adapter_config.json that can be read ({error}); give the path of a PEFT folder"
        ) from None
    if settings.get("peft_type") != "LORA" or not isinstance(settings.get("r"), int):
        raise ConfigError(f"adapter {folder} is of the type {settings.get('peft_type')}: only LORA is supported; give another or none")
    return settings


def _shapes(folder: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / "adapter_model.safetensors", "np") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"adapter {folder} has no adapter_model.safetensors that can be read ({error}); save it with PEFT's save_pretrained"
        ) from None


def _refuse_unserved(folder: Path, settings: Mapping[str, Any]) -> None:
    harmless = {"bias": (None, "none"), "init_lora_weights": PLAIN_INITS}
    asked = [key for key in UNSERVED_KEYS if settings.get(key) not in harmless.get(key, (None, False, [], {}))]
    if asked:
        faults = "; ".join(f"its {key} is {settings[key]!r}, and {UNSERVED_KEYS[key]}" for key in asked)
        remedy = "convert it to a plain LoRA adapter (PEFT's path_initial_model_for_weight_conversion), or start from another one"
        raise ConfigError(f"adapter {folder} cannot be trained and served: {faults}; {remedy}")
    if not 0 < settings["r"] <= VLLM_LORA_RANKS[-1]:
        raise ConfigError(f"adapter {folder} has rank {settings['r']}, and vLLM serves 1 to {VLLM_LORA_RANKS[-1]}; start from another one")


def _refuse_damaged(folder: Path, r: int, shapes: Shapes) -> None:
    """Tensors that are no LoRA matrices of rank `r` on linear layers."""
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


def _lora_of(given: LoraSection, folder: Path, settings: Mapping[str, Any], shapes: Shapes) -> LoraSection:
    """The adapter's own settings; `given` may repeat them, and may choose the dropout."""
    own: dict[str, Any] = {
        "r": settings["r"],
        "alpha": float(settings["lora_alpha"]),
        "use_rslora": bool(settings.get("use_rslora")),
        "target_modules": tuple(sorted({_module(name) for name in shapes})),
    }
    for key in own.keys() & given.model_fields_set:
        if _comparable(getattr(given, key)) not in ("all-linear", _comparable(own[key])):
            raise ConfigError(
                f"model.lora.{key} is {getattr(given, key)}, but the adapter in model.adapter {folder} has {own[key]}, which holds; "
                f"remove model.lora.{key}"
            )
    dropout = given.dropout if "dropout" in given.model_fields_set else float(settings.get("lora_dropout") or 0.0)
    return LoraSection(**own, dropout=dropout)


def _module(tensor_name: str) -> str:
    """`...self_attn.q_proj.lora_A.weight` -> `q_proj`."""
    return tensor_name.split(".")[-3] if tensor_name.count(".") >= 2 else tensor_name


def _comparable(value: Any) -> Any:
    return {name.rpartition(".")[2] for name in value} if isinstance(value, tuple) else value
