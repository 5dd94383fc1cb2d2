"""Notebooks and scripts that train with TRL, Unsloth or transformers: their settings as options of a recipe."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from configs.contracts.errors import ConfigError
from configs.launch.other_trainers import TRAINERS
from configs.yaml_files import YamlValue, in_yaml, read_text

CONFIGS: Mapping[str, str] = {
    "GRPOConfig": "GRPO",
    "SFTConfig": "SFT",
    "SFTTrainer": "SFT",
    "GRPOTrainer": "GRPO",
    "DPOConfig": "DPO",
    "DPOTrainer": "DPO",
    "KTOConfig": "KTO",
    "KTOTrainer": "KTO",
    "ORPOConfig": "ORPO",
    "ORPOTrainer": "ORPO",
    "CPOConfig": "CPO",
    "PPOConfig": "PPO",
    "PPOTrainer": "PPO",
    "RLOOConfig": "RLOO",
    "OnlineDPOConfig": "online DPO",
    "RewardConfig": "reward modelling",
}
"""Classes of TRL -> what they train by."""

TAKEN: Mapping[str, Mapping[str, str]] = {
    "from_pretrained": {"model_name": "model_name_or_path", "load_in_4bit": "load_in_4bit", "load_in_8bit": "load_in_8bit"},
    "get_peft_model": {"r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "target_modules": "lora_target_modules"},
    "LoraConfig": {"r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "target_modules": "lora_target_modules"},
    "load_dataset": {"path": "dataset_name", "name": "dataset_config", "split": "dataset_train_split"},
}
"""Function -> its argument -> the setting of a recipe."""

POSITIONS: Mapping[str, tuple[str, ...]] = {"from_pretrained": ("model_name",), "load_dataset": ("path", "name")}
"""Function -> the names of its first arguments."""


@dataclass
class _Found:
    """What a script says about its training."""

    objectives: list[str] = field(default_factory=list)
    settings: dict[str, YamlValue] = field(default_factory=dict)
    computed: list[str] = field(default_factory=list)
    """Settings whose value only running the script tells."""
    functions: list[str] = field(default_factory=list)
    """Reward functions that it names."""


def answer_to_code(path: Path) -> str:
    """Say how the training of a notebook or a script is run here, with the settings that can be read from it."""
    what = "a notebook" if path.suffix == ".ipynb" else "a Python script"
    found = _read(path)
    if not found.objectives:
        return (
            f"{path} is {what}, and settings are wanted; give a YAML file, a recipe, or the script's own line with its options. From Python, "
            "rollcast.train does what `rollcast train` does (docs/python.md)"
        )
    objective = "GRPO" if "GRPO" in found.objectives else found.objectives[-1]
    head = f"{path} is {what} that trains by {objective}"
    if objective not in ("GRPO", "SFT", "RLOO"):
        return f"{head}; {TRAINERS}, so run it where it runs now"
    command = "rollcast sft" if objective == "SFT" else "rollcast train"
    options = " ".join(f"--{name} {_quoted(value)}" for name, value in found.settings.items())
    answer = f"{head}, which is not run; its settings are options of a recipe:\n  {command} {options or '--model_name_or_path ...'}"
    if found.computed:
        answer += f"\nto be filled in, as only running it tells their values: {', '.join(dict.fromkeys(found.computed))}"
    if found.functions:
        names = ", ".join(found.functions)
        answer += f"\nrewards of its own ({names}): put them into a file and list it, --reward_funcs file.py:{found.functions[0]}"
    return (
        f"{answer}\nor from Python: rollcast.{'sft' if objective == 'SFT' else 'train'}(..., data=..., rewards=[...]), see docs/python.md"
    )


def _read(path: Path) -> _Found:
    found = _Found()
    constants: dict[str, object] = {}
    for code in _cells(path):
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                _note_constant(constants, node.targets[0].id, node.value)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                _note_call(found, node, constants)
    return found


def _cells(path: Path) -> Iterator[str]:
    """The code of a script, or of each cell of a notebook, without lines that are the notebook's or the shell's."""
    text = read_text(path)
    if path.suffix != ".ipynb":
        yield text
        return
    try:
        cells = json.loads(text)["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not readable as a notebook: {error!r}; give a YAML file") from None
    for source in sources:
        yield re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.MULTILINE)


def _note_constant(constants: dict[str, object], name: str, value: ast.expr) -> None:
    try:
        constants[name] = ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        constants.pop(name, None)


def _note_call(found: _Found, call: ast.Call, constants: Mapping[str, object]) -> None:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""
    if name in CONFIGS and CONFIGS[name] not in found.objectives:
        found.objectives.append(CONFIGS[name])
    names = dict(zip(POSITIONS.get(name, ()), call.args, strict=False)) | {word.arg: word.value for word in call.keywords if word.arg}
    if name.endswith("Trainer"):
        found.functions += [each.id for each in _listed(names.get("reward_funcs")) if isinstance(each, ast.Name)]
        return
    wanted = TAKEN.get(name, {}) if name in TAKEN else {key: key for key in names} if _is_config(name) else {}
    for key, value in names.items():
        if key in wanted:
            _note_value(found, wanted[key], value, constants)


def _is_config(name: str) -> bool:
    return name in ("TrainingArguments", "Seq2SeqTrainingArguments") or (name in CONFIGS and name.endswith("Config"))


def _note_value(found: _Found, setting: str, value: ast.expr, constants: Mapping[str, object]) -> None:
    try:
        read = constants[value.id] if isinstance(value, ast.Name) else ast.literal_eval(value)
    except (KeyError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found.computed.append(setting)
        return
    if isinstance(read, tuple):
        read = list(read)
    if isinstance(read, bool | int | float | str | list | dict):
        found.settings.setdefault(setting, read)


def _listed(value: ast.expr | None) -> list[ast.expr]:
    return value.elts if isinstance(value, ast.List | ast.Tuple) else [value] if value else []


def _quoted(value: YamlValue) -> str:
    import shlex

    return " ".join(shlex.quote(str(each)) for each in value) if isinstance(value, list) else shlex.quote(in_yaml(value))
