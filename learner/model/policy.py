"""The policy: a causal language model, frozen under a LoRA adapter, or trained in full for supervised warm starts.

With a bfloat16 base the adapter computes in bfloat16 too, and float32 master copies live in the optimizer (ZeRO-2 keeps them). So the
weights the loss is differentiated through are, bit for bit, those that are exported and served, and small updates still add up. The base
may be quantised (`learner.model.quantised`).

Dimensions: `_B` rows, `_T` tokens of a row, `_N` predictions, `_H` hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from configs.contracts.errors import AdapterError, ConfigError
from configs.contracts.records import Adapter, AdapterManifest, Canary, TensorSlot, adapter_sha256
from configs.schema.model import ModelSection
from learner.buffer_sizes import ATTENTION_WIDTH_PER_HIDDEN
from learner.model.attention import FLEX, attention_mask
from learner.model.logprob import token_logprobs
from learner.model.quantised import keep_one_kernel, loading_options
from learner.packing import MicroBatch

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

SELF_CHECK_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest accepted |difference|, in nats, from the model's own logits: rounding of 32 bits, or of logits held in 16."""

INT8_SELF_CHECK_TOLERANCE = 0.25
"""LLM.int8() computes in float16 and chooses the features that stay unquantised by all tokens of a row, padding included."""


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """A micro-batch on the policy's device."""

    token_ids_BT: Tensor
    position_ids_BT: Tensor
    mask: Tensor | BlockMask
    """See `learner.model.attention`."""
    source_N: Tensor
    target_ids_N: Tensor
    completion_N: Tensor
    behaviour_logprobs_N: Tensor
    advantages_C: Tensor
    lengths_C: Tensor
    index_C: Tensor


