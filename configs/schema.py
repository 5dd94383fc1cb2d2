"""The whole of a run as frozen records: one section per folder of the project.

Parameter names are TRL's wherever TRL has one. Sections know nothing of each other; every check that needs two of them
lives in `RunConfig`. What the learner optimises is `configs.objective`. Reading YAML and command-line overrides is `configs.loading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.data import DataSection
from configs.evaluation import EvaluationSection
from configs.model import QUANTISED_CANARY_TOLERANCE, ModelSection
from configs.objective import ObjectiveSection
from configs.reporting import ReportingSection
from configs.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section
from configs.stages import StageSection
from configs.training import RaySection, TrainingSection

BUILTIN = "builtin:"
"""Prefix of `model.path` and `data.path` values that rollcast makes on the spot instead of loading."""

BASE_MODEL, MERGED_MODEL, WARM_MODEL, DEQUANTISED_MODEL = "base_model", "merged_model", "model", "model_dequantised"
"""Folders in `out_dir` for a `builtin:` model, one with an adapter merged into it, what the warm start makes of it, and what engines serve of a
quantised base."""


class ActorsSection(Section):
    """Rollout workers and how they sample."""

    num_workers: PositiveInt = 1
    """Rollout workers, one vLLM engine each."""
    gpus_per_worker: NonNegativeFloat = 1.0
    """GPUs of one worker: 0 for the CPU, a fraction to share one, more than 1 for tensor parallelism."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPU cores that Ray reserves for one worker."""
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions sampled for each prompt: the size G of a group."""
    max_completion_length: PositiveInt = 256
    """Most tokens that a completion may have."""
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = -1
    """Sample from the k likeliest tokens; -1 from all."""
    on_new_adapter: Literal["swap"] = "swap"
    """What running requests do when a new adapter comes: go on with the new weights, each token tagged by version."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the GPU's memory that one engine may take."""
    kv_cache_memory_bytes: PositiveInt | None = None
    """Size of the key-value cache. Without it: all that `gpu_memory_utilization` leaves; 256 MiB on the CPU."""
    max_num_seqs: PositiveInt = 128
    """Completions that one engine decodes at the same time."""
    enforce_eager: bool = False
    """Do not capture CUDA graphs: starts sooner, samples slower."""
    progress_timeout_s: PositiveFloat = 120.0
    """An engine with work that yields no token for so long is wedged, and is replaced."""
    start_timeout_s: PositiveFloat = 900.0
    """A worker that is not ready after so long has failed."""
    max_restarts: NonNegativeInt = 5
    """How often workers may be replaced in a run before it ends with an error."""
    canary_tolerance: PositiveFloat | None = None
    """Largest mean difference of canary log-probabilities between engine and learner after a sync.

    Default: 1e-3 in float32, 0.1 in bfloat16; for a quantised learner whose engines serve the original weights, 0.5 under nf4 and 0.1 under
    int8: enough for the quantisation error, and too much to notice a small adapter that an engine did not load."""


class RewardSpec(Section):
    """One reward: a built-in name or `path/to/file.py:function` or `package.module:function`."""

    name: str
    weight: float = 1.0
    params: dict[str, Any] = {}
    """Keyword arguments that configure the function, as in `spec` files: `{answer_style: answer_tag}`."""

    @property
    def label(self) -> str:
        """Its name in metrics and tables: of `path/to/file.py:function` the function's."""
        return self.name.rpartition(":")[2]


