"""A GRPO run as immutable records, in sections.

Keys have TRL's names wherever TRL has one. Sections do not know each other: `RunConfig` holds every rule about two of them.
`configs.loading` reads YAML and command-line overrides.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import model_validator

from configs.schema.actors import ActorsSection
from configs.schema.cluster import ClusterSection
from configs.schema.data import DataSection
from configs.schema.evaluation import EvaluationSection
from configs.schema.learner import LearnerSection
from configs.schema.model import BASE_MODEL, BUILTIN, MERGED_MODEL, QUANTISED_CANARY_TOLERANCE, WARM_MODEL, ModelSection
from configs.schema.rewards import RewardsSection
from configs.schema.section import Section
from configs.schema.stages import StageSection


class RunConfig(Section):
    """One run. Rules about several sections are checked here, before anything starts."""

    model: ModelSection
    data: DataSection
    actors: ActorsSection = ActorsSection()
    rewards: RewardsSection = RewardsSection()
    learner: LearnerSection = LearnerSection()
    cluster: ClusterSection = ClusterSection()
    evaluation: EvaluationSection = EvaluationSection()
    stages: tuple[StageSection, ...] = ()
    """Parts of the run that follow one another, each from the adapter of the one before: see `configs.schema.stages`."""
    seed: int = 0
    out_dir: Path = Path("runs/rollcast")

    @property
    def rewards_resolved(self) -> RewardsSection:
        """The rewards, with the parameters filled in that they take from the rest of the run."""
        return self.rewards.resolved(self.actors.max_completion_length)

    @property
    def groups_per_step(self) -> int:
        """Number of groups, one for each prompt, that one optimizer step trains on."""
        return self.learner.train_batch_size // self.actors.num_generations

    @property
    def max_model_len(self) -> int:
        """Largest number of tokens in a sequence, prompt and completion together."""
        return self.data.max_prompt_length + self.actors.max_completion_length

    @property
    def trained_model_path(self) -> str:
        """The model under the adapter: `model.path`, or the folder in `out_dir` where the run makes it."""
        if self.learner.warm_start is not None:
            return str(self.out_dir.absolute() / WARM_MODEL)
        if self.model.merge_adapter:
            return str(self.out_dir.absolute() / MERGED_MODEL)
        return str(self.out_dir.absolute() / BASE_MODEL) if self.model.path.startswith(BUILTIN) else self.model.path

    @property
    def on_gpu(self) -> bool:
        """Tell whether a rollout worker or a learner rank uses a GPU."""
        return self.actors.gpus_per_worker > 0 or self.learner.gpus_per_rank > 0

    @property
    def canary_tolerance(self) -> float:
        """`actors.canary_tolerance`, or its default for this model, in nats."""
        if self.actors.canary_tolerance is not None:
            return self.actors.canary_tolerance
        if self.model.quantization != "none" and self.model.serve_quantized == "original":
            return QUANTISED_CANARY_TOLERANCE[self.model.quantization]
        return 1e-3 if self.model.dtype == "float32" else 0.1

    @model_validator(mode="after")
    def _combinations_work(self) -> RunConfig:
        batch, group = self.learner.train_batch_size, self.actors.num_generations
        if batch % group:
            raise ValueError(
                f"learner.train_batch_size {batch} is not divisible by actors.num_generations {group}: a step trains whole groups; "
                f"use {' or '.join(str(size) for size in (batch - batch % group, batch + group - batch % group) if size)}"
            )
        if self.learner.token_budget < self.max_model_len:
            raise ValueError(
                f"learner.token_budget {self.learner.token_budget} is less than data.max_prompt_length + actors.max_completion_length = "
                f"{self.max_model_len}: the longest sequence must fit into one micro-batch; raise the budget"
            )
        if self.cluster.max_staleness < self.cluster.sync_every_steps - 1:
            raise ValueError(
                f"cluster.max_staleness {self.cluster.max_staleness} is less than sync_every_steps - 1 = "
                f"{self.cluster.sync_every_steps - 1}: the last step before a broadcast trains on samples that old; "
                f"raise max_staleness or lower sync_every_steps"
            )
        self._rewards_suit_the_objective()
        self._evaluation_can_be_done()
        if self.data.train_samples == 0 or self.data.train_samples < -1:
            raise ValueError(f"data.train_samples {self.data.train_samples} is neither -1 nor positive; write -1 for all rows")
        if self.data.streaming and self.learner.max_steps <= 0:
            raise ValueError(
                "learner.max_steps is not given and data.streaming is on: the rows of a stream are not counted, so epochs have no length; "
                "set learner.max_steps"
            )
        if self.data.streaming and self.learner.warm_start is not None:
            raise ValueError(
                "learner.warm_start with data.streaming: it needs all demonstrations; run `rollcast sft` first, or set "
                "data.streaming: false"
            )
        if self.learner.max_steps == 0 or self.learner.max_steps < -1:
            raise ValueError(f"learner.max_steps {self.learner.max_steps} is neither -1 nor positive; write -1 to follow num_train_epochs")
        if self.model.attn_implementation == "flex_attention" and not self.learner.gpus_per_rank:
            raise ValueError(
                "model.attn_implementation flex_attention with learner.gpus_per_rank 0: FlexAttention has no backward on the CPU; use sdpa"
            )
        if self.actors.gpus_per_worker > 1 and self.actors.gpus_per_worker % 1:
            raise ValueError(
                f"actors.gpus_per_worker {self.actors.gpus_per_worker} is not a whole number: above 1 it is the tensor-parallel size; "
                f"use {int(self.actors.gpus_per_worker)}"
            )
        return self

    def _evaluation_can_be_done(self) -> None:
        evaluation, labels = self.evaluation, [spec.label for spec in self.rewards.functions]
        if evaluation.reward is not None and evaluation.reward not in labels:
            raise ValueError(
                f"evaluation.reward {evaluation.reward} is not among the rewards {', '.join(labels)}; name one of them, or list it "
                "in rewards.functions"
            )
        if evaluation.steps % self.cluster.sync_every_steps:
            raise ValueError(
                f"evaluation.steps {evaluation.steps} is not divisible by cluster.sync_every_steps {self.cluster.sync_every_steps}: "
                "only an adapter that the engines have can be evaluated; use a multiple"
            )
        if evaluation.steps and not evaluation.data and not self.data.eval_samples:
            raise ValueError(
                f"evaluation.steps {evaluation.steps} with data.eval_samples 0: there is nothing to evaluate on; set "
                "evaluation.data, or raise eval_samples"
            )

    def _rewards_suit_the_objective(self) -> None:
        if self.rewards.aggregation != "normalize_then_sum":
            return
        if self.learner.advantage_estimator != "grpo":
            raise ValueError(
                f"learner.advantage_estimator {self.learner.advantage_estimator} with rewards.aggregation normalize_then_sum: the group's "
                f"mean is already subtracted from normalised rewards; set rewards.aggregation: sum, or learner.advantage_estimator: grpo"
            )
        if self.learner.kl_in_reward:
            raise ValueError(
                "learner.kl_in_reward with rewards.aggregation normalize_then_sum: a divergence in nats cannot be subtracted from "
                "rewards in standard deviations; set rewards.aggregation: sum, or learner.kl_in_reward: false"
            )
