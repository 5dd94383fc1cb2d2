"""Section `cluster`: Ray, the training loop, and the outputs besides the run directory (metric services, the terminal, the hub)."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from configs.schema.section import NonNegativeInt, PositiveFloat, PositiveInt, Section

REPO_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}", re.ASCII)


class PushToHubSection(Section):
    """Push the adapter to a hub with its card, curves and settings. The token comes from HF_TOKEN or `hf auth login`."""

    hub_model_id: str | None = None
    """Repository: `user/name`, or only a name for the token's own user. Default: the name of `out_dir`."""
    hub_strategy: Literal["every_save", "end"] = "every_save"
    """`every_save`: push in the background after every checkpoint, and at the end; `end`: only at the end."""
    hub_private_repo: bool | None = None
    """Make a new repository private. Default: the account's settings decide."""
    hub_model_revision: str | None = None
    """Branch to push to; it is created if it does not exist. Default: main."""
    push_timeout_s: PositiveFloat = 600.0
    """Time that the end of the run waits for the last push."""

    @field_validator("hub_model_id")
    @classmethod
    def _is_a_repository(cls, hub_model_id: str | None) -> str | None:
        if hub_model_id is not None and not REPO_ID.fullmatch(hub_model_id):
            raise ValueError(f"{hub_model_id!r} is not the name of a repository; write user/name, with letters, digits, '-', '_' and '.'")
        return hub_model_id


class TrackingSection(Section):
    """The part of the section `cluster` about metric services."""

    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Services that get the metrics; metrics.jsonl and Ray's dashboard always get them. `wandb` needs `pip install 'rollcast[wandb]'`."""
    run_name: str | None = None
    """Name of the run at W&B. Default: the name of `out_dir`."""
    wandb_project: str | None = None
    """Project at W&B. Default: WANDB_PROJECT, or else `rollcast`."""
    wandb_entity: str | None = None
    """User or team at W&B. Default: WANDB_ENTITY, or else the owner of the API key."""
    wandb_run_group: str | None = None
    """Group of runs at W&B. Default: WANDB_RUN_GROUP."""

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_may_stand_alone(cls, report_to: object) -> object:
        return (report_to,) if isinstance(report_to, str) else report_to

    @model_validator(mode="after")
    def _wandb_settings_have_wandb(self) -> TrackingSection:
        given = [name for name in ("wandb_project", "wandb_entity", "wandb_run_group") if getattr(self, name) is not None]
        if given and "wandb" not in self.report_to:
            raise ValueError(
                f"{', '.join(given)} is set, and report_to {list(self.report_to)} has no wandb; add wandb, or remove the setting"
            )
        return self


class ReportingSection(Section):
    """The part of the section `cluster` about printing completions and pushing adapters."""

    log_completions: bool = False
    """Print a few completions with rewards every `logging_steps` steps; W&B gets them as a table if `report_to` has wandb."""
    num_completions_to_print: PositiveInt = 4
    """Largest number of completions to print."""
    log_unique_prompts: bool = False
    """Print only one completion of each prompt."""
    push_to_hub: PushToHubSection | None = None
    """Push the adapter to a hub; none given: no push."""


class RaySection(TrackingSection):
    """The part of the section `cluster` about Ray, checkpoints and logs."""

    address: str = "auto"
    """`local` starts a private Ray; host:port joins that cluster; `auto` joins the cluster in RAY_ADDRESS, and is `local` without it."""
    save_steps: NonNegativeInt = 50
    """Number of steps between checkpoints; one is also written at the end, and 0 means only at the end."""
    save_total_limit: PositiveInt | None = 2
    """Number of checkpoints to keep; null keeps all."""
    logging_steps: PositiveInt = 1
    """Number of steps between printed lines, if there is no live display."""
    dashboard: bool = False
    """Serve the Ray dashboard on the loopback interface, with a private Ray."""
    object_store_memory_bytes: PositiveInt = 256 << 20
    """Size of the object store of a private Ray."""
    insecure_no_auth: bool = False
    """Start Ray without token authentication: anyone who can reach its ports can run code as you."""
    max_learner_restarts: NonNegativeInt = 2
    """Number of times that the learner may be started again from the last checkpoint before the run ends with an error."""
    lost_resources_wait_s: PositiveFloat = 300.0
    """Time for which a run waits for room for its learner, or for its last reward worker, after their node was lost."""


class ClusterSection(ReportingSection, RaySection):
    """Ray, the training loop, and the outputs."""

    max_staleness: NonNegativeInt = 1
    """Largest number of optimizer steps between the policy that sampled a token and the step that trains on it; 0 is synchronous."""
    on_stale: Literal["drop", "keep"] = "drop"
    """Treatment of groups that are too stale: sample them again (drop), or train on them with the truncated ratio (keep)."""
    sync_every_steps: PositiveInt = 1
    """Number of optimizer steps between broadcasts of the adapter."""
    logged_groups_per_step: NonNegativeInt = 2
    """Number of groups per step whose completions are written to completions/*.parquet."""

    @model_validator(mode="after")
    def _completions_can_be_shown(self) -> ClusterSection:
        if self.log_completions and not self.logged_groups_per_step:
            raise ValueError(
                "log_completions with logged_groups_per_step 0: only written completions can be printed; raise it, or remove "
                "log_completions"
            )
        return self
