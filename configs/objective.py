"""What the learner optimises: the keys of `learner` that change the mathematics, and which of them go together.

The formulas and their sources are in `learner.loss`, `learner.importance` and `learner.advantage`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from configs.section import NonNegativeFloat, PositiveFloat, PositiveInt, Section


class ObjectiveSection(Section):
    """The objective. The names are TRL's; `importance_sampling_mode` is TRL's `vllm_importance_sampling_mode`, `_cap` and `_floor` are its
    `_clip_max` and `_clip_min`."""

    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo"] = "bnpo"
    """How token losses are averaged: over each completion, then over completions (grpo); over all tokens (bnpo, dapo); over the most
    tokens there could be (dr_grpo). `cispo` averages as dapo does, and bounds the weight of a token instead of dropping its gradient."""
    advantage_estimator: Literal["grpo", "rloo", "reinforce_plus_plus"] = "grpo"
    """What a completion's reward is compared with: its group's mean (grpo), the mean of the others in its group (rloo), or its group's mean
    and then the whole step's mean and deviation (reinforce_plus_plus)."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Which standard deviation divides the advantages of the estimator `grpo`."""
    num_iterations: PositiveInt = 1
    """Optimizer updates on each batch; clipping bounds what those after the first do."""
    epsilon: PositiveFloat = 0.2
    """Lower clip range of the probability ratio."""
    epsilon_high: PositiveFloat | None = None
    """Upper clip range; `epsilon` when not given. Under `cispo` the largest ratio itself, such as 5."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Level of the policy's ratio: of each token, or one for a completion, its tokens' geometric mean (GSPO; it wants `loss_type: grpo`)."""
    importance_sampling_mode: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"] = "token_truncate"
    """How stale or mismatched samples are corrected: weighted by how much likelier they are now, each token or each whole completion, where
    a weight outside the bounds is moved to the bound (truncate) or to 0 (mask)."""
    importance_sampling_cap: PositiveFloat = 2.0
    """Upper bound of that weight."""
    importance_sampling_floor: NonNegativeFloat = 0.0
    """Lower bound of that weight; with `token_mask` and a floor above 0, IcePop."""
    mask_truncated_completions: bool = False
    """Leave completions that ended at the length limit out of the loss; they count in their group's statistics all the same."""
    beta: NonNegativeFloat = 0.0
    """Weight of the KL divergence to the adapter-off model; 0 computes none."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL divergence; in the loss only k2 and k3 have a useful gradient."""
    kl_in_reward: bool = False
    """Subtract the divergence from the reward, before advantages, instead of adding it to the loss. Costs another pass over the batch."""
    use_bias_correction_kl: bool = False
    """Multiply the KL term of the loss by the policy's ratio, which makes its gradient that of the true divergence. TRL's default is true."""
    entropy_coef: NonNegativeFloat = 0.0
    """Weight of the entropy bonus, the mean entropy over tokens whatever `loss_type`."""

    @property
    def weighs_every_completion(self) -> bool:
        """Whether a completion whose advantage is 0 has a gradient all the same."""
        return (self.beta > 0 and not self.kl_in_reward) or self.entropy_coef > 0

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
