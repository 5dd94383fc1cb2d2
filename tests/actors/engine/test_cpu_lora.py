"""The matrix products on the CPU, against the definition of LoRA in float64.

Runs in a process of its own: importing vllm sets process-wide state that other tests must not see.
"""

from __future__ import annotations

import os
import subprocess
import sys

CHECK = """
import torch
from actors.engine.cpu_lora import rows_by_slot
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

torch.manual_seed(0)
slots, r, width_in, widths = 2, 8, 32, (32, 16, 16)
a = tuple(torch.randn(slots, 1, r, width_in) for _ in widths)
b = tuple(torch.randn(slots, 1, width, r) for width in widths)
reference = [(x.double().clone(), y.double().clone()) for x, y in zip(a, b)]
wrapper = PunicaWrapperCPU(64, 64, torch.device("cpu"))
stacked_a, stacked_b = a, b

def check(lora_ids, scale):
    wrapper.update_metadata(LoRAMapping(tuple(lora_ids), tuple(lora_ids), True), [7, 9], slots, 100)
    x, y = torch.randn(len(lora_ids), width_in), torch.randn(len(lora_ids), sum(widths))
    expected = y.double().clone()
    for row, lora_id in enumerate(lora_ids):
        if lora_id:
            slot = {7: 0, 9: 1}[lora_id]
            parts = [scale * (x[row].double() @ A[slot, 0].T) @ B[slot, 0].T for A, B in reference]
            expected[row] += torch.cat(parts)
    with torch.inference_mode():
        out = y.clone()
        wrapper.add_lora_linear(out, x, stacked_a, stacked_b, scale, widths)
    # float32: 8 + 32 products of unit normals, each rounded to 6e-8 of sums up to about 100
    assert (out.double() - expected).abs().max() < 1e-4, (out.double() - expected).abs().max()
    untouched = [row for row, lora_id in enumerate(lora_ids) if not lora_id]
    assert torch.equal(out[untouched], y[untouched]), "rows of the base model changed"

for ids in ([7] * 5, [9] * 5, [7, 9, 7, 0, 9], [0, 0, 0], [0, 7], [9, 0]):
    for scale in (1.0, 0.5):
        check(ids, scale)

# vLLM loads a new adapter by copying into the tensors that it was given: the products must see it
with torch.no_grad():
    for A, B in zip(a, b):
        A[0].copy_(torch.randn(1, r, width_in))
        B[0].copy_(torch.randn(1, B.shape[2], r))
reference = [(x.double().clone(), y.double().clone()) for x, y in zip(a, b)]
check([7, 9, 0, 7], 1.0)
assert rows_by_slot((1, 1), {1: 0}) == [(0, slice(None))]
print("products agree")
"""


def test_products_agree_with_the_definition() -> None:
    env = os.environ | {"PYTHONPATH": os.getcwd(), "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run([sys.executable, "-c", CHECK], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert "products agree" in done.stdout, done.stderr[-3000:]
