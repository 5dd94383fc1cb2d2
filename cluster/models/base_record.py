"""Read and write what an adapter says about its base: digests of weights, in the head of its safetensors file.

    adapter_config.json            base_model_name_or_path: where the base lay          (PEFT's own)
    adapter_model.safetensors      │ length │ header: __metadata__, tensors │ data │
                                              └─ format: pt, rollcast_base_weights: 5f1c…, ...

The head stays with the weights, and PEFT, vLLM and transformers load the file as before. A program that trains the adapter further and saves it
writes a new head, so that a digest is never older than its weights. The head holds no path, because adapters are published.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.models.safetensors_head import read_head
from configs.contracts.adapter_buffer import LENGTH_BYTES

WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "rollcast_base_"
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """The base of an adapter, as it was when the adapter was trained."""

    weights: str | None
    """Digest of the weights that the learner loaded; None where they were not on the driver's machine."""
    served_weights: str | None = None
    """Digest of the weights that the engines served, where the learner's quantisation had made them others."""
    commit: str | None = None
    """Commit of a hub model."""


def read_record(adapter: Path) -> BaseRecord | None:
    """Read the record in a PEFT folder; None in an adapter that was trained elsewhere, by an older version, or that cannot be read."""
    try:
        with (adapter / WEIGHTS_FILE).open("rb") as content:
            metadata = read_head(content).get(METADATA)
    except (OSError, ValueError):
        return None  # whoever loads its tensors says what is wrong with it
    if not isinstance(metadata, dict):
        return None
    found = {name.removeprefix(PREFIX): value for name, value in metadata.items() if name.startswith(PREFIX)}
    if not found:
        return None
    return BaseRecord(found.get("weights"), found.get("served_weights"), found.get("commit"))


def write_record(adapter: Path, record: BaseRecord) -> None:
    """Write the record into a PEFT folder. The tensors stay as they are, bit for bit."""
    file = adapter / WEIGHTS_FILE
    unfinished = file.with_name(f"{file.name}.tmp")
    with file.open("rb") as content, unfinished.open("wb") as written:
        entries = read_head(content)
        facts = {f"{PREFIX}{name}": value for name, value in asdict(record).items() if value is not None}
        entries[METADATA] = {"format": "pt", **facts}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        written.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
        shutil.copyfileobj(content, written)
    os.replace(unfinished, file)