class Policy(nn.Module):
    """A causal language model that turns packed rows into token log-probabilities.

    Raises:
        ConfigError: an architecture whose attention or logits packing cannot reproduce.
    """

    model: Any
    """A transformers causal language model, or PEFT's wrapper of one."""

    def __init__(self, model: nn.Module, *, adapted: bool, base_model: str, quantization: str = "none") -> None:
        super().__init__()
        self.model = model
        self.adapted = adapted
        self.base_model = base_model
        self.quantization = quantization
        _refuse_other_attention(self.causal.config)

    @classmethod
    def load(
        cls, model: ModelSection, path: str, *, full: bool = False, device: str = "cpu", seed: int = 0, gradient_checkpointing: bool = False
    ) -> Policy:
        """Load the base from `path` and put a fresh adapter, or `model.adapter` where that is not merged into it, on it; `full` trains every
        weight instead, unquantised.

        The same seed gives the same adapter on every rank.
        """
        from transformers import AutoModelForCausalLM

        quantization = "none" if full else model.quantization
        causal: Any = AutoModelForCausalLM.from_pretrained(
            path,
            revision=model.revision if path == model.path else None,
            dtype=getattr(torch, model.dtype),
            attn_implementation=model.attn_implementation,
            trust_remote_code=model.trust_remote_code,
            **({} if quantization == "none" else loading_options(model, device)),
        )
        if quantization == "none":
            causal.to(device)
        keep_one_kernel(causal)
        causal.config.use_cache = False
        if gradient_checkpointing:
            causal.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(seed)
        policy = cls(causal if full else _with_adapter(causal, model), adapted=not full, base_model=path, quantization=quantization)
        policy.train()
        policy.check_logits()
        return policy

    @property
    def causal(self) -> Any:
        """The language model itself, without PEFT's wrapper."""
        return self.model.get_base_model() if self.adapted else self.model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.causal.dtype

    @property
    def attn_implementation(self) -> str:
        return self.causal.config._attn_implementation

    @property
    def attention_width(self) -> float:
        """Row width at which attention costs as much as the linear layers, for `learner.packing.pack`. Infinite for FlexAttention: it skips
        what no token sees, so that wide rows cost nothing."""
        if self.attn_implementation == FLEX:
            return math.inf
        return ATTENTION_WIDTH_PER_HIDDEN * self.causal.config.hidden_size

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters that get gradients, by name, in a fixed order."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def tensors(self, batch: MicroBatch) -> PackedTensors:
        """Move a micro-batch to the device and make its attention mask."""
        on_device = {field.name: torch.from_numpy(getattr(batch, field.name)).to(self.device) for field in fields(MicroBatch)}
        segments, prompts = on_device.pop("segment_ids_BT"), on_device.pop("prompt_segments_BT")
        return PackedTensors(mask=attention_mask(segments, prompts, self.attn_implementation, self.dtype), **on_device)

    def forward(
        self, packed: PackedTensors, temperature: float = 1.0, entropy_gradient: bool = False, likeliest_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the targets and entropies of their distributions, in nats: float32 [N] each.

        The entropies are differentiable only with `entropy_gradient`. Whether each target is the likeliest token is written into `likeliest_N`.
        """
        output = self.causal.get_decoder()(
            input_ids=packed.token_ids_BT, position_ids=packed.position_ids_BT, attention_mask=packed.mask, use_cache=False
        )
        hidden_NH = output.last_hidden_state.flatten(0, 1).index_select(0, packed.source_N)
        return token_logprobs(
            hidden_NH,
            self.causal.get_output_embeddings().weight,
            packed.target_ids_N,
            temperature=temperature,
            entropy_gradient=entropy_gradient,
            likeliest_N=likeliest_N,
        )

    @property
    def has_dropout(self) -> bool:
        """True where training is random and evaluating is not: the adapter or the model has dropout."""
        rates = [module.p for module in self.modules() if isinstance(module, nn.Dropout)]
        return any(rate > 0 for rate in (*rates, getattr(self.causal.config, "attention_dropout", 0.0)))

    def evaluated_logprobs(self, packed: PackedTensors, temperature: float = 1.0) -> Tensor:
        """The targets' log-probabilities without dropout: float32 [N], without gradient."""
        with torch.no_grad(), self.evaluating():
            return self(packed, temperature)[0]

    def reference_logprobs(self, packed: PackedTensors, temperature: float = 1.0) -> Tensor:
        """The targets' log-probabilities under the base model, the adapter switched off: float32 [N], without gradient."""
        with self.model.disable_adapter():
            return self.evaluated_logprobs(packed, temperature)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout."""
        self.eval()
        try:
            yield
        finally:
            self.train()

    def sequence_logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log-probabilities of tokens 1.. of one sequence at temperature 1, in nats: float32 [len - 1]. Without gradient or dropout."""
        with torch.no_grad(), self.evaluating():
            return self(self.tensors(one_sequence(token_ids)))[0].float().cpu().numpy()

    def check_logits(self) -> None:
        """Compare with the model's own logits, so that a head that does more than multiply (soft caps, scales) is noticed at the start."""
        token_ids = [1 + i % (self.causal.config.vocab_size - 1) for i in range(8)]
        with torch.no_grad(), self.evaluating():
            logits = self.causal(input_ids=torch.tensor([token_ids], device=self.device), use_cache=False).logits[0, :-1]
        expected = torch.log_softmax(logits.float(), -1).cpu()[range(len(token_ids) - 1), token_ids[1:]].numpy()
        difference = float(np.abs(self.sequence_logprobs(token_ids) - expected).max())
        tolerance = INT8_SELF_CHECK_TOLERANCE if self.quantization == "int8" else SELF_CHECK_TOLERANCE[self.dtype]
        if not difference <= tolerance:
            raise ConfigError(
                f"model.path {self.base_model}: packed log-probabilities differ from the model's own by {difference:.3g} nats, more than "
                f"{tolerance}: its head or attention is not one that the learner can train; choose another model"
            )

    def export(self, version: int, canary_token_ids: Sequence[int] = ()) -> Adapter:
        """The adapter as one flat buffer in the model's dtype, with a canary where tokens are given.

        Raises:
            AdapterError: a value is not finite.
        """
        from peft import get_peft_model_state_dict

        state: dict[str, Tensor] = get_peft_model_state_dict(self.model)
        slots, parts, end = [], [], 0
        for name in sorted(state):
            tensor = state[name].detach().to(self.dtype).contiguous().cpu()
            if not bool(torch.isfinite(tensor).all()):
                raise AdapterError(f"adapter version {version} has values in {name} that are not finite; it is not sent to any engine")
            raw = tensor.flatten().view(torch.uint8).numpy()
            slots.append(TensorSlot(name, tuple(tensor.shape), end, end + raw.nbytes))
            parts.append(raw)
            end += raw.nbytes
        buffer = np.concatenate(parts)
        canary = None
        if canary_token_ids:
            canary = Canary(tuple(canary_token_ids), tuple(float(value) for value in self.sequence_logprobs(canary_token_ids)))
        return Adapter(self._manifest(version, buffer, tuple(slots), canary), buffer)

    def load_adapter(self, adapter: Adapter) -> None:
        """Put an exported adapter back, bit for bit.

        Raises:
            AdapterError: it does not match its hash, or has other tensors than this policy's.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        manifest = adapter.manifest
        if adapter_sha256(adapter.buffer) != manifest.sha256:
            raise AdapterError(
                f"the buffer of adapter version {manifest.version} does not match its hash {manifest.sha256[:12]}; fetch it again"
            )
        expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(self.model).items()}
        if expected != {slot.name: slot.shape for slot in manifest.slots}:
            raise AdapterError(f"adapter version {manifest.version} (r {manifest.r}) has other tensors than this policy; check model.lora")
        dtype = getattr(torch, manifest.dtype)
        state = {
            slot.name: torch.from_numpy(adapter.buffer[slot.start_byte : slot.end_byte].copy()).view(dtype).reshape(slot.shape)
            for slot in manifest.slots
        }
        set_peft_model_state_dict(self.model, state)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as a PEFT folder (safetensors)."""
        self.model.save_pretrained(str(folder), safe_serialization=True)

    def save_model(self, folder: Path) -> None:
        """Write the whole model as a transformers folder (safetensors)."""
        self.causal.save_pretrained(str(folder), safe_serialization=True)

    def _manifest(self, version: int, buffer: np.ndarray, slots: tuple[TensorSlot, ...], canary: Canary | None) -> AdapterManifest:
        config = self.model.peft_config["default"]
        return AdapterManifest(
            version=version,
            sha256=adapter_sha256(buffer),
            dtype="bfloat16" if self.dtype == torch.bfloat16 else "float32",
            slots=slots,
            r=config.r,
            alpha=float(config.lora_alpha),
            target_modules=tuple(sorted({slot.name.split(".")[-3] for slot in slots})),  # "all-linear" may be whole paths in PEFT's own
            base_model=self.base_model,
            canary=canary,
            use_rslora=config.use_rslora,
        )


def _with_adapter(causal: Any, model: ModelSection) -> nn.Module:
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

    lora = model.lora
    if model.adapter is not None and not model.merge_adapter:
        found = PeftConfig.from_pretrained(model.adapter)
        setattr(found, "lora_dropout", lora.dropout)  # noqa: B010 (how to train on is this run's choice; the type checker knows no LoRA here)
        return PeftModel.from_pretrained(causal, model.adapter, is_trainable=True, autocast_adapter_dtype=False, config=found)
    options: dict[str, Any] = {
        "r": lora.r,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "use_rslora": lora.use_rslora,
        "target_modules": lora.target_modules if lora.target_modules == "all-linear" else list(lora.target_modules),
    }
    return get_peft_model(causal, LoraConfig(**options, bias="none", task_type="CAUSAL_LM"), autocast_adapter_dtype=False)


def _refuse_other_attention(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"model has layers of kind {', '.join(sorted(kinds))}: packed rows need full attention in every layer; choose another model"
        )


def one_sequence(token_ids: Sequence[int]) -> MicroBatch:
    """Predict tokens 1.. of a sequence: its first token is the prompt."""
    from learner.packing import TrainedCompletion, TrainedGroup, pack

    completion = TrainedCompletion(np.asarray(token_ids[1:]), np.zeros(len(token_ids) - 1, np.float32), 0.0)
    group = TrainedGroup(np.asarray(token_ids[:1]), (completion,))
    return pack([group], token_budget=1 << 30, attention_width=1.0)[0]
