"""GRPO in one file: torch, transformers and peft, no cluster. It teaches the algorithm, and rollcast's numerics tests compare with it.

    python -m examples.grpo_in_one_file          # about three minutes on one CPU core

A tiny model learns to add two-digit numbers, writing its working: `17+25=` -> `7+5=12,1+2+1=4#42.`
First it imitates demonstrations. Most of them forget the carry, so it is right about a third of the time. Then GRPO trains a LoRA adapter on the
frozen model until it is nearly always right. GRPO sees no demonstration; it is told only whether the number after `#` is right.

One GRPO step (DeepSeekMath, arXiv:2402.03300):
  1. sample G completions for each of a few prompts;
  2. reward each completion; its advantage is its reward minus its group's mean, over the group's standard deviation;
  3. raise the log-probability of tokens in proportion to their completion's advantage.

The real system differs in this: sampling, rewards and training run in separate processes at the same time; sequences are packed, not padded;
log-probabilities never need all logits at once; the optimizer is sharded over ranks. The numbers must be the same.

Dimensions: `_B` sequences, `_T` tokens (prompt and completion), `_P` prompts, `_G` completions of a prompt, `_V` vocabulary.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

PAD, END = 0, 1
CHARACTERS = "\0.0123456789+=,#"  # a character's token id is its index here: padding, end of text, then the rest
NUM_PROMPTS, NUM_GENERATIONS, MAX_COMPLETION_LENGTH = 16, 8, 24
WARM_START_STEPS, GRPO_STEPS = 250, 100


# ---------------------------------------------------------------------------------------------------------------- the task


def encode(text: str) -> list[int]:
    return [CHARACTERS.index(character) for character in text]


def decode(token_ids: list[int]) -> str:
    return "".join(CHARACTERS[token_id] for token_id in token_ids if token_id != PAD)


def make_prompt(a: int, b: int) -> str:
    return f"{a:02d}+{b:02d}="


def demonstration(a: int, b: int, *, carries: bool) -> str:
    """Write the working: units, then tens, with the carry or (as most demonstrations do) without it."""
    units = a % 10 + b % 10
    carry = units // 10 if carries else 0
    tens = a // 10 + b // 10 + carry
    return f"{a % 10}+{b % 10}={units:02d},{a // 10}+{b // 10}+{carry}={tens:02d}#{10 * tens + units % 10}."


def reward(text: str, a: int, b: int) -> float:
    """Return 1 if the text ends in `#<the sum>.`, else 0."""
    return float(text.endswith(f"#{a + b}.") and text.count("#") == 1)


# ------------------------------------------------------------------------------------------------------ the algorithm


@dataclass
class Batch:
    """Right-padded sequences. `completion_mask_BT` marks the sampled tokens; only those are trained on."""

    token_ids_BT: Tensor
    attention_mask_BT: Tensor
    completion_mask_BT: Tensor
    behaviour_logprobs_BT: Tensor
    """Log-probabilities under the policy that sampled, at the sampling temperature. Ignored where the mask is 0."""
    advantages_B: Tensor


def group_advantages(rewards_PG: Tensor) -> Tensor:
    """Compute (r - mean) / (std + 1e-4) within each group (arXiv:2402.03300, section 4.1.2; the epsilon is TRL's)."""
    mean_P1, std_P1 = rewards_PG.mean(dim=1, keepdim=True), rewards_PG.std(dim=1, keepdim=True)
    return (rewards_PG - mean_P1) / (std_P1 + 1e-4)


def token_logprobs(model: torch.nn.Module, batch: Batch, temperature: float) -> Tensor:
    """Compute log pi(token t | tokens before t) for every t: [B, T]. It is 0 for t = 0, which nothing predicts."""
    logits_BTV = model(input_ids=batch.token_ids_BT, attention_mask=batch.attention_mask_BT).logits[:, :-1] / temperature
    logprobs_BT = torch.log_softmax(logits_BTV, dim=-1).gather(2, batch.token_ids_BT[:, 1:, None])[:, :, 0]
    return torch.nn.functional.pad(logprobs_BT, (1, 0))


def average(values_BT: Tensor, mask_BT: Tensor, loss_type: str, max_completion_length: int) -> Tensor:
    """Reduce token losses to one number. The loss types (TRL's names) differ only in this."""
    values_BT = values_BT * mask_BT
    if loss_type == "grpo":  # every completion counts the same, however long
        return (values_BT.sum(1) / mask_BT.sum(1)).mean()
    if loss_type == "dr_grpo":  # divided by a constant, so that length has no influence at all
        return values_BT.sum() / (len(values_BT) * max_completion_length)
    return values_BT.sum() / mask_BT.sum()  # bnpo, dapo: every token counts the same


def grpo_loss(
    logprobs_BT: Tensor,
    batch: Batch,
    *,
    reference_logprobs_BT: Tensor | None = None,
    loss_type: str = "bnpo",
    beta: float = 0.0,
    epsilon: float = 0.2,
    importance_sampling_mode: str = "token_truncate",
    importance_sampling_cap: float = 2.0,
    max_completion_length: int = MAX_COMPLETION_LENGTH,
) -> Tensor:
    """The clipped, importance-weighted policy gradient loss with a KL penalty (arXiv:2402.03300, equations 3 and 4)."""
    mask_BT = batch.completion_mask_BT
    old_BT = logprobs_BT.detach()  # one update a step: the old policy is the one we differentiate
    # If the sampler was an older policy, or rounds differently, weight each token by how much likelier it is now; truncate the weight.
    difference_BT = (old_BT - batch.behaviour_logprobs_BT) * mask_BT
    if importance_sampling_mode == "sequence_truncate":
        difference_BT = difference_BT.sum(1, keepdim=True).expand_as(difference_BT)
    weight_BT = difference_BT.exp().clamp(max=importance_sampling_cap)

    ratio_BT = (logprobs_BT - old_BT).exp()  # its value is 1, but it carries the gradient
    advantages_B1 = batch.advantages_B[:, None]
    clipped_BT = ratio_BT.clamp(1 - epsilon, 1 + epsilon)
    loss_BT = -weight_BT * torch.minimum(ratio_BT * advantages_B1, clipped_BT * advantages_B1)
    if reference_logprobs_BT is not None:
        gap_BT = reference_logprobs_BT - logprobs_BT
        loss_BT = loss_BT + beta * (gap_BT.exp() - gap_BT - 1)  # Schulman's k3 estimate of the KL divergence
    return average(loss_BT, mask_BT, loss_type, max_completion_length)


def grpo_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    temperature: float = 1.0,
    max_grad_norm: float = 1.0,
    **objective: object,
) -> tuple[float, float]:
    """Do one update. `objective` has the keyword arguments of `grpo_loss`. Returns (loss, gradient norm before clipping)."""
    reference_logprobs_BT = None
    if objective.get("beta"):
        with torch.no_grad(), model.disable_adapter():  # type: ignore[operator]  # the reference is the model without its adapter
            reference_logprobs_BT = token_logprobs(model, batch, temperature)
    loss = grpo_loss(token_logprobs(model, batch, temperature), batch, reference_logprobs_BT=reference_logprobs_BT, **objective)  # type: ignore[arg-type]
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], max_grad_norm)
    optimizer.step()
    return loss.item(), norm.item()


