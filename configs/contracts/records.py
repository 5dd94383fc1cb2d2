"""The records that cross a process boundary.

Small facts (summaries, scores, reports, manifests) travel inline to the driver. Bodies (`RolloutGroup` tables, adapter
buffers) stay in the object store and travel as references. Everything here is plain data: numpy, pyarrow and the standard
library only, so that unpickling a record never imports torch or vllm.

Dimensions: `_G` completions of one group, `_T` tokens of one completion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

Outcome = Literal["scored", "skipped", "unparsable_gold", "unparsable_answer", "timeout", "crashed", "invalid"]
"""The result of grading one completion with one reward. `skipped`: the function said None ("does not apply")."""

FAILED_OUTCOMES: frozenset[Outcome] = frozenset({"timeout", "crashed", "invalid"})
"""Outcomes that are faults of the reward, to which `rewards.on_error` applies."""


BodyRef: TypeAlias = Awaitable[pa.Table]
"""Reference of a group's body in Ray's object store. Awaiting it gives the table of a `RolloutGroup`."""

BufferRef: TypeAlias = Awaitable[np.ndarray]
"""Reference of an adapter's buffer in Ray's object store. Awaiting it gives `Adapter.buffer`."""


class PromptId(NamedTuple):
    """A prompt as drawn: `PromptId(epoch=0, index=17)`, printed as `0:17`. `index` is the row in the data set."""

    epoch: int
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]  # a PromptId is not searched

    def __str__(self) -> str:
        return f"{self.epoch}:{self.index}"

    @classmethod
    def parse(cls, text: str) -> PromptId:
        """Read what `str` wrote: `PromptId.parse("0:17") == PromptId(0, 17)`."""
        epoch, index = text.split(":")
        return cls(int(epoch), int(index))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A validated prompt, rendered and tokenised.

    Example: `Prompt(PromptId(0, 17), (5, 6, 7), "What is 17+25?", {"solution": "42"}, conversational=True)`.
    """

    id: PromptId
    token_ids: tuple[int, ...]
    text: str
    """The rendered text whose tokens `token_ids` are."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of its row, JSON values, handed to the rewards."""
    conversational: bool = True
    """True where rewards receive completions as chat messages, False where as plain text."""
    messages: tuple[Mapping[str, Any], ...] = ()
    """The chat messages it was rendered from, empty for a plain-text prompt: texts, and the calls of tools."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings of a group. `temperature` 0 is greedy, for evaluation."""

    num_generations: int
    max_completion_length: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    cache_salt: str = ""
    """Completions share what an engine has read of prompts only with those of the same salt. Evaluations have their own: what a training
    prompt finds in the cache, and with it the last bits of what is sampled, must not depend on them."""


@dataclass(frozen=True, slots=True)
class Gang:
    """Prompts that must start on one engine together, in the order of their ids, so that a synchronous run is reproducible."""

    name: str
    size: int
    """Number of requests that the engine must have received before any of them starts."""


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One group to be sampled. Seeds come from (run seed, prompt id, attempt, completion index)."""

    prompt: Prompt
    sampling: Sampling
    attempt: int = 0
    seed: int = 0
    """The run's seed."""
    gang: Gang | None = None

    def completion_seed(self, index: int) -> int:
        """A 63-bit seed for completion `index`, the same in every process and on every run."""
        name = f"{self.seed}/{self.prompt.id}/{self.attempt}/{index}".encode()
        return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Tokens `start` to `end` (exclusive) of a completion were sampled under policy `version`: `VersionSpan(3, 0, 21)`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished completion: what the engine hands over."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probabilities of those tokens under the behaviour policy (temperature and truncation applied), in nats."""
    spans: tuple[VersionSpan, ...]
    finish_reason: Literal["stop", "length"]
    text: str
    """Decoded with special tokens skipped."""


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """The facts about a group that the driver uses without opening its body."""

    prompt_id: PromptId
    attempt: int
    prompt_tokens: int
    completion_tokens_G: tuple[int, ...]
    truncated_G: tuple[bool, ...]
    """Which completions ended at the length limit."""
    min_policy_version: int
    max_policy_version: int
    worker: str
    generate_s: float
    """Wall seconds from the first submission to the last completion."""
    reissued: int = 0
    """Number of times that the pool sampled this group again because an engine was lost."""


