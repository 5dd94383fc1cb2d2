"""The layout of an adapter's buffer, which is the data part of a safetensors file as it is.

safetensors file   │ header's length, u64 little-endian │ header, JSON │ lora_A of layer 0 │ lora_B of layer 0 │ ... │
adapter's buffer                                                       │ tensors by name, without gaps           ... │
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from configs.contracts.errors import AdapterError
from configs.contracts.records import AdapterManifest, TensorSlot

SAFETENSORS_DTYPES = {"float32": "F32", "bfloat16": "BF16"}
ITEM_BYTES = {"float32": 4, "bfloat16": 2}
LENGTH_BYTES = 8
"""Size of the number before the header. The header is padded to a multiple of it, so that the data are aligned."""


class StoredTensor(NamedTuple):
    """One tensor of a safetensors file."""

    dtype: str
    """In safetensors' words: `F32`, `BF16`, ..."""
    shape: tuple[int, ...]
    data: memoryview


def slots_of(shapes: Mapping[str, Sequence[int]], dtype: Literal["float32", "bfloat16"]) -> tuple[TensorSlot, ...]:
    """Lay out tensors in a buffer: in the order of their names, one directly after the other."""
    slots: list[TensorSlot] = []
    end = 0
    for name, shape in sorted(shapes.items()):
        start, end = end, end + math.prod(shape) * ITEM_BYTES[dtype]
        slots.append(TensorSlot(name, tuple(shape), start, end))
    return tuple(slots)


def header(manifest: AdapterManifest) -> bytes:
    """Everything before the data in the safetensors file of an adapter.

    Raises:
        AdapterError: the slots leave gaps or overlap, which the format does not allow.
    """
    end = 0
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for slot in manifest.slots:
        if slot.start_byte != end:
            raise AdapterError(
                f"adapter {manifest.version}: {slot.name} starts at byte {slot.start_byte}, not {end}; slots must follow each other"
            )
        end = slot.end_byte
        offsets = [slot.start_byte, slot.end_byte]
        entries[slot.name] = {"dtype": SAFETENSORS_DTYPES[manifest.dtype], "shape": list(slot.shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def parse(content: bytes) -> dict[str, StoredTensor]:
    """Split a safetensors file into its tensors, by name; nothing is copied."""
    data_start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    data = memoryview(content)[data_start:]
    entries = json.loads(content[LENGTH_BYTES:data_start])
    return {
        name: StoredTensor(entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in entries.items()
        if name != "__metadata__"
    }
