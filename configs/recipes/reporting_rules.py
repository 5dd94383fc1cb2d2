"""Where a recipe's results go: metric services and the hub."""

from __future__ import annotations

from configs.recipes.draft import Draft

OFFERED = ("tensorboard", "wandb")
OF_WANDB = {"wandb_entity": "wandb_entity", "wandb_project": "wandb_project", "wandb_run_group": "wandb_run_group"}
OF_THE_HUB = ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_model_revision")
STRATEGIES = {
    "end": ("end", ""),
    "every_save": ("every_save", ""),
    "checkpoint": ("every_save", "the adapter is pushed, and no state to resume from: it holds prompts and groups of this run"),
    "all_checkpoints": ("every_save", "every save is a commit of the repository, whose history keeps each adapter"),
}
"""TRL's strategy -> ours, and why it is another."""


def reporting(draft: Draft) -> None:
    """`report_to` with what W&B is told, and `push_to_hub` with what the hub is told."""
    put_report_to(draft)
    _push_to_hub(draft)


def put_report_to(draft: Draft) -> None:
    """Where metrics go."""
    named = [name.lower() for name in draft.names("report_to", ["tensorboard"])]
    wanted = [name for name in OFFERED if name in named or ("all" in named and name == "tensorboard")]
    if draft.has("report_to"):
        others = [name for name in named if name not in (*OFFERED, "none", "all")]
        why = f"{', '.join(others)} is not offered; metrics.jsonl has everything" if others else ""
        draft.put("cluster.report_to", wanted, "report_to", why="of all there are, W&B has to be named" if "all" in named else why)
    for setting, key in OF_WANDB.items():
        if "wandb" not in wanted:
            draft.ignore(setting, "wandb is not in report_to")
        elif draft.has(setting):
            draft.put(f"cluster.{key}", draft.given[setting], setting)


def _push_to_hub(draft: Draft) -> None:
    if not draft.flag("push_to_hub"):
        draft.ignore("push_to_hub", "it asks for what is done anyway")
        for setting in OF_THE_HUB:
            draft.ignore(setting, "push_to_hub is not set")
        return
    strategy, why = draft.choice("hub_strategy", STRATEGIES, "every_save")
    draft.put("cluster.push_to_hub.hub_strategy", strategy, "push_to_hub", "hub_strategy", why=why)
    for setting in ("hub_model_id", "hub_private_repo"):
        if draft.has(setting):
            draft.put(f"cluster.push_to_hub.{setting}", draft.given[setting], setting)
    if draft.given.get("hub_model_revision") == "main":
        draft.ignore("hub_model_revision", "it is the branch that is used anyway")
    elif draft.has("hub_model_revision"):
        draft.put("cluster.push_to_hub.hub_model_revision", draft.given["hub_model_revision"], "hub_model_revision")