class RewardsSection(Section):
    """How completions are scored."""

    functions: tuple[RewardSpec, ...] = (RewardSpec(name="accuracy"),)
    """Rewards in order; each entry is a name, or {name, weight, params}."""
    aggregation: Literal["sum", "normalize_then_sum"] = "sum"
    """`sum`: advantages come from the weighted sum of the rewards that apply. `normalize_then_sum` (GDPO): from the weighted sum of
    rewards that were each normalised in their group first, and divided by that sum's deviation over the step, whatever
    `learner.scale_rewards` says; a reward of rare or small differences then counts as much as the others."""
    on_error: Literal["exclude", "zero", "fail"] = "exclude"
    """What a completion gets whose reward timed out, crashed or was invalid."""
    max_error_rate: Fraction = 0.5
    """Stop when more than this share of the last `error_window` completions failed."""
    error_window: PositiveInt = 512
    timeout_s: PositiveFloat = 10.0
    """Hard limit on grading one completion with one reward; the grader process is killed."""
    num_workers: PositiveInt = 1
    """Reward workers."""
    graders_per_worker: PositiveInt = 2
    """Grader processes of one worker."""
    cpus_per_worker: NonNegativeFloat = 1.0
    """CPU cores that Ray reserves for one worker."""
    memory_limit_bytes: PositiveInt = 4 << 30
    """Address space that one grader process may use."""
    max_restarts: NonNegativeInt = 5
    """How often reward workers may be replaced in a run before it ends with an error. Graders are replaced without limit."""

    @field_validator("functions", mode="before")
    @classmethod
    def _names_stand_for_themselves(cls, functions: Any) -> Any:
        if isinstance(functions, (list, tuple)):
            return tuple({"name": entry} if isinstance(entry, str) else entry for entry in functions)
        return functions

    @field_validator("functions")
    @classmethod
    def _some_and_distinct(cls, functions: tuple[RewardSpec, ...]) -> tuple[RewardSpec, ...]:
        labels = [spec.label for spec in functions]
        if not labels:
            raise ValueError("no reward is listed; list at least one, such as [accuracy]")
        repeated = sorted({label for label in labels if labels.count(label) > 1})
        if repeated:
            raise ValueError(
                f"{', '.join(repeated)} is listed twice, and metrics are named by it; list each reward once and set its weight, or rename a function"
            )
        return functions


class WarmStartSection(Section):
    """Supervised fine-tuning of the base model before GRPO, on the same learner group."""

    demonstration_column: str = "demonstration"
    """Column of the training data that holds the completion to imitate."""
    max_steps: PositiveInt = 400
    train_batch_size: PositiveInt = 32
    """Sequences per step over all ranks."""
    learning_rate: PositiveFloat = 3e-3
    """Falls linearly to a tenth."""


class LearnerSection(TrainingSection, ObjectiveSection):
    """The learner group and its objective."""

    train_batch_size: PositiveInt = 64
    """Completions per optimizer step over all ranks: TRL's per_device_train_batch_size x gradient_accumulation_steps x ranks."""
    filter_zero_variance: bool = False
    """Leave out groups whose rewards are all equal, and sample others in their place (dynamic sampling)."""
    warm_start: WarmStartSection | None = None
    """Supervised training before GRPO; none when not given."""


class ClusterSection(ReportingSection, RaySection):
    """Ray, the loop and what is written."""

    max_staleness: NonNegativeInt = 1
    """Most optimizer steps between the policy that sampled a token and the step that trains on it; 0 is synchronous."""
    on_stale: Literal["drop", "keep"] = "drop"
    """Groups over the bound: sampled again, or trained with the truncated ratio."""
    sync_every_steps: PositiveInt = 1
    """Broadcast the adapter after so many optimizer steps."""
    logged_groups_per_step: NonNegativeInt = 2
    """Groups of a step whose completions are written to completions/*.parquet."""

    @model_validator(mode="after")
    def _completions_can_be_shown(self) -> ClusterSection:
        if self.log_completions and not self.logged_groups_per_step:
            raise ValueError(
                "log_completions with logged_groups_per_step 0: those that are written are shown; raise it, or leave log_completions out"
            )
        return self


