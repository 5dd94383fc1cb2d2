"""The README of a final adapter."""

from __future__ import annotations

from typing import Any

from configs.loading import dump_config
from configs.schema import RunConfig


def model_card(config: RunConfig, summary: dict[str, Any]) -> str:
    """A card in the hub's format: what was trained on what, with which settings, and what came of it."""
    front = f"---\nlibrary_name: peft\nbase_model: {config.model.path}\ntags: [grpo, lora, rollcast]\n---\n"
    results = [
        ("steps", summary["steps"]),
        ("held-out accuracy before", summary["accuracy_before"]),
        ("held-out accuracy after", summary["accuracy_after"]),
    ]
    lines = "\n".join(f"| {name} | {value} |" for name, value in results if value is not None)
    rewards = ", ".join(f"{spec.name} (weight {spec.weight:g})" for spec in config.rewards.functions)
    return (
        f"{front}\n# LoRA adapter of {config.model.path}\n\n"
        f"Trained by GRPO with rollcast on `{config.data.source}`; rewards: {rewards}.\n\n"
        f"| | |\n|---|---|\n{lines}\n\n"
        f"The tokenizer beside it holds the chat template that was used in training; use it for inference as well.\n\n"
        f"## Settings\n\n```yaml\n{dump_config(config)}```\n"
    )
