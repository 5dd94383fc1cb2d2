"""One rank of a supervised fine-tuning. Heavy imports are inside functions, so that the driver can import the class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from configs.contracts.metrics import Metric
from configs.schema.sft import SftConfig
from learner.engine.rank import Rank, RankReport

if TYPE_CHECKING:
    import pyarrow as pa

    from learner.sft.trainer import RowOrder, SupervisedTrainer


class SftWorker(Rank[SftConfig]):
    """One rank of a supervised fine-tuning. Every method is collective."""

    _trainer: SupervisedTrainer
    _held_out: pa.Table
    _stored: tuple[pa.Table, RowOrder] | None = None
    """The demonstrations on disk, and the rows of each step; None if each step brings its own."""

    def start(
        self, model_path: str, train_file: Path | None, eval_file: Path, total_steps: int, row_limit: int | None, resume_folder: Path | None
    ) -> dict[str, int]:
        """Load model and data and make the engine, from a checkpoint if one is given. Returns the facts given to `save`, or none."""
        from learner.sft.demonstrations import open_demonstrations
        from learner.sft.trainer import RowOrder, SupervisedTrainer

        config = self._config
        policy = self._load_policy(model_path, full=not config.learner.use_peft)
        self._held_out = open_demonstrations(eval_file)
        if train_file is not None:
            table = open_demonstrations(train_file)
            self._stored = table, RowOrder(len(table), config.learner.train_batch_size, config.seed, row_limit, config.data.shuffle)
        self._trainer = SupervisedTrainer(self._make_engine(policy, total_steps), config.learner.token_budget)
        return {} if resume_folder is None else self._trainer.engine.load(resume_folder)

    def step(self, index: int, batch: pa.Table | None) -> RankReport:
        """Take step `index`, 0-based, on the demonstrations of `batch`, or else on the stored ones whose turn it is."""
        if batch is not None:
            done = self._trainer.step(batch, range(len(batch)))
        else:
            assert self._stored is not None, "a step without stored demonstrations brings its own"
            table, order = self._stored
            done = self._trainer.step(table, order.of_step(index))
        self._count_nonfinite(done.outcome.applied, done.batches, index)
        return RankReport.of(self._trainer.engine.steps_done, done.outcome, done.metrics)

    def evaluate(self) -> dict[str, Metric]:
        """Measure this rank's part of the loss on the held-out rows."""
        return self._trainer.evaluate(self._held_out)

    def save(self, folder: Path, facts: dict[str, int]) -> None:
        """Write the learner's state and `facts` under `folder`."""
        self._trainer.engine.save(folder, facts)

    def save_model(self, folder: Path) -> None:
        """Write the whole model, after a training of every weight. Rank 0 writes."""
        if self._rank == 0:
            self._trainer.policy.save_model(folder)
