"""W&B: the metrics of docs/metrics.md under the same names, and completions as a table. The package is imported when a run uses it."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.output.scrub import without_secrets
from configs.contracts.errors import ConfigError
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig

if TYPE_CHECKING:
    import wandb

DEFAULT_PROJECT = "rollcast"
STEP = "train/global_step"
"""The axis of every chart. A resumed run logs the steps after its checkpoint again, which W&B's own counter would refuse."""

FINISH_TIMEOUT_S = 60.0
"""Afterwards what is not uploaded stays in the run's directory for `wandb sync`."""

NEEDS_NO_KEY = ("offline", "disabled", "dryrun")
RUN_ID_FILE = "wandb_run_id"


def require_wandb(config: RunConfig | SftConfig) -> None:
    """Refuse a run that reports to W&B where that cannot work. Imports nothing unless it has to look for a key.

    Raises:
        ConfigError: the package is missing, or there is no key.
    """
    if "wandb" not in config.cluster.report_to:
        return
    other = "or leave wandb out of cluster.report_to"
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(f"cluster.report_to has wandb, which is not installed: pip install 'rollcast[wandb]', {other}")
    if os.environ.get("WANDB_MODE") in NEEDS_NO_KEY or os.environ.get("WANDB_API_KEY"):
        return
    import wandb

    if wandb.Settings().mode not in NEEDS_NO_KEY and not wandb.login(prompt=False, verify=False):
        raise ConfigError(
            f"cluster.report_to has wandb, and there is no key for it: export WANDB_API_KEY, run `wandb login`, set WANDB_MODE=offline, {other}"
        )


@dataclass
class WandbSink:
    """One run at W&B, and the process that serves it. Should that end, the run goes on without W&B, and says so once."""

    run: wandb.Run
    say: Callable[[str], None] = print
    _lost: bool = False

    @classmethod
    def open(cls, config: RunConfig | SftConfig, folder: Path, say: Callable[[str], None] = print) -> WandbSink:
        """Start a run, or go on with that of the same run directory.

        Raises:
            ConfigError: W&B refuses the settings, or does not answer.
        """
        import wandb

        settings = config.cluster
        try:
            run = wandb.init(
                project=settings.wandb_project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
                entity=settings.wandb_entity,
                group=settings.wandb_run_group,
                name=settings.run_name or folder.name,
                id=_run_id(folder),
                resume="allow",
                dir=folder,
                config=without_secrets(config.model_dump(mode="json")),
                # The driver's output is the run's display, redrawn four times a second.
                settings=wandb.Settings(console="off", quiet=True, finish_timeout=FINISH_TIMEOUT_S),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"W&B refuses the run ({type(error).__name__}: {error}): look at cluster.wandb_project, cluster.wandb_entity and the key, "
                "set WANDB_MODE=offline, or leave wandb out of cluster.report_to"
            ) from None
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return cls(run, say)

    def emit(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._going_on_without():
            self.run.log({**metrics, STEP: step})

    def completions(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """A table of completions, a column for each value."""
        import wandb

        names = dict.fromkeys(name for row in rows for name in row)
        with self._going_on_without():
            table = wandb.Table(columns=list(names), data=[tuple(row.get(name) for name in names) for row in rows])
            self.run.log({"completions": table, STEP: step})

    def summarise(self, values: Mapping[str, float]) -> None:
        with self._going_on_without():
            self.run.summary.update(dict(values))

    def close(self, *, failed: bool = False) -> None:
        """Upload the rest, and end the process that serves the run."""
        import wandb

        with self._going_on_without():
            self.run.finish(exit_code=int(failed))
        with self._going_on_without():
            wandb.teardown()

    @contextmanager
    def _going_on_without(self) -> Iterator[None]:
        import wandb

        try:
            yield
        except (OSError, wandb.Error) as error:
            if not self._lost:
                self.say(f"WARNING: W&B is lost ({type(error).__name__}: {error}); metrics.jsonl has everything")
            self._lost = True


def _run_id(folder: Path) -> str:
    """Kept in the run's directory, so that a resumed run goes on under it."""
    file = folder / RUN_ID_FILE
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8])
    return file.read_text().strip()
