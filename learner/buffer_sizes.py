"""Sizes of the largest buffers of a step, by device. No torch: the memory estimate of a dry run reads them in the driver."""

from __future__ import annotations

CHUNK_LOGITS = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Most logits that exist at once in `learner.model.logprob`.

On a CPU 64 MiB in float32, 110 tokens of a 151,936-token vocabulary: products with the head run at 75 to 87 % of the core's best rate, with
half as many tokens at 57 to 76 %, with twice as many at 78 to 91 %. On a GPU 256 MiB, 440 tokens: 440 operations for each byte of a bfloat16
head that is read, where an H100 can do 295 (by arithmetic, not measured)."""

BUCKET_ELEMENTS = {"cpu": int(5e6), "cuda": int(5e7)}
"""Most gradient elements that DeepSpeed reduces over the ranks at once. It allocates whole buckets, however small the adapter."""
