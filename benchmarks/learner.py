"""A learner step four ways: tokens a second, peak memory, and how far from the floor. Neither Ray nor vLLM nor DeepSpeed runs.

    OMP_NUM_THREADS=1 python benchmarks/learner.py                # a CPU: a quarter of an hour on an idle core
    python benchmarks/learner.py --model 1.5b --seconds 20        # a GPU

padded      rows are a prompt, padded left, and a completion, padded right, to the longest; logits of every completion position, kept for
            the backward (TRL's GRPOTrainer without its fused kernels: `_get_per_token_logps_and_entropies`)
packed      no padding: sequences follow one another; logits of every completion token
chunked     the same rows; log-probabilities come from chunks of logits that are then dropped
shared      as chunked, and the prompt of a group is computed once for each block: what the learner does

Each variant runs in a process of its own, on the same model (random weights, 151,936 tokens of vocabulary, LoRA r 16 on all linear layers)
and the same data: one group for each of `--prompts` prompts, completions of 25 to 100 % of the longest. A step is forward, backward and AdamW.
Losses and gradient norms must agree.

On a CPU, seconds are the process's own processor seconds, because other processes disturb them less than wall time. Use one thread: idle threads
spin. On a GPU, seconds are wall time.

The floor is the operations that no variant can avoid (prompts once a group, nothing twice, frozen weights without gradient:
`learner.engine.throughput.FlopCount`) at the rate of a large matrix product in the same process, measured before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # this folder has a file of the same name as the package

from learner.engine.throughput import FlopCount, allowed_pairs, peak_flops, peak_memory_bytes  # noqa: E402
from learner.model.policy import Policy  # noqa: E402
from learner.packing import MicroBatch, TrainedCompletion, TrainedGroup, pack  # noqa: E402

VOCABULARY = 151_936
VARIANTS = ("padded", "packed", "chunked", "shared")
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
MODELS = {"tiny": (128, 8, 4, 2, 2432), "0.5b": (896, 24, 14, 2, 4864), "1.5b": (1536, 28, 12, 2, 8960)}
"""`tiny` is for CPUs: 28 M parameters, 19 M of them in the head and 8 M in the layers. The others have the shapes of Qwen2.5."""


@dataclass(frozen=True)
class Case:
    """The measurement that one process makes. Lengths are in tokens; `budget` is that of one micro-batch, padding included."""

    variant: str
    model: str
    prompt: int
    completion: int
    group: int
    prompts: int
    budget: int
    seconds: float
    checkpointing: bool
    attention: str


@dataclass(frozen=True)
class Measured:
    loss: float
    grad_norm: float
    positions: int
    """Positions in the rows, padding included."""
    completion_tokens: int
    step_s: float
    peak_bytes: int
    """Peak memory beyond what the imports took."""
    matmul_flops: float
    """Rate of a large matrix product in the model's type, in operations a second."""
    floor_flops: int
    own_flops: int
    """Operations of this variant: prompts that it repeats count, its padding does not."""
    device: str


def random_groups(case: Case) -> list[TrainedGroup]:
    draw = np.random.default_rng(0)

    def completion(length: int) -> TrainedCompletion:
        token_ids = draw.integers(1, VOCABULARY, length).astype(np.int32)
        return TrainedCompletion(token_ids, draw.normal(-np.log(VOCABULARY), 0.5, length).astype(np.float32), float(draw.normal()))

    def group() -> TrainedGroup:
        lengths = draw.integers(case.completion // 4, case.completion + 1, case.group)
        lengths[0] = case.completion
        prompt = draw.integers(1, VOCABULARY, case.prompt).astype(np.int32)
        return TrainedGroup(prompt, tuple(completion(int(length)) for length in lengths))

    return [group() for _ in range(case.prompts)]


def random_policy(case: Case, device: str) -> Policy:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY, tie_word_embeddings=True, max_position_embeddings=32_768, **dict(zip(SIZES, MODELS[case.model], strict=True))
    )  # type: ignore[arg-type]
    config._attn_implementation = case.attention
    with torch.device(device):
        causal: Any = Qwen2ForCausalLM(config)
    causal.to(torch.bfloat16 if device == "cuda" else torch.float32)
    causal.config.use_cache = False
    if case.checkpointing:
        causal.gradient_checkpointing_enable({"use_reentrant": False})
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = Policy(get_peft_model(causal, lora, autocast_adapter_dtype=False), adapted=True, base_model="random")
    for name, parameter in policy.trainable().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0, 0.02)  # a fresh B is 0, which would leave A without a gradient
    return policy.train()


