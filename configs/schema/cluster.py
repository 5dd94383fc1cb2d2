"""Section `cluster`: Ray, the loop, and where results go beside the run directory (metric services, the terminal, the hub)."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator, model_validator

from configs.schema.section import NonNegativeInt, PositiveFloat, PositiveInt, Section

REPO_ID = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}", re.ASCII)


class PushToHubSection(Section):
    """The adapter is pushed to a hub with its card, curves and settings. The token is HF_TOKEN's, or that of `hf auth login`."""

    hub_model_id: str | None = None
    """Repository: `user/name`, or a name alone for the token's own user. Default: the name of `out_dir`."""
    hub_strategy: Literal["every_save", "end"] = "every_save"
    """`every_save`: after every checkpoint, in the background, and at the end; `end`: at the end only."""
    hub_private_repo: bool | None = None
    """Whether a repository that is made for it is private; by default what the account's settings say."""
    hub_model_revision: str | None = None
    """Branch to push to, which is made where there is none; default: main."""
    push_timeout_s: PositiveFloat = 600.0
    """How long the end of the run waits for the last push."""

    @field_validator("hub_model_id")
    @classmethod
    def _is_a_repository(cls, hub_model_id: str | None) -> str | None:
        if hub_model_id is not None and not REPO_ID.fullmatch(hub_model_id):
            raise ValueError(f"{hub_model_id!r} is no repository of a hub: write user/name, of letters, digits, '-', '_' and '.'")
        return hub_model_id


class TrackingSection(Section):
    """Part of the section `cluster`: where metrics go."""

    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl and Ray's own, which always get them. `wandb` needs `pip install 'rollcast[wandb]'`."""
    run_name: str | None = None
    """Name of the run at W&B; default: the name of `out_dir`."""
    wandb_project: str | None = None
    """Project at W&B; default: WANDB_PROJECT, else `rollcast`."""
    wandb_entity: str | None = None
    """User or team at W&B; default: WANDB_ENTITY, else that of the key."""
    wandb_run_group: str | None = None
    """Group of runs at W&B; default: WANDB_RUN_GROUP."""

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_may_stand_alone(cls, report_to: object) -> object:
        return (report_to,) if isinstance(report_to, str) else report_to

    @model_validator(mode="after")
    def _wandb_settings_have_wandb(self) -> TrackingSection:
        given = [name for name in ("wandb_project", "wandb_entity", "wandb_run_group") if getattr(self, name) is not None]
        if given and "wandb" not in self.report_to:
            raise ValueError(f"{', '.join(given)} is set, and report_to {list(self.report_to)} has no wandb: add it, or remove them")
        return self


class ReportingSection(Section):
    """Part of the section `cluster`: what is made of completions and adapters."""

    log_completions: bool = False
    """Print a few completions with their rewards every `logging_steps`, and send them to W&B as a table where that is on."""
    num_completions_to_print: PositiveInt = 4
    """How many, at most."""
    log_unique_prompts: bool = False
    """One completion of a prompt alone, among those that are printed."""
    push_to_hub: PushToHubSection | None = None


class RaySection(TrackingSection):
    """Ray, and what is written."""

    address: str = "auto"
    """`local` starts a private Ray; `auto` joins the cluster that RAY_ADDRESS names and is `local` without one; or host:port."""
    save_steps: NonNegativeInt = 50
    """Commit a checkpoint after so many steps, and at the end; 0 only at the end."""
    save_total_limit: PositiveInt | None = 2
    """Keep so many checkpoints; none given keeps all."""
    logging_steps: PositiveInt = 1
    """Print a line after so many steps where there is no live display."""
    dashboard: bool = False
    """Serve the Ray dashboard on the loopback interface in local mode."""
    object_store_memory_bytes: PositiveInt = 256 << 20
    """Size of the object store in local mode."""
    insecure_no_auth: bool = False
    """Start Ray without token authentication: anyone who reaches its ports can run code as you."""
    max_learner_restarts: NonNegativeInt = 2
    """How often the learner group may be made again from the last commit."""


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
