"""The loss of one micro-batch, made anew for each of a step's updates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.contracts.metrics import Metric
from configs.schema.learner import ObjectiveSection
from learner.grpo.loss import grpo_loss
from learner.packing import Denominators, MicroBatch

if TYPE_CHECKING:
    from torch import Tensor

    from learner.model.policy import PackedTensors, Policy


class BatchLoss:
    """The loss of one micro-batch, called by `LearnerEngine.step` once an update. Keeps log-probabilities that do not change between updates.

    pi_old costs no pass of its own: it is what the first update computes anyhow. Only where dropout makes that a random draw, and further
    updates are to be compared with it, it comes from an evaluating pass.
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
        packed = self._policy.tensors(self._batch)
        if not self.metrics:
            self._look_back(packed)
        logprobs_N, entropies_N = model(packed, self._temperature, self._objective.entropy_coef > 0)
        loss, metrics = grpo_loss(
            logprobs_N,
            behaviour_logprobs_N=packed.behaviour_logprobs_N,
            advantages_C=packed.advantages_C,
            lengths_C=packed.lengths_C,
            completion_N=packed.completion_N,
            objective=self._objective,
            denominators=self._denominators,
            old_logprobs_N=self._old_logprobs_N,
            reference_logprobs_N=self._reference_logprobs_N,
            entropies_N=entropies_N,
        )
        if self._old_logprobs_N is None:
            self._old_logprobs_N = logprobs_N.detach()
        self.metrics.append(metrics)
        return loss

    def _look_back(self, packed: PackedTensors) -> None:
        """Passes of their own, at the beginning of the step."""
        if self._objective.kl_in_loss:
            self._reference_logprobs_N = self._policy.reference_logprobs(packed, self._temperature)
        if self._evaluates_old:
            self._old_logprobs_N = self._policy.evaluated_logprobs(packed, self._temperature)
