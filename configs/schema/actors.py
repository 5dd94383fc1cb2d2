"""Section `actors`: rollout workers and how they sample."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from configs.schema.section import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section


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