class RunConfig(Section):
    """One run. Cross-section rules are checked here, before anything starts."""

    model: ModelSection
    data: DataSection
    actors: ActorsSection = ActorsSection()
    rewards: RewardsSection = RewardsSection()
    learner: LearnerSection = LearnerSection()
    cluster: ClusterSection = ClusterSection()
    evaluation: EvaluationSection = EvaluationSection()
    stages: tuple[StageSection, ...] = ()
    """Settings over these of runs one after another, each from the adapter of the one before: see `configs.stages`."""
    seed: int = 0
    out_dir: Path = Path("runs/rollcast")

    @property
    def groups_per_step(self) -> int:
        """Prompts that one optimizer step consumes."""
        return self.learner.train_batch_size // self.actors.num_generations

    @property
    def max_model_len(self) -> int:
        """Longest sequence, prompt and completion, in tokens."""
        return self.data.max_prompt_length + self.actors.max_completion_length

    @property
    def trained_model_path(self) -> str:
        """The model under the adapter: `model.path`, or the folder in which the run makes it."""
        if self.learner.warm_start is not None:
            return str(self.out_dir.absolute() / WARM_MODEL)
        if self.model.merge_adapter:
            return str(self.out_dir.absolute() / MERGED_MODEL)
        return str(self.out_dir.absolute() / BASE_MODEL) if self.model.path.startswith(BUILTIN) else self.model.path

    @property
    def on_gpu(self) -> bool:
        """Whether any role computes on a GPU."""
        return self.actors.gpus_per_worker > 0 or self.learner.gpus_per_rank > 0

    @property
    def canary_tolerance(self) -> float:
        """Largest accepted mean difference of canary log-probabilities, in nats."""
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
                f"use {max(group, batch - batch % group)} or {batch + group - batch % group}"
            )
        if self.learner.token_budget < self.max_model_len:
            raise ValueError(
                f"learner.token_budget {self.learner.token_budget} is less than data.max_prompt_length + actors.max_completion_length = "
                f"{self.max_model_len}: the longest sequence must fit into one micro-batch; raise the budget"
            )
        if self.cluster.max_staleness < self.cluster.sync_every_steps - 1:
            raise ValueError(
                f"cluster.max_staleness {self.cluster.max_staleness} is less than sync_every_steps - 1 = "
                f"{self.cluster.sync_every_steps - 1}: the last step before a sync trains on samples that old; "
                f"raise max_staleness or lower sync_every_steps"
            )
        self._rewards_suit_the_objective()
        self._evaluation_can_be_done()
        if self.data.train_samples == 0 or self.data.train_samples < -1:
            raise ValueError(f"data.train_samples {self.data.train_samples} must be -1 (all rows) or positive")
        if self.data.streaming and self.learner.max_steps <= 0:
            raise ValueError(
                "learner.max_steps is not given and data.streaming is on: the rows of a stream are not counted, so that epochs have no length; "
                "set learner.max_steps"
            )
        if self.data.streaming and self.learner.warm_start is not None:
            raise ValueError(
                "learner.warm_start with data.streaming: it goes over all demonstrations; run it apart, or set data.streaming: false"
            )
        if self.learner.max_steps == 0 or self.learner.max_steps < -1:
            raise ValueError(f"learner.max_steps {self.learner.max_steps} must be -1 (from num_train_epochs) or positive")
        if self.model.attn_implementation == "flex_attention" and not self.learner.gpus_per_rank:
            raise ValueError(
                "model.attn_implementation flex_attention with learner.gpus_per_rank 0: FlexAttention has no backward on the CPU; use sdpa"
            )
        if self.actors.gpus_per_worker > 1 and self.actors.gpus_per_worker % 1:
            raise ValueError(
                f"actors.gpus_per_worker {self.actors.gpus_per_worker} must be a whole number above 1: it is the tensor-parallel size"
            )
        return self

    def _evaluation_can_be_done(self) -> None:
        evaluation, labels = self.evaluation, [spec.label for spec in self.rewards.functions]
        if evaluation.reward is not None and evaluation.reward not in labels:
            raise ValueError(
                f"evaluation.reward {evaluation.reward} is not among the rewards {', '.join(labels)}; name one of them, or list it in rewards.functions"
            )
        if evaluation.steps % self.cluster.sync_every_steps:
            raise ValueError(
                f"evaluation.steps {evaluation.steps} is not divisible by cluster.sync_every_steps {self.cluster.sync_every_steps}: only an adapter "
                "that the engines have can be evaluated; use a multiple"
            )
        if evaluation.steps and not evaluation.data and not self.data.eval_samples:
            raise ValueError(
                f"evaluation.steps {evaluation.steps} with data.eval_samples 0: there is nothing to evaluate on; set evaluation.data, or hold prompts out"
            )

    def _rewards_suit_the_objective(self) -> None:
        if self.rewards.aggregation != "normalize_then_sum":
            return
        if self.learner.advantage_estimator != "grpo":
            raise ValueError(
                f"learner.advantage_estimator {self.learner.advantage_estimator} with rewards.aggregation normalize_then_sum: normalised "
                f"rewards have their groups' means taken off already; set rewards.aggregation: sum, or learner.advantage_estimator: grpo"
            )
        if self.learner.kl_in_reward:
            raise ValueError(
                "learner.kl_in_reward with rewards.aggregation normalize_then_sum: a divergence in nats cannot be subtracted from rewards in "
                "standard deviations; set rewards.aggregation: sum, or learner.kl_in_reward: false"
            )
