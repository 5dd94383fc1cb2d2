"""A supervised fine-tuning as immutable records: the model section of a GRPO run, demonstrations, and the same learner.

Keys have TRL's names wherever TRL has one. `configs.loading` reads YAML and command-line overrides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from configs.schema.cluster import RaySection
from configs.schema.learner import TrainingSection
from configs.schema.model import ModelSection
from configs.schema.section import NonNegativeInt, PositiveFloat, PositiveInt, Section
from configs.schema.sources import SourceSection


class SftDataSection(SourceSection):
    """Section `data`: the demonstrations to imitate, and the held-out ones."""

    prompt_column: str = "prompt"
    """Column that holds the prompt: a string, or a list of chat messages."""
    completion_column: str = "completion"
    """Column that holds the completion to imitate: a string, or a list of chat messages."""
    messages_column: str | None = None
    """Column that holds whole conversations, instead of the two columns above: a list of chat messages with `role` and `content` or, as in
    ShareGPT, `from` and `value`. Every turn of the assistant is imitated."""
    system_prompt: str | None = None
    """System message of every conversation that has none."""
    max_length: PositiveInt = 1024
    """Largest number of tokens in a sequence, prompt and completion together."""
    too_long: Literal["leave_out", "truncate"] = "leave_out"
    """Treatment of longer sequences: leave them out and count them, or cut them at the end."""

    @property
    def named_columns(self) -> tuple[str, ...]:
        return (self.prompt_column, self.completion_column) if self.messages_column is None else (self.messages_column,)


class SftSection(TrainingSection):
    """Section `learner`: the learner group, and the weights that it trains."""

    use_peft: bool = True
    """Train a LoRA adapter (`model.lora`); false trains all weights."""
    learning_rate: PositiveFloat = 2e-5
    eval_steps: NonNegativeInt = 100
    """Number of steps between measurements of the held-out loss; it is also measured before and after training, and 0 means only then."""


class SftConfig(Section):
    """One supervised fine-tuning. Rules about several sections are checked here, before anything starts."""

    model: ModelSection
    data: SftDataSection
    learner: SftSection = SftSection()
    cluster: RaySection = RaySection()
    seed: int = 0
    out_dir: Path = Path("runs/sft")

    @model_validator(mode="after")
    def _combinations_work(self) -> SftConfig:
        if self.learner.token_budget < self.data.max_length:
            raise ValueError(
                f"learner.token_budget {self.learner.token_budget} is less than data.max_length {self.data.max_length}: the longest "
                "sequence must fit into one micro-batch; raise the budget"
            )
        if self.data.streaming and self.learner.max_steps <= 0:
            raise ValueError(
                "learner.max_steps is not given and data.streaming is on: the rows of a stream are not counted, so epochs have no length; "
                "set learner.max_steps"
            )
        if self.data.train_samples == 0 or self.data.train_samples < -1:
            raise ValueError(f"data.train_samples {self.data.train_samples} is neither -1 nor positive; write -1 for all rows")
        if self.learner.max_steps == 0 or self.learner.max_steps < -1:
            raise ValueError(f"learner.max_steps {self.learner.max_steps} is neither -1 nor positive; write -1 to follow num_train_epochs")
        if self.model.attn_implementation == "flex_attention" and not self.learner.gpus_per_rank:
            raise ValueError(
                "model.attn_implementation flex_attention with learner.gpus_per_rank 0: FlexAttention has no backward on the CPU; use sdpa"
            )
        if self.model.serve_quantized != "original":
            raise ValueError(f"model.serve_quantized {self.model.serve_quantized}: no engine serves a supervised fine-tuning; remove it")
        return self

    @model_validator(mode="after")
    def _weights_are_trainable(self) -> SftConfig:
        if self.learner.use_peft:
            return self
        if self.model.quantization != "none":
            raise ValueError(
                f"learner.use_peft false with model.quantization {self.model.quantization}: quantised weights have no gradient; set "
                "one of them to its default"
            )
        if self.model.adapter is not None and not self.model.merge_adapter:
            raise ValueError(
                f"learner.use_peft false with model.adapter {self.model.adapter}: all weights are trained, and the adapter would not be; "
                "set model.merge_adapter: true, or remove the adapter"
            )
        return self
