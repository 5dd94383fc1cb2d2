"""The driver's handle on all ranks of a supervised fine-tuning.

start ─► step ─► step ─► evaluate ─► ...      each call goes to every rank; the first rank that fails ends all (`learner.engine.ranks`)
           └► save
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from configs.contracts.metrics import Max, Mean, merge, values
from configs.schema.sft import SftConfig
from learner.engine.ranks import Ranks
from learner.sft.worker import SftWorker


class SftLearner:
    """All ranks of a supervised fine-tuning. Make one with `create`, then `start` it. After a LearnerError it is dead: make another."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._num_tokens = 0

    @classmethod
    def create(cls, config: SftConfig, *, ray_options: Mapping[str, object], log_dir: Path) -> SftLearner:
        """Start one actor per rank, placed by `ray_options`. Their imports begin at once."""
        return cls(Ranks.create(SftWorker, config, ray_options=ray_options, log_dir=log_dir))

    async def start(
        self,
        model_path: str,
        train_file: Path | None,
        eval_file: Path,
        *,
        total_steps: int,
        row_limit: int | None = None,
        resume_folder: Path | None = None,
    ) -> None:
        """Load model and data on every rank; continue from `resume_folder` (written by `save`) if given.

        Args:
            train_file: demonstrations in the format `DEMONSTRATION_SCHEMA`, on a path that every rank can read; None if each step
                brings its own.
            eval_file: demonstrations to measure the loss on.
            total_steps: end of the learning rate's schedule.
            row_limit: rows to train on in all steps together; None repeats epochs for ever.

        Raises:
            CheckpointError: the folder cannot be read, or was written by another model.
            ConfigError: the learner cannot train this model.
            LearnerError: a rank failed.
        """
        await self._ranks.join()
        facts = await self._ranks.everywhere(SftWorker.start, model_path, train_file, eval_file, total_steps, row_limit, resume_folder)
        self._num_tokens = facts[0].get("num_tokens", 0)

    async def step(self, index: int, batch: pa.Table | None = None) -> dict[str, float]:
        """Take step `index`, 0-based. Returns its metrics.

        Args:
            batch: its demonstrations, in the format `DEMONSTRATION_SCHEMA`, where there is no `train_file`.

        Raises:
            NonFiniteError: loss or gradient was not finite in too many steps in a row.
            LearnerError: a rank failed; this learner is dead.
        """
        began = time.monotonic()
        reports = await self._ranks.everywhere(SftWorker.step, index, batch)
        step_s = time.monotonic() - began
        merged = merge(report.metrics for report in reports)
        tokens = int(values({"tokens": merged.pop("tokens")})["tokens"])
        self._num_tokens += tokens
        merged |= {
            "train/learning_rate": Mean(reports[0].learning_rate, 1.0),
            "train/grad_norm": Mean(reports[0].grad_norm, 1.0),
            "num_tokens": Max(self._num_tokens),
            "step_time": Mean(step_s, 1.0),
            "learner/tokens_per_s": Mean(tokens, step_s),
        }
        return values(merged)

    async def evaluate(self) -> dict[str, float]:
        """Measure `eval/loss`, in nats per imitated token, and `eval/mean_token_accuracy` on the held-out rows."""
        return values(merge(await self._ranks.everywhere(SftWorker.evaluate)))

    async def save(self, folder: Path) -> None:
        """Write everything that `start(resume_folder=folder)` needs, and the adapter, if one is trained, as a PEFT folder."""
        await self._ranks.everywhere(SftWorker.save, folder, {"num_tokens": self._num_tokens})

    async def save_model(self, folder: Path) -> None:
        """Write the whole model as a transformers folder, without its tokenizer."""
        await self._ranks.everywhere(SftWorker.save_model, folder)

    async def worker_pids(self) -> list[int]:
        """Process ids by rank."""
        return [each.pid for each in await self._ranks.processes()]

    async def close(self) -> None:
        """End all ranks. May be called twice, and after an error."""
        await self._ranks.close()
