"""Conversion rules for the settings of metric services and of the hub."""

from __future__ import annotations

from collections.abc import Mapping

from configs.recipes.draft import DONE_ANYWAY, Draft
from configs.yaml_files import YamlValue

SERVICES: tuple[str, ...] = ("tensorboard", "wandb")
WANDB_SETTINGS = ("wandb_entity", "wandb_project", "wandb_run_group")
HUB_SETTINGS = ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_model_revision")
STRATEGIES: Mapping[str | float | None, tuple[str, str]] = {
    "end": ("end", ""),
    "every_save": ("every_save", ""),
    "checkpoint": ("every_save", "only the adapter is pushed: a checkpoint to resume from would hold prompts and groups of this run"),
    "all_checkpoints": ("every_save", "every save is a commit of the repository, and the history keeps each adapter"),
}
"""TRL's `hub_strategy` -> (ours, why it differs)."""


def set_reporting(draft: Draft) -> None:
    """Convert `report_to` with the settings of W&B, and `push_to_hub` with those of the hub."""
    set_report_to(draft)
    _push_to_hub(draft)


def set_report_to(draft: Draft) -> None:
    """Set the services that get the metrics."""
    named = [name.lower() for name in draft.names("report_to", ["tensorboard"])]
    wanted: list[YamlValue] = [name for name in SERVICES if name in named or ("all" in named and name == "tensorboard")]
    if draft.has("report_to"):
        others = [name for name in named if name not in (*SERVICES, "none", "all")]
        why = f"{', '.join(others)} is not supported; metrics.jsonl has everything" if others else ""
        draft.set("cluster.report_to", wanted, "report_to", why="W&B is used only if it is named" if "all" in named else why)
    for setting in WANDB_SETTINGS:
        if "wandb" not in wanted:
            draft.note_ignored(setting, "wandb is not in report_to")
        elif draft.has(setting):
            draft.set(f"cluster.{setting}", draft.given[setting], setting)


def _push_to_hub(draft: Draft) -> None:
    if not draft.flag("push_to_hub"):
        draft.note_ignored("push_to_hub", DONE_ANYWAY)
        for setting in HUB_SETTINGS:
            draft.note_ignored(setting, "push_to_hub is not set")
        return
    strategy, why = draft.choice("hub_strategy", STRATEGIES, "every_save")
    draft.set("cluster.push_to_hub.hub_strategy", strategy, "push_to_hub", "hub_strategy", why=why)
    for setting in ("hub_model_id", "hub_private_repo"):
        if draft.has(setting):
            draft.set(f"cluster.push_to_hub.{setting}", draft.given[setting], setting)
    if draft.given.get("hub_model_revision") == "main":
        draft.note_ignored("hub_model_revision", "this branch is used anyway")
    elif draft.has("hub_model_revision"):
        draft.set("cluster.push_to_hub.hub_model_revision", draft.given["hub_model_revision"], "hub_model_revision")
