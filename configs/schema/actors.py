"""Section `actors`: the rollout workers and their sampling."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from configs.schema.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


class ActorsSection(Section):
    """The rollout workers and their sampling."""

    num_workers: PositiveInt = 1
    """Number of rollout workers; each runs one vLLM engine."""
    gpus_per_worker: NonNegativeFloat = 1.0
    """GPUs of one worker: 0 for the CPU, a fraction to share a GPU, more than 1 for tensor parallelism."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPU cores that Ray reserves for one worker."""
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Completions sampled for each prompt: the size G of a group."""
    max_completion_length: PositiveInt = 256
    """Largest number of tokens in a completion."""
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = -1
    """Sample from the k likeliest tokens; -1 means all tokens."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the GPU's memory that one engine may use."""
    kv_cache_memory_bytes: PositiveInt | None = None
    """Size of the key-value cache. Default: all memory that `gpu_memory_utilization` allows; 256 MiB on the CPU."""
    max_num_seqs: PositiveInt = 128
    """Largest number of completions that one engine decodes at the same time."""
    enforce_eager: bool = False
    """Capture no CUDA graphs: the engine starts sooner and samples more slowly."""
    progress_timeout_s: PositiveFloat = 120.0
    """An engine that has work but yields no token for this long is stuck, and is replaced."""
    start_timeout_s: PositiveFloat = 900.0
    """A worker that is not ready after this time has failed."""
    max_restarts: NonNegativeInt = 5
    """Number of times that workers may be replaced before the run ends with an error."""
    canary_tolerance: PositiveFloat | None = None
    """Largest mean difference, in nats, between the log-probabilities that engine and learner give the canary (a fixed text) after the
    engine loaded an adapter.

    Default: 1e-3 in float32, 0.1 in bfloat16. If the learner is quantised and the engines serve the original weights: 0.5 with nf4 and
    0.1 with int8, which allows for the quantisation error but is too large to notice that an engine did not load a small adapter."""
