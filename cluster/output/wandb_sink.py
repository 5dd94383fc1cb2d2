"""W&B: the metrics of docs/metrics.md under the same names, and completions as a table. The package is imported only if a run uses it."""

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
"""The axis of every chart. W&B's own step counter cannot go back, but a resumed run logs the steps after its checkpoint again."""

FINISH_TIMEOUT_S = 60.0
"""What is not uploaded by then stays in the run's directory, for `wandb sync`."""

NEEDS_NO_KEY = ("offline", "disabled", "dryrun")
RUN_ID_FILE = "wandb_run_id"


def require_wandb(config: RunConfig | SftConfig) -> None:
    """Check that a run can report to W&B, if it is to. Imports wandb only where it must look for a key.

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
            f"cluster.report_to has wandb, but there is no key: export WANDB_API_KEY, run `wandb login`, set WANDB_MODE=offline, {other}"
        )


@dataclass
class WandbSink:
    """One run at W&B, and wandb's process that uploads it. If that process ends, training continues without W&B, and says so once."""

    run: wandb.Run
    say: Callable[[str], None] = print
    _lost: bool = False

    @classmethod
    def open(cls, config: RunConfig | SftConfig, folder: Path, say: Callable[[str], None] = print) -> WandbSink:
        """Start a run at W&B, or continue the one of the same run directory.

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
                # W&B would otherwise record the driver's output, in which the display is redrawn four times a second.
                settings=wandb.Settings(console="off", quiet=True, finish_timeout=FINISH_TIMEOUT_S),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"W&B refuses the run ({type(error).__name__}: {error}): check cluster.wandb_project, cluster.wandb_entity and the key, "
                "set WANDB_MODE=offline, or leave wandb out of cluster.report_to"
            ) from None
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return cls(run, say)

    def emit(self, step: int, metrics: Mapping[str, float]) -> None:
        with self._going_on_without():
            self.run.log({**metrics, STEP: step})

    def completions(self, step: int, rows: Sequence[Mapping[str, object]]) -> None:
        """Log completions as a table with a column for each value."""
        import wandb

        names = dict.fromkeys(name for row in rows for name in row)
        with self._going_on_without():
            table = wandb.Table(columns=list(names), data=[tuple(row.get(name) for name in names) for row in rows])
            self.run.log({"completions": table, STEP: step})

    def summarise(self, values: Mapping[str, float]) -> None:
        with self._going_on_without():
            self.run.summary.update(dict(values))

    def close(self, *, failed: bool = False) -> None:
        """Upload the rest, and end wandb's process."""
        import wandb

        with self._going_on_without():
            self.run.finish(exit_code=int(failed))
        with self._going_on_without():
            wandb.teardown()

    @contextmanager
    def _going_on_without(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever it is, a log must not end a training
            if not self._lost:
                self.say(
                    f"WARNING: W&B failed ({type(error).__name__}: {error}); training continues without it; metrics.jsonl has everything"
                )
            self._lost = True


def _run_id(folder: Path) -> str:
    """Read the id from the run's directory, or make one there, so that a resumed run keeps it."""
    file = folder / RUN_ID_FILE
    if not file.exists():
        file.write_text(uuid.uuid4().hex[:8])
    return file.read_text().strip()
