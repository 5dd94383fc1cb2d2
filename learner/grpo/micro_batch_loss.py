"""The loss of one micro-batch, computed again in each of a step's updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.contracts.metrics import Metric
from configs.schema.learner import ObjectiveSection
from learner.grpo.importance import Completions
from learner.grpo.loss import TokenLogprobs, grpo_loss
from learner.packing import Denominators, MicroBatch

if TYPE_CHECKING:
    from torch import Tensor

    from learner.model.policy import PackedTensors, Policy


class MicroBatchLoss:
    """One micro-batch's loss, which `LearnerEngine.step` calls once per update. Log-probabilities that stay the same are kept between updates.

    pi_old costs no pass of its own: the first update computes it anyway. With dropout the first update's values are a random draw, so if
    more updates are to be compared with pi_old, it is computed once without dropout.
    """

    def __init__(
        self,
        policy: Policy,
        batch: MicroBatch,
        objective: ObjectiveSection,
        denominators: Denominators,
        *,
        temperature: float,
        num_iterations: int,
    ) -> None:
        self.metrics: list[dict[str, Metric]] = []
        self._policy = policy
        self._batch = batch
        self._objective = objective
        self._denominators = denominators
        self._temperature = temperature
        self._evaluates_old = num_iterations > 1 and policy.has_dropout
        self._old_logprobs_N: Tensor | None = None
        self._reference_logprobs_N: Tensor | None = None

    def __call__(self, model: Policy) -> Tensor:
        """Compute the loss under `model` (the policy, or DeepSpeed's wrapper of it), and append its metrics to `metrics`."""
        packed = self._policy.tensors(self._batch)
        if not self.metrics:
            self._evaluate_other_policies(packed)
        predicted = model(packed, self._temperature, self._objective.entropy_coef > 0)
        loss, metrics = grpo_loss(
            TokenLogprobs(predicted.logprobs_N, packed.behaviour_logprobs_N, self._old_logprobs_N, self._reference_logprobs_N),
            Completions(packed.completion_N, packed.lengths_C),
            packed.advantages_C,
            self._objective,
            self._denominators,
            predicted.entropies_N,
        )
        if self._old_logprobs_N is None:
            self._old_logprobs_N = predicted.logprobs_N.detach()
        self.metrics.append(metrics)
        return loss

    def _evaluate_other_policies(self, packed: PackedTensors) -> None:
        """Compute reference and old log-probabilities, if needed, before the step's first update changes the weights."""
        if self._objective.kl_in_loss:
            self._reference_logprobs_N = self._policy.reference_logprobs(packed, self._temperature)
        if self._evaluates_old:
            self._old_logprobs_N = self._policy.evaluated_logprobs(packed, self._temperature)
