"""QLoRA: the frozen base in 4 or 8 bits (bitsandbytes), and back to plain weights for the engines.

The linear layers but the head are quantised; embeddings, norms, biases and the head stay in `model.dtype`, and so does the adapter, whose
float32 masters the optimizer keeps as over any other base. So its exported weights are, bit for bit, those that the loss was computed
with; adapters held in float32 would be rounded on their way out.

Quantisation is deterministic: every rank of a group makes the same bytes of the same weights.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from configs.contracts.errors import ConfigError
from configs.schema.model import ModelSection

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


CausalModel: TypeAlias = Any
"""A transformers causal language model, or PEFT's wrapper of one. Most of its attributes depend on the architecture, and have no static types."""


def require_bitsandbytes(quantization: str) -> None:
    """Check that bitsandbytes is installed if the run is quantised, without importing it.

    Raises:
        ConfigError: it is needed and not installed.
    """
    if quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization {quantization} needs bitsandbytes, which is not installed: `pip install 'rollcast[qlora]'`, "
            "or set model.quantization to none"
        )


def loading_options(model: ModelSection, device: str) -> dict[str, object]:
    """Return the arguments by which `from_pretrained` quantises layer by layer while it loads; the whole model is never held unquantised.

    `nf4`: 4-bit NormalFloat in blocks of 64 whose scales are quantised too (QLoRA, arXiv:2305.14314, section 3), multiplied in
    `model.dtype`. `int8`: LLM.int8() (arXiv:2208.07339), which quantises each token's activations as well, but for features over 6.
    """
    require_bitsandbytes(model.quantization)
    import torch
    from transformers import BitsAndBytesConfig

    if model.quantization == "nf4":
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, model.dtype),
        )
    else:
        # Otherwise it logs at every multiplication that it computes in float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        settings = BitsAndBytesConfig(load_in_8bit=True)
    return {"quantization_config": settings, "device_map": {"": device}}


def keep_one_kernel(causal: CausalModel) -> None:
    """Make 4-bit layers use the same kernel with and without gradients.

    On a CPU with AVX512-BF16, bitsandbytes 0.50 repacks a 4-bit layer for a bfloat16 kernel the first time it runs in evaluation mode,
    and keeps it so: float32 models would lose 16 bits, and the layer its gradient.
    """
    for module in causal.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def save_dequantised(causal: CausalModel, folder: Path) -> None:
    """Write the base of `causal` as a plain transformers folder, with the weights that the quantised layers multiply by.

    Args:
        causal: a transformers language model whose linear layers are NF4, with or without LoRA layers.
    """
    import torch

    config = deepcopy(causal.config)
    del config.quantization_config
    with torch.device("meta"):
        plain = type(causal)(config)
    plain.load_state_dict(dict(_plain_weights(causal)), assign=True)
    plain.tie_weights()
    plain.generation_config = causal.generation_config
    plain.save_pretrained(str(folder), safe_serialization=True)


def _plain_weights(causal: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Iterate over parameters and saved buffers on the CPU, named as in the unquantised model without an adapter."""
    for path, module in causal.named_modules():
        parts = path.split(".")
        if any(part.startswith("lora_") for part in parts):
            continue
        kept = module._buffers.keys() - module._non_persistent_buffers_set
        for name, tensor in [*module._parameters.items(), *((name, module._buffers[name]) for name in sorted(kept))]:
            if tensor is not None:
                yield ".".join([part for part in parts if part and part != "base_layer"] + [name]), _dequantised(tensor).cpu()


def _dequantised(tensor: Tensor) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn.modules import Params4bit

    if not isinstance(tensor, Params4bit):
        return tensor.detach()
    return dequantize_4bit(tensor.data, tensor.quant_state)
