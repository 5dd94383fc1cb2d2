"""Section `learner`: the ranks and their optimizer, and what they optimise.

The formulas of the objective and their sources are in `learner.grpo.loss`, `learner.grpo.importance` and `learner.grpo.advantage`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, model_validator

from configs.schema.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

LossType: TypeAlias = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]
AdvantageEstimator: TypeAlias = Literal["grpo", "rloo", "reinforce_plus_plus"]
ScaleRewards: TypeAlias = Literal["group", "batch", "none"]
ImportanceSamplingLevel: TypeAlias = Literal["token", "sequence"]
ImportanceSamplingMode: TypeAlias = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"]
KlEstimator: TypeAlias = Literal["k1", "k2", "k3"]


class ObjectiveSection(Section):
    """The objective. The names are TRL's; `importance_sampling_mode` is TRL's `vllm_importance_sampling_mode`, `_cap` and `_floor` are its
    `_clip_max` and `_clip_min`."""

    loss_type: LossType = "bnpo"
    """How token losses are averaged: over each completion, then over completions (grpo); over all tokens (bnpo, dapo); over the most
    tokens there could be (dr_grpo). `cispo` averages as dapo does, and bounds the weight of a token instead of dropping its gradient."""
    advantage_estimator: AdvantageEstimator = "grpo"
    """What a completion's reward is compared with: its group's mean (grpo), the mean of the others in its group (rloo), or its group's mean
    and then the whole step's mean and deviation (reinforce_plus_plus)."""
    scale_rewards: ScaleRewards = "group"
    """Which standard deviation divides the advantages of the estimator `grpo`."""
    num_iterations: PositiveInt = 1
    """Optimizer updates on each batch; clipping bounds what those after the first do."""
    epsilon: PositiveFloat = 0.2
    """Lower clip range of the probability ratio."""
    epsilon_high: PositiveFloat | None = None
    """Upper clip range; `epsilon` when not given. Under `cispo` the largest ratio itself, such as 5."""
    importance_sampling_level: ImportanceSamplingLevel = "token"
    """Level of the policy's ratio: of each token, or one for a completion, its tokens' geometric mean (GSPO; it wants `loss_type: grpo`)."""
    importance_sampling_mode: ImportanceSamplingMode = "token_truncate"
    """How stale or mismatched samples are corrected: weighted by how much likelier they are now, each token or each whole completion, where
    a weight outside the bounds is moved to the bound (truncate) or to 0 (mask)."""
    importance_sampling_cap: PositiveFloat = 2.0
    """Upper bound of that weight."""
    importance_sampling_floor: NonNegativeFloat = 0.0
    """Lower bound of that weight; with `token_mask` and a floor above 0, IcePop."""
    mask_truncated_completions: bool = False
    """Leave completions that ended at the length limit out of the loss; they count in their group's statistics all the same."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence from the model with the adapter switched off; 0 computes none."""
    kl_estimator: KlEstimator = "k3"
    """Estimator of the KL divergence; in the loss only k2 and k3 have a useful gradient."""
    kl_in_reward: bool = False
    """Subtract the divergence from the reward, before advantages, instead of adding it to the loss. Costs another pass over the batch."""
    use_bias_correction_kl: bool = False
    """Multiply the KL term of the loss by the policy's ratio, which makes its gradient that of the true divergence. TRL's default is true."""
    entropy_coef: NonNegativeFloat = 0.0
    """Weight of the entropy bonus, the mean entropy over tokens whatever `loss_type`."""

    @property
    def kl_in_loss(self) -> bool:
        """True where the loss has a KL term, and needs the log-probabilities without the adapter."""
        return self.beta > 0 and not self.kl_in_reward

    @property
    def largest_ratio(self) -> float:
        """Upper bound of the probability ratio pi / pi_old: `epsilon_high` itself under `cispo`, else 1 + the upper clip range."""
        high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        return high if self.loss_type == "cispo" else 1.0 + high

    @property
    def weighs_every_completion(self) -> bool:
        """True where a completion whose advantage is 0 still has a gradient."""
        return self.kl_in_loss or self.entropy_coef > 0

    @model_validator(mode="after")
    def _objective_is_one(self) -> ObjectiveSection:
        if self.loss_type == "cispo" and (self.epsilon_high is None or self.epsilon_high < 1):
            raise ValueError(
                f"epsilon_high {self.epsilon_high} with loss_type cispo: there it is the largest ratio itself, and one below 1 "
                f"would weigh down every token; set epsilon_high: 5.0"
            )
        if self.advantage_estimator != "grpo" and self.scale_rewards != "group":
            raise ValueError(
                f"scale_rewards {self.scale_rewards} has no effect with advantage_estimator {self.advantage_estimator}, which scales in its "
                f"own way; leave it out, or set advantage_estimator: grpo"
            )
        if self.importance_sampling_floor >= self.importance_sampling_cap:
            raise ValueError(
                f"importance_sampling_floor {self.importance_sampling_floor} is not below importance_sampling_cap "
                f"{self.importance_sampling_cap}: no weight lies between them; lower the floor"
            )
        return self

    @model_validator(mode="after")
    def _divergence_is_one(self) -> ObjectiveSection:
        if not self.kl_in_reward:
            return self
        if self.beta == 0:
            raise ValueError("beta 0.0 with kl_in_reward: nothing would be subtracted; set beta, or kl_in_reward: false")
        if self.kl_estimator != "k1":
            raise ValueError(
                f"kl_estimator {self.kl_estimator} with kl_in_reward: a reward has no gradient, and there k1 is the unbiased estimate; "
                f"set kl_estimator: k1"
            )
        if self.use_bias_correction_kl:
            raise ValueError(
                "use_bias_correction_kl with kl_in_reward: there is no KL term in the loss to correct; set one of them to false"
            )
        return self


