"""The layout of an adapter's buffer: by name, without gaps, and read back as it was written."""

from __future__ import annotations

import numpy as np

from configs.contracts.adapter_buffer import header, parse, slots_of
from configs.contracts.records import AdapterManifest, TensorSlot, adapter_sha256


def test_slots_follow_each_other_in_the_order_of_names() -> None:
    assert slots_of({"b": (3, 2), "a": (2, 5)}, "bfloat16") == (TensorSlot("a", (2, 5), 0, 20), TensorSlot("b", (3, 2), 20, 32))
    assert [slot.end_byte for slot in slots_of({"b": (3, 2), "a": (2, 5)}, "float32")] == [40, 64]


def test_a_file_is_parsed_into_the_tensors_it_was_written_from() -> None:
    values = np.arange(16, dtype=np.float32)
    buffer = values.view(np.uint8)
    slots = slots_of({"b": (3, 2), "a": (2, 5)}, "float32")
    manifest = AdapterManifest(1, adapter_sha256(buffer), "float32", slots, 2, 4.0, ("a",), "tiny")
    head = header(manifest)
    assert len(head) % 8 == 0
    found = parse(head + buffer.tobytes())
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in found.items()} == {"a": ("F32", (2, 5)), "b": ("F32", (3, 2))}
    assert np.frombuffer(found["b"].data, np.float32).tolist() == values[10:].tolist()
