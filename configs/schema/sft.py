"""A supervised fine-tuning as frozen records: the model of a run of GRPO, demonstrations, and the same group of ranks.

Parameter names are TRL's wherever TRL has one. Reading YAML and command-line overrides is `configs.loading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import model_validator

from configs.schema.cluster import RaySection
from configs.schema.learner import TrainingSection
from configs.schema.model import ModelSection
from configs.schema.section import NonNegativeInt, PositiveFloat, PositiveInt, Section


class SftDataSection(Section):
    """Which demonstrations are imitated, and which are held out."""

    path: str
    """A JSON, JSONL, CSV or Parquet file, a folder of them, a hub id, or `builtin:addition`."""
    name: str | None = None
    """Configuration name of a hub data set."""
    split: str = "train"
    """Split to train on."""
    prompt_column: str = "prompt"
    """Column that holds the prompt: a string, or a list of chat messages."""
    completion_column: str = "completion"
    """Column that holds what is to be imitated: a string, or a list of chat messages."""
    messages_column: str | None = None
    """Column of whole conversations, instead of the two above: a list of chat messages, with `role` and `content` or, as in ShareGPT, `from`
    and `value`. All turns of the assistant are imitated."""
    system_prompt: str | None = None
    """Put before every conversation that has no system message."""
    max_length: PositiveInt = 1024
    """Most tokens of a sequence, prompt and completion."""
    too_long: Literal["leave_out", "truncate"] = "leave_out"
    """What becomes of longer ones: they are left out and counted, or cut off at the end."""
    train_samples: int = -1
    """Use this many rows, a seeded subset; -1 uses all."""
    shuffle: bool = True
    """Shuffle with the run's seed, anew every epoch."""
    eval_path: str | None = None
    """Data set for the held-out loss. Without it, `eval_samples` rows are held out from the training data."""
    eval_split: str = "test"
    """Split of `eval_path` on a hub; a local file has only `train`."""
    eval_samples: NonNegativeInt = 100
    """How many held-out rows the loss is measured on; 0 switches it off."""


class SftSection(TrainingSection):
    """The group of ranks, and what it trains."""

    use_peft: bool = True
    """Train a LoRA adapter (`model.lora`); false trains every weight."""
    learning_rate: PositiveFloat = 2e-5
    eval_steps: NonNegativeInt = 100
    """Measure the held-out loss after so many steps, beside before the first and after the last; 0 only then."""


class SftConfig(Section):
    """One supervised fine-tuning. Cross-section rules are checked here, before anything starts."""

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
                f"learner.token_budget {self.learner.token_budget} is less than data.max_length {self.data.max_length}: the longest sequence must "
                "fit into one micro-batch; raise the budget"
            )
        if self.data.train_samples == 0 or self.data.train_samples < -1:
            raise ValueError(f"data.train_samples {self.data.train_samples} must be -1 (all rows) or positive")
        if self.learner.max_steps == 0 or self.learner.max_steps < -1:
            raise ValueError(f"learner.max_steps {self.learner.max_steps} must be -1 (from num_train_epochs) or positive")
        if self.model.attn_implementation == "flex_attention" and not self.learner.gpus_per_rank:
            raise ValueError(
                "model.attn_implementation flex_attention with learner.gpus_per_rank 0: FlexAttention has no backward on the CPU; use sdpa"
            )
        if self.model.serve_quantized != "original":
            raise ValueError(f"model.serve_quantized {self.model.serve_quantized}: no engine serves a supervised fine-tuning; remove it")
        return self

    @model_validator(mode="after")
    def _what_is_trained_can_be(self) -> SftConfig:
        if self.learner.use_peft:
            return self
        if self.model.quantization != "none":
            raise ValueError(
                f"learner.use_peft false with model.quantization {self.model.quantization}: quantised weights have no gradient; set one of them "
                "to its default"
            )
        if self.model.adapter is not None and not self.model.merge_adapter:
            raise ValueError(
                f"learner.use_peft false with model.adapter {self.model.adapter}: every weight is trained, and an adapter beside them would not be; "
                "set model.merge_adapter: true, or remove the adapter"
            )
        return self
