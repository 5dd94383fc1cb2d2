"""The README of a supervised result."""

from __future__ import annotations

from typing import Any

from configs.loading import dump_config
from configs.sft import SftConfig


def sft_card(config: SftConfig, summary: dict[str, Any]) -> str:
    """A card in the hub's format: what imitates what, with which settings, and what came of it."""
    adapted = config.learner.use_peft
    front = f"---\nlibrary_name: {'peft' if adapted else 'transformers'}\nbase_model: {config.model.path}\ntags: [sft, {'lora, ' * adapted}rollcast]\n---\n"
    results = [
        ("steps", summary["steps"]),
        ("tokens", summary["num_tokens"]),
        ("held-out loss before, nats a token", summary["eval_loss_before"]),
        ("held-out loss after", summary["eval_loss_after"]),
    ]
    lines = "\n".join(f"| {name} | {value} |" for name, value in results if value is not None)
    return (
        f"{front}\n# {'LoRA adapter of ' if adapted else ''}{config.model.path}{'' if adapted else ', fine-tuned'}\n\n"
        f"Trained by supervised fine-tuning with rollcast on `{config.data.path}`: the loss is over the assistant's turns alone.\n\n"
        f"| | |\n|---|---|\n{lines}\n\n"
        f"The tokenizer beside it holds the chat template that was used in training; use it for inference as well.\n\n"
        f"## Settings\n\n```yaml\n{dump_config(config)}```\n"
    )
