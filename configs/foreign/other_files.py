"""Files that hold no settings of a training: what they are, and where they belong. And the forms besides YAML in which settings come."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from configs.contracts.errors import ConfigError
from configs.foreign.python_files import answer_to_code
from configs.yaml_files import YamlValue, read_text, read_yaml

_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".safetensors", ".gguf", ".npz", ".distcp")
_ROWS = (".jsonl", ".ndjson", ".parquet", ".arrow", ".csv", ".tsv", ".gz", ".zst", ".xz")
_CODE = (".py", ".ipynb")

CONTENTS: Sequence[tuple[str, str]] = (
    ("zero_optimization", "deepspeed"),
    ("train_micro_batch_size_per_gpu", "deepspeed"),
    ("compute_environment", "accelerate"),
    ("distributed_type", "accelerate"),
    ("peft_type", "adapter"),
    ("log_history", "trainer"),
    ("architectures", "model"),
    ("tokenizer_class", "tokenizer"),
    ("added_tokens_decoder", "tokenizer"),
    ("transformers_version", "generation"),
    ("exit_reason", "summary"),
    ("features splits", "dataset"),
)
"""Keys that such a file has -> what it is."""

ANSWERS: Mapping[str, str] = {
    "deepspeed": "is a configuration of DeepSpeed, which the learner writes for itself (ZeRO-2, bfloat16, clipping by learner.max_grad_norm; "
    "learner.offload_optimizer moves the optimizer's state to the CPU); give the recipe that names it",
    "accelerate": "is a configuration of accelerate; give it beside a recipe: rollcast train RECIPE --accelerate {path}",
    "adapter": "describes an adapter of PEFT; start from it with model.adapter={folder}",
    "trainer": "is the state of a Trainer of transformers, from which only that can go on; start from its weights with model.path={folder}, or "
    "model.adapter={folder} if it has an adapter",
    "model": "describes a model; train it with model.path={folder}",
    "tokenizer": "describes a tokenizer; the model's own is used: model.path={folder}",
    "generation": "describes how a model samples; sampling is set in the section actors (temperature, top_p, top_k), and the model is "
    "model.path={folder}",
    "summary": "is the summary of a run; give its settings, {folder}/config.yaml",
    "dataset": "describes a data set; read it with data.path={folder}",
}


def answer_to_name(path: Path) -> str | None:
    """What a file is that holds no settings, by its name, and where it belongs; None for others and for what is no file."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return None
    if path.name == "training_args.bin":
        return (
            f"{path} holds TrainingArguments as a pickle, which runs code when it is read; write them as JSON where they were made "
            f"(torch.load({path.name!r}, weights_only=False).to_json_string()), and give that file as a recipe"
        )
    if suffix in _WEIGHTS:
        return f"{path} holds weights; give a YAML file, with model.path={path.parent} for the model"
    if suffix in _ROWS:
        return f"{path} holds rows; give a YAML file, with data.path={path}"
    return answer_to_code(path) if suffix in _CODE else None


def answer_to_content(path: Path, tree: Mapping[str, YamlValue]) -> str | None:
    """What a file is that holds no settings, by its keys, and where it belongs; None for others."""
    found = next((what for keys, what in CONTENTS if all(key in tree for key in keys.split())), None)
    if found:
        return f"{path} {ANSWERS[found].format(path=path, folder=path.parent)}"
    return _data_sets_of_llama_factory(path, tree)


def read_tree(path: Path) -> dict[str, YamlValue]:
    """Read JSON, TOML or YAML with a mapping.

    Raises:
        ConfigError: the file cannot be read, or holds no mapping.
    """
    suffix = path.suffix.lower()
    if suffix not in (".json", ".toml"):
        return read_yaml(path)
    text = read_text(path)
    try:
        tree = json.loads(text, object_pairs_hook=_without_repeats) if suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable as {suffix[1:].upper()}: {error}; correct it, or write YAML") from None
    if isinstance(tree, list) and all(isinstance(row, dict) for row in tree):
        raise ConfigError(f"{path} holds {len(tree)} rows; give a YAML file, with data.path={path}")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds no keys such as `model` and `data`; give a YAML file")
    return tree


def _without_repeats(pairs: list[tuple[str, YamlValue]]) -> dict[str, YamlValue]:
    found: dict[str, YamlValue] = {}
    for key, value in pairs:
        if found.get(key, value) != value:
            raise ValueError(f"the key {key!r} is given twice; keep one of them")
        found[key] = value
    return found


_SOURCES = ("file_name", "hf_hub_url", "ms_hub_url", "script_url", "cloud_file_name")
"""Keys of a data set in LLaMA-Factory's dataset_info.json that say where it is."""


def _data_sets_of_llama_factory(path: Path, tree: Mapping[str, YamlValue]) -> str | None:
    """The data sets of a dataset_info.json, each with the settings that read it."""
    listed = {name: entry for name, entry in tree.items() if isinstance(entry, dict) and any(key in entry for key in _SOURCES)}
    if not listed or len(listed) < len(tree):
        return None
    lines = [f"\n  {name}: {_source(path, entry)}" for name, entry in list(listed.items())[:20]]
    more = f"\n  and {len(listed) - 20} more" if len(listed) > 20 else ""
    return (
        f"{path} lists data sets of LLaMA-Factory; give a YAML file with the settings of one (docs/data.md has those of its row shapes):"
        f"{''.join(lines)}{more}"
    )


def _source(path: Path, entry: Mapping[str, YamlValue]) -> str:
    key = next(key for key in _SOURCES if key in entry)
    place = str(path.parent / str(entry[key])) if key == "file_name" else str(entry[key])
    settings = [f"data.path={place}", *([f"data.name={entry['subset']}"] if "subset" in entry else [])]
    columns = entry.get("columns")
    if isinstance(columns, dict) and columns:
        settings.append(f"(columns {', '.join(f'{role} {column}' for role, column in columns.items())})")
    return " ".join([*settings, *(["(preference pairs: not trained here)"] if entry.get("ranking") else [])])
