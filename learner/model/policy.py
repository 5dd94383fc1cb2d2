"""The policy: a causal language model that is frozen under a LoRA adapter, or trained in full.

Under a bfloat16 base the adapter computes in bfloat16 too, and the optimizer keeps float32 master copies (`learner.engine.zero2_engine`). So
the weights that the loss is differentiated through are, bit for bit, the ones that are exported and served, and small updates still add up.
The base may be quantised (`learner.model.quantised`).

Dimensions: `_B` rows, `_T` tokens of a row, `_N` predictions, `_H` hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from configs.contracts.errors import ConfigError
from configs.schema.model import ModelSection
from learner.model.attention import attention_mask
from learner.model.layer_kinds import untrainable_layers
from learner.model.logprob import Predictions, token_logprobs
from learner.model.quantised import CausalModel, keep_one_kernel, loading_options
from learner.packing import MicroBatch, TrainedCompletion, TrainedGroup, attention_width, pack

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask
    from transformers import PretrainedConfig, PreTrainedModel

SELF_CHECK_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest accepted |difference| from the model's own logits, in nats: rounding of 32 bits, or of logits held in 16."""

INT8_SELF_CHECK_TOLERANCE = 0.25
"""The same for LLM.int8(): it computes in float16, and the tokens of a row, padding included, decide together which features stay unquantised."""


@dataclass(frozen=True, slots=True)
class PackedTensors:
    """A micro-batch on the policy's device."""

    token_ids_BT: Tensor
    position_ids_BT: Tensor
    mask: Tensor | BlockMask
    """Made by `learner.model.attention`."""
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

    model: CausalModel
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
        """Load the base from `path` and put an adapter on it: `model.adapter` if that is not merged into the base, else a fresh one.

        The same seed gives the same fresh adapter on every rank.

        Args:
            full: train every weight, unquantised, without an adapter.
        """
        from transformers import AutoModelForCausalLM

        quantization = "none" if full else model.quantization
        causal: CausalModel = AutoModelForCausalLM.from_pretrained(
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
        _refuse_other_logits(policy)
        return policy

    @property
    def causal(self) -> CausalModel:
        """The transformers model without PEFT's wrapper."""
        return self.model.get_base_model() if self.adapted else self.model

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return self.causal.dtype

    @property
    def attention_width(self) -> float:
        """Argument of `learner.packing.pack` for this model."""
        return attention_width(self.causal.config.hidden_size, self.causal.config._attn_implementation)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters with gradients, by name, in a fixed order."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def tensors(self, batch: MicroBatch) -> PackedTensors:
        """Move a micro-batch to the device and make its attention mask."""
        on_device = {field.name: torch.from_numpy(getattr(batch, field.name)).to(self.device) for field in fields(MicroBatch)}
        segments, prompts = on_device.pop("segment_ids_BT"), on_device.pop("prompt_segments_BT")
        mask = attention_mask(segments, prompts, self.causal.config._attn_implementation, self.dtype)
        return PackedTensors(mask=mask, **on_device)

    def forward(self, packed: PackedTensors, temperature: float = 1.0, entropy_gradient: bool = False) -> Predictions:
        """Predict the targets: float32 log-probabilities and entropies. Entropies are differentiable only with `entropy_gradient`."""
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
        )

    @property
    def has_dropout(self) -> bool:
        """True if the adapter or the model has dropout, so that training draws at random."""
        rates = [module.p for module in self.modules() if isinstance(module, nn.Dropout)]
        return any(rate > 0 for rate in (*rates, getattr(self.causal.config, "attention_dropout", 0.0)))

    def evaluated_logprobs(self, packed: PackedTensors, temperature: float = 1.0) -> Tensor:
        """Compute the targets' log-probabilities without dropout and gradient: float32 [N]."""
        with torch.no_grad(), self.evaluating():
            return self(packed, temperature).logprobs_N

    def reference_logprobs(self, packed: PackedTensors, temperature: float = 1.0) -> Tensor:
        """Compute the targets' log-probabilities with the adapter switched off, without dropout and gradient: float32 [N]."""
        with self.model.disable_adapter():
            return self.evaluated_logprobs(packed, temperature)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch dropout off inside the block."""
        self.eval()
        try:
            yield
        finally:
            self.train()

    def sequence_logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """Compute log-probabilities of tokens 1.. of one sequence at temperature 1, in nats, without dropout and gradient: float32 [len - 1]."""
        with torch.no_grad(), self.evaluating():
            return self(self.tensors(one_sequence(token_ids))).logprobs_N.float().cpu().numpy()

    def save_model(self, folder: Path) -> None:
        """Write the whole model as a transformers folder (safetensors)."""
        self.causal.save_pretrained(str(folder), safe_serialization=True)


def _with_adapter(causal: PreTrainedModel, model: ModelSection) -> nn.Module:
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

    lora = model.lora
    if model.adapter is not None and not model.merge_adapter:
        found = PeftConfig.from_pretrained(model.adapter)
        setattr(found, "lora_dropout", lora.dropout)  # noqa: B010 (how to train on is this run's choice; the type checker knows no LoRA here)
        return PeftModel.from_pretrained(causal, model.adapter, is_trainable=True, autocast_adapter_dtype=False, config=found)
    fresh = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  (PEFT declares an int, and only divides it)
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        target_modules=lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(causal, fresh, autocast_adapter_dtype=False)


def one_sequence(token_ids: Sequence[int]) -> MicroBatch:
    """Make a micro-batch that predicts tokens 1.. of a sequence, with its first token as the prompt."""
    completion = TrainedCompletion(np.asarray(token_ids[1:]), np.zeros(len(token_ids) - 1, np.float32), 0.0)
    group = TrainedGroup(np.asarray(token_ids[:1]), (completion,))
    return pack([group], token_budget=1 << 30, attention_width=1.0)[0]


def _refuse_other_attention(config: PretrainedConfig) -> None:
    """Raise ConfigError if a layer has a kind of attention that the mask of packed rows does not have.

    A window of all layers depends on the longest sequence, which the driver knows and compares (`cluster.models.trainable`).
    """
    fault = untrainable_layers(config.get_text_config().to_dict(), longest=0)
    if fault is not None:
        raise ConfigError(f"the model {fault}")


def _refuse_other_logits(policy: Policy) -> None:
    """Raise ConfigError if packed log-probabilities are not the model's own: its head may do more than multiply (soft caps, scales)."""
    token_ids = [1 + i % (policy.causal.config.vocab_size - 1) for i in range(8)]
    with torch.no_grad(), policy.evaluating():
        logits = policy.causal(input_ids=torch.tensor([token_ids], device=policy.device), use_cache=False).logits[0, :-1]
    expected = torch.log_softmax(logits.float(), -1).cpu()[range(len(token_ids) - 1), token_ids[1:]].numpy()
    difference = float(np.abs(policy.sequence_logprobs(token_ids) - expected).max())
    tolerance = INT8_SELF_CHECK_TOLERANCE if policy.quantization == "int8" else SELF_CHECK_TOLERANCE[policy.dtype]
    if not difference <= tolerance:
        raise ConfigError(
            f"model.path {policy.base_model}: packed log-probabilities differ from the model's own by {difference:.3g} nats, and {tolerance} is "
            "allowed. The learner cannot train its head or attention; choose another model"
        )
