"""What training by GRPO and supervised fine-tuning have in common: the ranks, the optimizer, and Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from configs.reporting import TrackingSection
from configs.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class TrainingSection(Section):
    """A ZeRO-2 group of ranks, and its optimizer."""

    ranks: PositiveInt = 1
    """Learner processes, one GPU (or CPU core) each, in one ZeRO-2 group."""
    gpus_per_rank: Annotated[float, Field(ge=0, le=1)] = 1.0
    """GPUs of one rank: 0 for the CPU, a fraction to share one."""
    cpus_per_rank: PositiveFloat = 1.0
    """CPU cores that Ray reserves for one rank, and threads that it computes with on the CPU."""
    train_batch_size: PositiveInt = 64
    """Sequences per optimizer step over all ranks: TRL's per_device_train_batch_size x gradient_accumulation_steps x ranks."""
    token_budget: PositiveInt = 16384
    """Most tokens (padding included) in one micro-batch of one rank."""
    max_steps: int = -1
    """Optimizer steps; -1 derives them from `num_train_epochs`."""
    num_train_epochs: PositiveFloat = 1.0
    learning_rate: PositiveFloat = 1e-6
    lr_scheduler_type: Literal["cosine_with_min_lr", "cosine", "linear", "constant_with_warmup", "constant"] = "linear"
    min_lr_rate: Fraction = 0.1
    """Floor of `cosine_with_min_lr`, as a share of `learning_rate`."""
    warmup_ratio: Fraction = 0.0
    """Share of all steps over which the learning rate rises; `warmup_steps` wins."""
    warmup_steps: NonNegativeInt | None = None
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""
    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    """Keep the float32 weights and Adam's moments in the host's memory, and step there: frees 12 bytes a trained parameter."""
    max_nonfinite_steps: PositiveInt = 3
    """So many steps in a row without a finite loss and gradient end the run."""
    process_group_timeout_s: PositiveFloat = 100.0
    """A rank that waits so long for the others declares the group dead."""


class RaySection(TrackingSection):
    """Ray, and what is written."""

    address: str = "auto"
    """`local` starts a private Ray; `auto` joins the cluster that RAY_ADDRESS names and is `local` without one; or host:port."""
    save_steps: NonNegativeInt = 50
    """Commit a checkpoint after so many steps, and at the end; 0 only at the end."""
    save_total_limit: PositiveInt | None = 2
    """Keep so many checkpoints; none given keeps all."""
    logging_steps: PositiveInt = 1
    """Print a line after so many steps where there is no live display."""
    dashboard: bool = False
    """Serve the Ray dashboard on the loopback interface in local mode."""
    object_store_memory_bytes: PositiveInt = 256 << 20
    """Size of the object store in local mode."""
    insecure_no_auth: bool = False
    """Start Ray without token authentication: anyone who reaches its ports can run code as you."""
    max_learner_restarts: NonNegativeInt = 2
    """How often the learner group may be made again from the last commit."""