ROLLOUT_SCHEMA = pa.schema(
    [
        pa.field("completion_index", pa.int32(), nullable=False),
        pa.field("token_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("logprobs", pa.list_(pa.float32()), nullable=False),
        pa.field(
            "version_spans",
            pa.list_(pa.struct([("version", pa.int64()), ("start", pa.int32()), ("end", pa.int32())])),
            nullable=False,
        ),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
"""One row a completion, in the order sampled. Facts of the whole group (id, attempt, prompt, columns) are in the schema's metadata."""


DEMONSTRATION_SCHEMA = pa.schema(
    [pa.field("token_ids", pa.list_(pa.int32()), nullable=False), pa.field("trained", pa.list_(pa.bool_()), nullable=False)]
)
"""One sequence a row: its tokens, and which of them are imitated. The first never is: nothing predicts it."""


class RolloutGroup:
    """The body of a group: an Arrow Table of `ROLLOUT_SCHEMA`, with the prompt in its metadata. Read-only, zero-copy.

    A Table rather than a RecordBatch: a slice of a batch ships its whole parent.
    """

    def __init__(self, table: pa.Table) -> None:
        if not table.schema.equals(ROLLOUT_SCHEMA):
            raise ValueError(f"a rollout group has the columns {ROLLOUT_SCHEMA.names}, not {table.schema.names}")
        self.table = table
        metadata = table.schema.metadata or {}
        facts = json.loads(metadata[b"group"])
        self.prompt_id = PromptId.parse(facts["prompt_id"])
        self.attempt: int = facts["attempt"]
        self.prompt_text: str = facts["prompt_text"]
        self.conversational: bool = facts["conversational"]
        self.messages: list[dict[str, Any]] = facts["messages"]
        self.columns: dict[str, Any] = facts["columns"]
        self.prompt_token_ids: np.ndarray = np.frombuffer(metadata[b"prompt_token_ids"], dtype=np.int32)

    @classmethod
    def build(cls, request: RolloutRequest, completions_G: Sequence[Completion]) -> RolloutGroup:
        """Make the body of a sampled group."""
        prompt = request.prompt
        facts = {
            "prompt_id": str(prompt.id),
            "attempt": request.attempt,
            "prompt_text": prompt.text,
            "conversational": prompt.conversational,
            "messages": [dict(message) for message in prompt.messages],
            "columns": dict(prompt.columns),
        }
        metadata = {
            b"group": json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass"),  # data may have half of a surrogate pair
            b"prompt_token_ids": np.asarray(prompt.token_ids, dtype=np.int32).tobytes(),
        }
        arrays = [
            pa.array(range(len(completions_G)), pa.int32()),
            pa.array([completion.token_ids for completion in completions_G], ROLLOUT_SCHEMA.field("token_ids").type),
            pa.array([completion.logprobs for completion in completions_G], ROLLOUT_SCHEMA.field("logprobs").type),
            pa.array(
                [[{"version": s.version, "start": s.start, "end": s.end} for s in completion.spans] for completion in completions_G],
                ROLLOUT_SCHEMA.field("version_spans").type,
            ),
            pa.array([completion.finish_reason for completion in completions_G], pa.string()),
            pa.array([completion.text for completion in completions_G], pa.string()),
        ]
        return cls(pa.Table.from_arrays(arrays, schema=ROLLOUT_SCHEMA.with_metadata(metadata)))

    def __len__(self) -> int:
        return self.table.num_rows

    def token_ids_T(self, index: int) -> np.ndarray:
        """Token ids of completion `index`: int32 [T], read-only."""
        return self.table.column("token_ids")[index].values.to_numpy()

    def logprobs_T(self, index: int) -> np.ndarray:
        """Behaviour log-probabilities of completion `index`, in nats: float32 [T], read-only."""
        return self.table.column("logprobs")[index].values.to_numpy()

    def spans(self, index: int) -> tuple[VersionSpan, ...]:
        """The policy version that sampled each stretch of tokens of completion `index`."""
        return tuple(VersionSpan(**span) for span in self.table.column("version_spans")[index].as_py())

    @property
    def texts_G(self) -> list[str]:
        return self.table.column("text").to_pylist()

    @property
    def finish_reasons_G(self) -> list[str]:
        return self.table.column("finish_reason").to_pylist()


@dataclass(frozen=True, slots=True)
class Grades:
    """The grades of one reward for a group: a value and an outcome for each completion."""

    values_G: tuple[float | None, ...]
    """None where it does not apply, or failed under `on_error: exclude`."""
    outcomes_G: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """A scored group, without its body.

    Example: `Scores(PromptId(0, 17), 0, (1.0, None), {"accuracy": Grades((1.0, None), ("scored", "timeout"))}, 0.02)`.
    """

    prompt_id: PromptId
    attempt: int
    rewards_G: tuple[float | None, ...]
    """Weighted sum of the rewards that apply; None where none does: left out of the group's statistics and of the loss."""
    columns: Mapping[str, Grades]
    score_s: float
    normalised_rewards_G: tuple[float | None, ...] | None = None
    """Under `rewards.aggregation: normalize_then_sum`: the weighted sum of the rewards normalised in the group."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Values that reward functions logged by `log_metric`."""
    extras: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Values that reward functions logged by `log_extra`, one for each completion."""
    first_error: str = ""
    """Traceback of the first failure in this group, if any."""

    @property
    def training_rewards_G(self) -> tuple[float | None, ...]:
        """The rewards that advantages are computed from."""
        return self.rewards_G if self.normalised_rewards_G is None else self.normalised_rewards_G

    @property
    def zero_variance(self) -> bool:
        """True where the group teaches nothing: fewer than two rewards apply, or all are equal."""
        applying = {reward for reward in self.training_rewards_G if reward is not None}
        return len(applying) < 2


@dataclass(frozen=True, slots=True)
class ScoredGroup:
    """A group ready to be trained: the reference of its body, and the facts about it."""

    body: BodyRef
    summary: GroupSummary
    scores: Scores

    @property
    def tokens(self) -> int:
        """Tokens that a learner computes on for this group: the prompt once for each completion, and the completions."""
        summary = self.summary
        return summary.prompt_tokens * len(summary.completion_tokens_G) + sum(summary.completion_tokens_G)


@dataclass(frozen=True, slots=True)
class TensorSlot:
    """Position of one tensor in an adapter's buffer."""

    name: str
    """PEFT key: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`."""
    shape: tuple[int, ...]
    start_byte: int
    end_byte: int


@dataclass(frozen=True, slots=True)
class Canary:
    """A fixed sequence and the log-probabilities the learner gives its tokens under this adapter."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Log-probability of each token but the first, given the tokens before it, at temperature 1, in nats."""


@dataclass(frozen=True, slots=True)
class AdapterManifest:
    """Everything about an adapter but its values. `version` counts optimizer steps; 0 is the adapter training starts with."""

    version: int
    sha256: str
    """Hash of the buffer's bytes."""
    dtype: Literal["float32", "bfloat16"]
    slots: tuple[TensorSlot, ...]
    r: int
    alpha: float
    target_modules: tuple[str, ...]
    base_model: str
    canary: Canary | None = None
    use_rslora: bool = False
    """True where the update is scaled by alpha / sqrt(r) instead of alpha / r."""

    @property
    def nbytes(self) -> int:
        return self.slots[-1].end_byte if self.slots else 0


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter: its manifest, and one flat buffer (uint8; bfloat16 values as their two raw bytes)."""

    manifest: AdapterManifest
    buffer: np.ndarray


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """An adapter on its way from the learner to the engines: its manifest, and the reference of its buffer."""

    manifest: AdapterManifest
    buffer: BufferRef

    @property
    def version(self) -> int:
        return self.manifest.version


def adapter_sha256(buffer: np.ndarray) -> str:
    """The hash that `AdapterManifest.sha256` holds."""
    return hashlib.sha256(np.ascontiguousarray(buffer).data.cast("B")).hexdigest()


@dataclass(frozen=True, slots=True)
class SyncReport:
    """The cost of one broadcast. Seconds are wall time."""

    version: int
    nbytes: int
    total_s: float
    """From the learner's adapter being ready to the last engine sampling with it, verified."""
    paused_s: float
    """Longest time that any engine stood still."""
    canary_difference: float
    """Largest mean |engine - learner| log-probability difference over the engines, in nats."""
    failed_workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepReport:
    """The result of one optimizer step. `policy_version` is the version after it."""

    policy_version: int
    skipped: bool
    """True when loss or gradient was not finite: that update, and those that were to follow it in the step, were left out."""
    metrics: Mapping[str, float]
    """Already reduced over ranks, under the names of docs/metrics.md."""
    train_s: float
    tokens: int
    advantages: Mapping[tuple[PromptId, int], tuple[float | None, ...]] = field(default_factory=dict)
    """Advantages of the completions of each group, by (prompt id, attempt); None where no reward applies."""