class WarmStartSection(Section):
    """Supervised fine-tuning of the base model before GRPO, on the same learner group."""

    demonstration_column: str = "demonstration"
    """Column of the training data that holds the completion to imitate."""
    max_steps: PositiveInt = 400
    train_batch_size: PositiveInt = 32
    """Sequences per step over all ranks."""
    learning_rate: PositiveFloat = 3e-3
    """Falls linearly to a tenth."""


class RanksSection(Section):
    """A ZeRO-2 group of ranks, the size of its steps, and their learning rate."""

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


class OptimizerSection(Section):
    """AdamW and clipping."""

    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are clipped to this global norm."""


class TrainingSection(OptimizerSection, RanksSection):
    """A group of ranks and its optimizer. A dumped configuration lists the keys of `RanksSection` first, then the optimizer's, then these."""

    gradient_checkpointing: bool = False
    offload_optimizer: bool = False
    """Keep the float32 weights and Adam's moments in the host's memory, and step there: frees 12 bytes a trained parameter."""
    max_nonfinite_steps: PositiveInt = 3
    """So many steps in a row without a finite loss and gradient end the run."""
    process_group_timeout_s: PositiveFloat = 100.0
    """A rank that waits so long for the others declares the group dead, and so does the driver where a rank's process is stopped so long."""
    step_timeout_s: PositiveFloat | Literal["auto"] = "auto"
    """Longest time for a step after the first; a longer one is a hang, and the learner is started again from the last checkpoint. `auto`: 10 times
    the slowest step so far, at least 300 s. First steps, which compile, have at least an hour."""


class LearnerSection(TrainingSection, ObjectiveSection):
    """The learner group and its objective."""

    train_batch_size: PositiveInt = 64
    """Completions per optimizer step over all ranks: TRL's per_device_train_batch_size x gradient_accumulation_steps x ranks."""
    filter_zero_variance: bool = False
    """Leave out groups whose rewards are all equal, and sample others in their place (dynamic sampling)."""
    max_num_gen_batches: PositiveInt | None = 100
    """With `filter_zero_variance`: end the run when so many batches of groups in a row were left out for one step; null goes on for ever."""
    warm_start: WarmStartSection | None = None
    """Supervised training before GRPO; none when not given."""