def policy_gradient(logprobs: Tensor, behaviour: Tensor, advantages: Tensor) -> Tensor:
    """The sum of token losses, with truncated importance weights. The choice of objective costs nothing beside the model."""
    weights = torch.exp((logprobs.detach() - behaviour).clamp(max=float(np.log(2.0))))
    return -(weights * torch.exp(logprobs - logprobs.detach()) * advantages).sum()


class Padded:
    """The work of TRL's GRPOTrainer on a batch, in plain transformers."""

    def __init__(self, policy: Policy, groups: Sequence[TrainedGroup], budget: int) -> None:
        self.policy = policy
        pairs = [(group.prompt_ids_T, completion) for group in groups for completion in group.completions]
        self.prompt = max(len(prompt) for prompt, _ in pairs)
        self.completion = max(len(completion.token_ids_T) for _, completion in pairs)
        width = self.prompt + self.completion
        shape = (len(pairs), width)
        self.ids, self.mask, self.behaviour = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for row, (prompt, completion) in enumerate(pairs):
            whole = np.concatenate([prompt, completion.token_ids_T])
            here = slice(self.prompt - len(prompt), self.prompt + len(completion.token_ids_T))
            self.ids[row, here], self.mask[row, here] = whole, 1
            self.behaviour[row, self.prompt : here.stop] = completion.logprobs_T
        self.advantages = np.array([completion.advantage for _, completion in pairs], np.float32)
        rows = max(1, budget // width)
        self.slices = [slice(start, start + rows) for start in range(0, len(pairs), rows)]
        self.positions, self.predictions = self.ids.size, sum(len(completion.token_ids_T) for _, completion in pairs)
        lengths = self.mask.sum(1)
        self.tokens, self.pairs = int(lengths.sum()), int((lengths * (lengths + 1) // 2).sum())

    def losses(self) -> Iterable[Callable[[], Tensor]]:
        return [lambda here=here: self._loss(here) for here in self.slices]

    def _loss(self, here: slice) -> Tensor:
        ids, mask, behaviour, advantages = (
            torch.from_numpy(array[here]).to(self.policy.device) for array in (self.ids, self.mask, self.behaviour, self.advantages)
        )
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self.policy.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=self.completion + 1, use_cache=False
        ).logits[:, :-1]
        logprobs = selective_log_softmax(logits, ids[:, self.prompt :])
        kept = mask[:, self.prompt :].bool()
        return policy_gradient(logprobs[kept], behaviour[:, self.prompt :][kept], advantages[:, None].expand_as(kept)[kept])


class Packed:
    """The learner's rows: with or without shared prompts, with all logits or in chunks."""

    def __init__(self, policy: Policy, groups: Sequence[TrainedGroup], budget: int, *, shared: bool, chunked: bool) -> None:
        if not shared:
            groups = [replace(group, completions=(completion,)) for group in groups for completion in group.completions]
        self.policy, self.chunked = policy, chunked
        self.batches = pack(groups, token_budget=budget, attention_width=policy.attention_width)
        self.positions = sum(batch.token_ids_BT.size for batch in self.batches)
        self.tokens = sum(batch.tokens for batch in self.batches)
        self.predictions = sum(len(batch.source_N) for batch in self.batches)
        self.pairs = sum(map(allowed_pairs, self.batches))

    def losses(self) -> Iterable[Callable[[], Tensor]]:
        return [lambda batch=batch: self._loss(batch) for batch in self.batches]

    def _loss(self, batch: MicroBatch) -> Tensor:
        packed = self.policy.tensors(batch)
        logprobs = self.policy(packed)[0] if self.chunked else self._from_all_logits(packed)
        return policy_gradient(logprobs, packed.behaviour_logprobs_N, packed.advantages_C[packed.completion_N])

    def _from_all_logits(self, packed: Any) -> Tensor:
        causal = self.policy.causal
        output = causal.get_decoder()(
            input_ids=packed.token_ids_BT, position_ids=packed.position_ids_BT, attention_mask=packed.mask, use_cache=False
        )
        logits = causal.get_output_embeddings()(output.last_hidden_state.flatten(0, 1)[packed.source_N])
        return selective_log_softmax(logits[None], packed.target_ids_N[None])[0]


def selective_log_softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """TRL's `selective_log_softmax` and, without gradient, its `entropy_from_logits`: plain torch on all logits, row by row."""
    with torch.no_grad():
        for chunk in logits.flatten(0, -2).split(128):
            logprobs = torch.log_softmax(chunk, -1)
            (torch.exp(logprobs) * logprobs).sum(-1)
    if logits.dtype == torch.float32:
        normalisers = torch.stack([torch.logsumexp(row, -1) for row in logits])
        return logits.gather(-1, targets[..., None])[..., 0] - normalisers
    return torch.stack(
        [torch.log_softmax(row, -1).gather(-1, target[:, None])[:, 0] for row, target in zip(logits, targets, strict=True)]
    ).float()


def now_s(device: str) -> float:
    """Processor seconds of this process; on a GPU, wall seconds until it has finished."""
    if device != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def matmul_flops(dtype: torch.dtype, device: str) -> float:
    """Operations a second of the best of a few products of 2,048 (CPU) or 8,192 (GPU) squared."""
    size = 8192 if device == "cuda" else 2048
    left, right = torch.randn(2, size, size, dtype=dtype, device=device)
    best_s = float("inf")
    for _ in range(5):
        began_s = now_s(device)
        torch.mm(left, right)
        best_s = min(best_s, now_s(device) - began_s)
    return 2 * size**3 / best_s


def floor_flops(count: FlopCount, groups: Sequence[TrainedGroup]) -> int:
    """Operations of a step that computes every prompt and every completion exactly once."""
    tokens = sum(group.tokens for group in groups)
    predictions = sum(len(completion.token_ids_T) for group in groups for completion in group.completions)
    pairs = 0
    for group in groups:
        prompt = len(group.prompt_ids_T)
        own = [len(completion.token_ids_T) - 1 for completion in group.completions]
        pairs += prompt * (prompt + 1) // 2 + sum(prompt * length + length * (length + 1) // 2 for length in own)
    return count.linear_per_token * tokens + count.head_per_prediction * predictions + count.attention_per_pair * pairs


def variant_of(case: Case, policy: Policy, groups: Sequence[TrainedGroup]) -> Padded | Packed:
    if case.variant == "padded":
        return Padded(policy, groups, case.budget)
    return Packed(policy, groups, case.budget, shared=case.variant == "shared", chunked=case.variant != "packed")


def take_step(work: Padded | Packed, optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    """Run one step: (loss, gradient norm). Packing is included only if the caller makes `work` anew."""
    optimizer.zero_grad()
    total = 0.0
    for make_loss in work.losses():
        loss = make_loss() / work.predictions
        loss.backward()
        total += loss.item()
    norm = torch.nn.utils.clip_grad_norm_(work.policy.trainable().values(), 1.0)
    optimizer.step()
    return total, norm.item()


def measure(case: Case) -> Measured:
    """Measure one variant in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    imports_bytes = after_imports(device)
    policy, groups = random_policy(case, device), random_groups(case)
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=0.0, weight_decay=0.0)
    rate = matmul_flops(policy.dtype, device)
    # Warm up. A GPU needs a whole step: kernels are chosen, and FlexAttention compiled, for its shapes. A CPU needs the shortest step.
    first = groups if device == "cuda" else [replace(groups[0], completions=groups[0].completions[-1:])]
    take_step(variant_of(case, policy, first), optimizer)
    began_s = now_s(device)
    work = variant_of(case, policy, groups)
    losses = [take_step(work, optimizer)]
    while now_s(device) - began_s < case.seconds:
        work = variant_of(case, policy, groups)
        losses.append(take_step(work, optimizer))
    step_s = (now_s(device) - began_s) / len(losses)
    peak_bytes = peak_memory_bytes(torch.device(device)) - imports_bytes
    count = FlopCount.of(policy)
    return Measured(
        loss=losses[-1][0],
        grad_norm=losses[-1][1],
        positions=work.positions,
        completion_tokens=work.predictions,
        step_s=step_s,
        peak_bytes=peak_bytes,
        matmul_flops=max(rate, matmul_flops(policy.dtype, device)),
        floor_flops=floor_flops(count, groups),
        own_flops=count.linear_per_token * work.tokens
        + count.head_per_prediction * work.predictions
        + count.attention_per_pair * work.pairs,
        device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
    )


def after_imports(device: str) -> int:
    """Peak memory once everything is imported, before the variant has done anything."""
    import peft  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    torch.zeros(1, device=device)
    return peak_memory_bytes(torch.device(device))


def in_a_process(case: Case) -> Measured | str:
    """Measure in a separate process. Return the measurement, or the last line of the output of a process that failed."""
    done = subprocess.run([sys.executable, __file__, "--case", json.dumps(asdict(case))], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"ended with {done.returncode}: {lines[-1][:60] if lines else ''}"
    return Measured(**json.loads(done.stdout.strip().splitlines()[-1]))


def row_of(variant: str, found: Measured, first: Measured) -> list[str]:
    ideal_s = found.floor_flops / found.matmul_flops
    peak = peak_flops(found.device)
    return [
        variant,
        f"{found.positions:,}",
        f"{found.step_s:.3g}",
        f"{found.completion_tokens / found.step_s:,.0f}",
        f"{first.step_s / found.step_s:.2f}",
        f"{found.peak_bytes / 2**20:,.0f}",
        f"{found.matmul_flops / 1e9:,.0f}",
        f"{found.step_s / ideal_s:.2f}",
        f"{found.own_flops / found.step_s / peak:.1%}" if peak else "",
    ]


def parsed() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="128/512,512/2048,2048/512", help="longest prompt/completion, comma-separated")
    parser.add_argument("--groups", default="4,16", help="completions of a prompt, comma-separated (default 4,16)")
    parser.add_argument("--prompts", type=int, default=8 if on_gpu else 1, help="groups of a step (default 1, 8 on a GPU)")
    parser.add_argument("--model", choices=MODELS, default="0.5b" if on_gpu else "tiny")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--seconds", type=float, default=1.0, help="time steps for so long, at least one (default 1)")
    parser.add_argument("--token-budget", type=int, default=16_384 if on_gpu else 8192, help="of a micro-batch")
    parser.add_argument("--logits-budget", type=int, default=8192 if on_gpu else 2560, help="the same where all logits are kept")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--attention", choices=("sdpa", "eager", "flex_attention"), default="sdpa", help="flex_attention: GPU only")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def case_of(arguments: argparse.Namespace, variant: str, shape: str, group: int) -> Case:
    prompt, completion = map(int, shape.split("/"))
    return Case(
        variant=variant,
        model=arguments.model,
        prompt=prompt,
        completion=completion,
        group=group,
        prompts=arguments.prompts,
        budget=arguments.logits_budget if variant in ("padded", "packed") else arguments.token_budget,
        seconds=arguments.seconds,
        checkpointing=arguments.gradient_checkpointing,
        attention="sdpa" if variant == "padded" else arguments.attention,
    )


def compare(cases: Sequence[Case], title: str, console: Console) -> None:
    """Print the table of some variants on one batch, and how far they agree."""
    table = Table(title=title, title_justify="left")
    for heading in ("variant", "positions", "step (s)", "completion tok/s", "x first", "peak MiB", "matmul GFLOP/s", "x floor", "MFU"):
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    results: list[Measured] = []
    for case in cases:
        found = in_a_process(case)
        results += [found] if isinstance(found, Measured) else []
        table.add_row(*([case.variant, found] if isinstance(found, str) else row_of(case.variant, found, results[0])))
    console.print(table)
    for name in ("loss", "grad_norm") if results else ():
        values = [getattr(found, name) for found in results]
        console.print(f"{name} {values[0]:.6f}, largest difference {max(values) - min(values):.1e}")
    console.print()


def main() -> None:
    arguments = parsed()
    if arguments.case:
        print(json.dumps(asdict(measure(Case(**json.loads(arguments.case))))))
        return
    console = Console(width=140)
    for shape in arguments.shapes.split(","):
        for group in map(int, arguments.groups.split(",")):
            cases = [case_of(arguments, variant, shape, group) for variant in arguments.variants.split(",")]
            compare(cases, f"{arguments.model}, prompt/completion {shape}, group {group} x {arguments.prompts}", console)


if __name__ == "__main__":
    main()
