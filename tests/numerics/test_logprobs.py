"""Log-probabilities: chunked against whole, packed against unpacked, ours against transformers in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from configs.schema.model import LoraSection, ModelSection
from learner.model.logprob import token_logprobs
from learner.model.policy import Policy
from learner.packing import TrainedCompletion, TrainedGroup, pack
from tests.learner.rollouts import VOCABULARY, trained_groups

# float32 against float64: two layers of sums of 32 to 64 terms, logits up to about 10: 10 x 64 x 2^-24 = 4e-5 at worst; 2e-5 is what
# rounding that does not conspire leaves.
TOLERANCE = 2e-5


@pytest.mark.parametrize("chunk_logits", [1, 3 * 50, 1 << 20])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunks_change_neither_values_nor_gradients(chunk_logits: int, temperature: float) -> None:
    torch.manual_seed(0)
    hidden_NH = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    head_VH = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    target_ids_N = torch.randint(0, 50, (11,))
    weight_N = torch.randn(11, dtype=torch.float64)
    distribution = torch.distributions.Categorical(logits=hidden_NH @ head_VH.T / temperature)
    expected = torch.autograd.grad((distribution.log_prob(target_ids_N) * weight_N).sum(), (hidden_NH, head_VH))
    logprobs_N, entropies_N, _ = token_logprobs(hidden_NH, head_VH, target_ids_N, temperature=temperature, chunk_logits=chunk_logits)
    gradients = torch.autograd.grad((logprobs_N * weight_N).sum(), (hidden_NH, head_VH))
    torch.testing.assert_close(logprobs_N, distribution.log_prob(target_ids_N), rtol=0, atol=1e-12)  # float64 throughout: rounding only
    torch.testing.assert_close(entropies_N, distribution.entropy(), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("chunk_logits", [1, 3 * 20, 1 << 20])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_entropies_are_differentiated_when_asked(chunk_logits: int, temperature: float) -> None:
    torch.manual_seed(0)
    hidden_NH = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    head_VH = torch.randn(20, 5, dtype=torch.float64, requires_grad=True)
    target_ids_N = torch.randint(0, 20, (7,))

    def both(hidden_NH: torch.Tensor, head_VH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        options = {"temperature": temperature, "chunk_logits": chunk_logits}
        return token_logprobs(hidden_NH, head_VH, target_ids_N, entropy_gradient=True, **options)[:2]  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(both, (hidden_NH, head_VH))  # finite differences in float64: its own tolerances
    distribution = torch.distributions.Categorical(logits=hidden_NH @ head_VH.T / temperature)
    weights_N = torch.linspace(-1, 2, 7, dtype=torch.float64)
    expected = torch.autograd.grad((distribution.entropy() * weights_N).sum(), (hidden_NH, head_VH))
    entropies_N = both(hidden_NH, head_VH)[1]
    gradients = torch.autograd.grad((entropies_N * weights_N).sum(), (hidden_NH, head_VH))
    torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-12)  # float64 throughout: rounding only
    assert not token_logprobs(hidden_NH, head_VH, target_ids_N)[1].requires_grad


def test_bfloat16_logits_are_accumulated_in_float32() -> None:
    torch.manual_seed(0)
    hidden_NH, head_VH = torch.randn(5, 64).bfloat16(), torch.randn(40, 64).bfloat16()
    target_ids_N = torch.randint(0, 40, (5,))
    logprobs_N = token_logprobs(hidden_NH, head_VH, target_ids_N).logprobs_N
    exact = torch.log_softmax(hidden_NH.double() @ head_VH.double().T, -1).gather(1, target_ids_N[:, None])[:, 0]
    # Logits are about 8, so holding them in bfloat16 would cost 8 x 2^-9 = 0.016; float32 sums of 64 terms cost 1e-5.
    assert (logprobs_N - exact).abs().max() < 1e-4


def test_the_gradient_of_a_confident_token_keeps_its_digits_in_bfloat16() -> None:
    """It is (1 - p) times a difference of head rows: were p rounded to bfloat16 before it is taken from 1, nothing would be left."""
    torch.manual_seed(0)
    head_VH = torch.randn(40, 64).bfloat16()
    hidden_NH = (8.5 * head_VH[:5].double() / head_VH[:5].double().square().sum(1, keepdim=True)).bfloat16().requires_grad_()
    target_ids_N = torch.arange(5)
    (gradient,) = torch.autograd.grad(token_logprobs(hidden_NH, head_VH, target_ids_N)[0].sum(), hidden_NH)
    exact_NH = hidden_NH.detach().double().requires_grad_()
    logprobs_N = torch.log_softmax(exact_NH @ head_VH.double().T, -1).gather(1, target_ids_N[:, None])
    assert (torch.exp(logprobs_N) > 0.96).all() and (torch.exp(logprobs_N) < 0.9995).all()
    (expected,) = torch.autograd.grad(logprobs_N.sum(), exact_NH)
    # Factors of the head and the result are rounded to 8 bits each: 2^-8 of the largest terms.
    assert (gradient - expected).abs().max() < 2**-7 * expected.abs().max()


def policy_of(path: Path) -> Policy:
    policy = Policy.load(ModelSection(path=str(path), dtype="float32", lora=LoraSection(r=4, alpha=8.0)), str(path))
    with torch.no_grad():
        for name, parameter in policy.trainable().items():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)  # a fresh B is 0, and the adapter would do nothing
    return policy


def padded_float64(policy: Policy, groups: list[TrainedGroup]) -> dict[bytes, tuple[np.ndarray, np.ndarray]]:
    """Every sequence alone through transformers in float64: (log-probabilities, entropies) by its tokens."""
    policy.double().eval()
    found = {}
    for group in groups:
        for completion in group.completions:
            token_ids = np.concatenate([group.prompt_ids_T, completion.token_ids_T]).astype(np.int64)
            logits = policy.model(input_ids=torch.from_numpy(token_ids)[None]).logits[0, len(group.prompt_ids_T) - 1 : -1]
            distribution = torch.distributions.Categorical(logits=logits)
            logprobs_T = distribution.log_prob(torch.from_numpy(completion.token_ids_T.astype(np.int64)))
            found[completion.token_ids_T.tobytes()] = (logprobs_T.detach().numpy(), distribution.entropy().detach().numpy())
    policy.float().train()
    return found


@pytest.mark.parametrize(("token_budget", "attention_width"), [(64, 1.0), (4096, 1e9)])
def test_packed_rows_give_what_transformers_gives_for_each_sequence_alone(
    tiny_qwen2: Path, token_budget: int, attention_width: float
) -> None:
    policy = policy_of(tiny_qwen2)
    groups = trained_groups(1, prompts=5)
    expected = padded_float64(policy, groups)
    seen = 0
    for batch in pack(groups, token_budget=token_budget, attention_width=attention_width):
        logprobs_N, entropies_N = (part.detach().numpy() for part in policy(policy.tensors(batch))[:2])
        ends = np.cumsum(batch.lengths_C)
        for start, end in zip(ends - batch.lengths_C, ends, strict=True):
            target_ids_T = batch.target_ids_N[start:end].astype(np.int32)
            logprobs_T, entropy_T = expected[target_ids_T.tobytes()]
            assert np.abs(logprobs_N[start:end] - logprobs_T).max() < TOLERANCE
            assert np.abs(entropies_N[start:end] - entropy_T).max() < TOLERANCE
            seen += 1
    assert seen == len(expected) == 20


def completion(seed: int, length: int) -> TrainedCompletion:
    token_ids_T = np.random.default_rng(seed).integers(1, VOCABULARY, length).astype(np.int32)
    return TrainedCompletion(token_ids_T, np.full(length, -4.0, np.float32), 1.0)


@pytest.mark.parametrize("longest", [1, 240])
@pytest.mark.parametrize("prompt_tokens", [1, 9])
def test_the_shortest_beside_the_longest_and_only_the_shortest(tiny_qwen2: Path, prompt_tokens: int, longest: int) -> None:
    """Completions of one token are predicted by the prompt alone and take no place in a row; 249 tokens is what the budget holds."""
    policy = policy_of(tiny_qwen2)
    prompts = [np.arange(1 + i, 1 + i + prompt_tokens, dtype=np.int32) for i in range(2)]
    groups = [TrainedGroup(prompt, (completion(7 + i, 1), completion(40 + i, longest))) for i, prompt in enumerate(prompts)]
    expected = [value for group in groups for value in padded_float64(policy, [group]).items()]
    found: list[tuple[bytes, np.ndarray, np.ndarray]] = []
    for batch in pack(groups, token_budget=256, attention_width=policy.attention_width):
        logprobs_N, entropies_N, _ = policy(policy.tensors(batch))
        logprobs_N.sum().backward()
        ends = np.cumsum(batch.lengths_C)
        for start, end in zip(ends - batch.lengths_C, ends, strict=True):
            part = slice(start, end)
            found.append(
                (batch.target_ids_N[part].astype(np.int32).tobytes(), *(x[part].detach().numpy() for x in (logprobs_N, entropies_N)))
            )
    assert len(found) == len(expected) == 4
    for token_bytes, (logprobs_T, entropy_T) in expected:
        candidates = [(ours_T, h_T) for ours_bytes, ours_T, h_T in found if ours_bytes == token_bytes]
        # Over 240 tokens the worst of many roundings is seen: three times the usual tolerance.
        assert any(
            np.abs(ours_T - logprobs_T).max() < 3 * TOLERANCE and np.abs(h_T - entropy_T).max() < 3 * TOLERANCE
            for ours_T, h_T in candidates
        )
    assert all(parameter.grad is not None and bool(torch.isfinite(parameter.grad).all()) for parameter in policy.trainable().values())