# ---------------------------------------------------------------------------------------------------- putting it to work


def make_model() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(CHARACTERS),
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=384,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        initializer_range=0.05,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
    )
    return Qwen2ForCausalLM(config)


def warm_start(model: Qwen2ForCausalLM, rng: random.Random, steps: int) -> None:
    """Imitate demonstrations, most of which forget the carry."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - 0.9 * step / steps)
        rows = []
        for _ in range(32):
            a, b = rng.randrange(100), rng.randrange(100)
            rows.append((encode(make_prompt(a, b)), encode(demonstration(a, b, carries=rng.random() < 0.25))))
        batch = pad([prompt for prompt, _ in rows], [completion for _, completion in rows])
        loss = average(-token_logprobs(model, batch, 1.0), batch.completion_mask_BT, "bnpo", MAX_COMPLETION_LENGTH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"warm start {step + 1:4d}/{steps}  loss {loss.item():.3f}", flush=True)


def pad(prompts: list[list[int]], completions: list[list[int]]) -> Batch:
    """Right-pad prompt + completion. The caller fills in log-probabilities and advantages."""
    shape = (len(prompts), max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True)))
    batch = Batch(
        torch.full(shape, PAD), torch.zeros(shape, dtype=torch.long), torch.zeros(shape), torch.zeros(shape), torch.zeros(len(prompts))
    )
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt) + len(completion)
        batch.token_ids_BT[row, :end] = torch.tensor(prompt + completion)
        batch.attention_mask_BT[row, :end] = 1
        batch.completion_mask_BT[row, len(prompt) : end] = 1
    return batch


@torch.no_grad()
def sample(model: torch.nn.Module, prompts: list[list[int]], *, greedy: bool = False) -> tuple[list[list[int]], list[Tensor]]:
    """Sample completions of equally long prompts, with the log-probability of each sampled token."""
    model.eval()
    out = model.generate(  # type: ignore[operator]
        input_ids=torch.tensor(prompts),
        attention_mask=torch.ones(len(prompts), len(prompts[0]), dtype=torch.long),
        do_sample=not greedy,
        max_new_tokens=MAX_COMPLETION_LENGTH,
        return_dict_in_generate=True,
        output_logits=True,
    )
    model.train()
    sampled_BT = out.sequences[:, len(prompts[0]) :]
    logprobs_BT = torch.stack(out.logits, dim=1).log_softmax(-1).gather(2, sampled_BT[:, :, None])[:, :, 0]
    completions = [row[: row.index(END) + 1] if END in row else row for row in sampled_BT.tolist()]
    return completions, [logprobs_BT[i, : len(completion)] for i, completion in enumerate(completions)]


def accuracy(model: torch.nn.Module) -> float:
    """Measure greedy accuracy on 200 fixed sums."""
    rng = random.Random(1234)
    sums = [(rng.randrange(100), rng.randrange(100)) for _ in range(200)]
    completions, _ = sample(model, [encode(make_prompt(a, b)) for a, b in sums], greedy=True)
    return sum(reward(decode(completion), a, b) for completion, (a, b) in zip(completions, sums, strict=True)) / len(sums)


def rollout(model: torch.nn.Module, rng: random.Random) -> tuple[Batch, float]:
    """Sample, reward and compare: return a batch to train on, and the mean reward."""
    sums = [(rng.randrange(100), rng.randrange(100)) for _ in range(NUM_PROMPTS)]
    repeated = [pair for pair in sums for _ in range(NUM_GENERATIONS)]
    prompts = [encode(make_prompt(a, b)) for a, b in repeated]
    completions, logprobs = sample(model, prompts)
    rewards_B = torch.tensor([reward(decode(completion), a, b) for completion, (a, b) in zip(completions, repeated, strict=True)])
    batch = pad(prompts, completions)
    batch.advantages_B = group_advantages(rewards_B.view(NUM_PROMPTS, NUM_GENERATIONS)).flatten()
    for row, logprobs_T in enumerate(logprobs):
        batch.behaviour_logprobs_BT[row, len(prompts[row]) : len(prompts[row]) + len(logprobs_T)] = logprobs_T
    return batch, rewards_B.mean().item()


def main() -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    base = make_model()
    warm_start(base, rng, WARM_START_STEPS)
    model = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
    before = accuracy(model)
    print(f"greedy accuracy before GRPO: {before:.2f}")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(GRPO_STEPS):
        batch, mean_reward = rollout(model, rng)
        loss, grad_norm = grpo_step(model, optimizer, batch)
        if (step + 1) % 10 == 0:
            print(f"step {step + 1:3d}/{GRPO_STEPS}  reward {mean_reward:.2f}  loss {loss:+.3f}  gradient norm {grad_norm:.2f}", flush=True)
    print(f"greedy accuracy: {before:.2f} before GRPO, {accuracy(model):.2f} after")


if __name__ == "__main__":
    main()
