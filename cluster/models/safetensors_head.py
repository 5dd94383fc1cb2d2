"""Read the head of a safetensors file without its data."""

from __future__ import annotations

import json
import os
from typing import IO, Any

from configs.contracts.adapter_buffer import LENGTH_BYTES


def read_head(content: IO[bytes]) -> dict[str, Any]:
    """Read the head of an open file, which then stands at the first byte of the data.

    Raises:
        OSError: the file is too short to hold its head.
        ValueError: the head is no JSON object.
    """
    length = int.from_bytes(content.read(LENGTH_BYTES), "little")
    if length > os.fstat(content.fileno()).st_size:
        raise OSError(f"{content.name} is no whole safetensors file")
    found = json.loads(content.read(length))
    if not isinstance(found, dict):
        raise ValueError(f"{content.name} has no head of a safetensors file")
    return found
