"""Hidden states -> log-probabilities of given tokens and entropies, without ever holding all logits.

Logits of a chunk of tokens are made, reduced and dropped. Memory is that of one chunk, however many tokens there are and however large the
vocabulary. Example: 4,096 tokens of a 160,000-token vocabulary have 2.6 GB of logits in float32; chunks of 104 tokens take 64 MiB.

    hidden_NH  ┌──────────┐            ┌─────────────────── V ──────────────────┐
      chunk 0  │ 104 rows │ x head ──► │ logits, then probabilities, of chunk 0 │ ──► logprob, entropy, direction of 104 tokens
      chunk 1  │ 104 rows │            │        the same memory, again          │
      ...      └──────────┘            └────────────────────────────────────────┘

The backward needs no logits either. The gradient of a log-probability with respect to its hidden state is, but for one factor, known in the
forward, whatever the loss does with the log-probability later:

    d loss / d hidden = (d loss / d logp) x d logp / d hidden,        d logp / d hidden = (onehot(target) - softmax) W / temperature

So the forward stores the second factor, the *direction*, of the shape of the hidden states, while it has the probabilities at hand, and the
backward multiplies it by the first, one number per token. That is two products with the head in all; recomputing the logits would take three.
(Liger's fused cross-entropy, arXiv:2410.10989, section 3.2, makes its gradient in the forward too, for a loss that is known then.) Only a
head that is trained itself needs the logits again, since all tokens add to its gradient.

Dimensions: `_N` predictions, `_H` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from learner.buffer_sizes import CHUNK_LOGITS


class Predictions(NamedTuple):
    """A model's view of N given tokens: [N] each."""

    logprobs_N: Tensor
    """Log-probabilities of the tokens, in nats; differentiable."""
    entropies_N: Tensor
    """Entropies of the distributions that the tokens were predicted from, in nats; differentiable on request."""
    is_likeliest_N: Tensor
    """True where no other token is more probable."""


def token_logprobs(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_ids_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk_logits: int | None = None,
    entropy_gradient: bool = False,
) -> Predictions:
    """Compute log softmax(hidden W^T / temperature)[target] and the entropy of that distribution, in float32.

    Log-probabilities are differentiable with respect to `hidden_NH` and, if it is trainable, `head_VH`; entropies only with
    `entropy_gradient`, which costs another product with the head. Logits are accumulated in float32 (float64 inputs stay float64).

    Args:
        chunk_logits: largest number of logits at once; two buffers of this size are alive. The default depends on the device.
    """
    chunk_logits = CHUNK_LOGITS[hidden_NH.device.type] if chunk_logits is None else chunk_logits
    rows = max(1, min(chunk_logits // len(head_VH), len(hidden_NH)))
    settings = _Settings(temperature, rows, entropy_gradient)
    return Predictions(*_ChunkedLogProbs.apply(hidden_NH, head_VH, target_ids_N, settings))  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class _Settings:
    temperature: float
    rows: int
    """Tokens of a chunk."""
    entropy_gradient: bool


class _SavedForHead(NamedTuple):
    """Tensors from which the backward computes the gradient of a trained head."""

    hidden_NH: Tensor
    head_VH: Tensor
    target_ids_N: Tensor
    normaliser_N: Tensor
    """log of the sum of exp(logits): log-probabilities are logits less this."""
    entropy_N: Tensor


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, head_VH: Tensor, target_ids_N: Tensor, settings: _Settings) -> tuple[Tensor, Tensor, Tensor]:
        rows, temperature = settings.rows, settings.temperature
        dtype = torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32
        logprob_N, entropy_N, normaliser_N = hidden_NH.new_empty((3, len(hidden_NH)), dtype=dtype)
        is_likeliest_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.bool)
        direction_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        entropy_direction_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] and settings.entropy_gradient else None
        # Every chunk writes to the same two buffers: memory that is freed would go back to the system, which clears it before it returns.
        logits_buffer, probability_buffer = hidden_NH.new_empty((2, rows, len(head_VH)), dtype=dtype)
        for start in range(0, len(hidden_NH), rows):
            here = slice(start, start + rows)
            hidden, targets = hidden_NH[here], target_ids_N[here, None]
            logits = _logits(hidden, head_VH, temperature, out=logits_buffer[: len(hidden)])
            maximum = logits.amax(dim=-1)
            logits.sub_(maximum[:, None])
            probabilities = torch.exp(logits, out=probability_buffer[: len(hidden)])  # not divided by `total` yet
            total = probabilities.sum(dim=-1)
            below_maximum = logits.gather(1, targets)[:, 0]
            logprob_N[here] = below_maximum - total.log()
            is_likeliest_N[here] = below_maximum == 0
            weighted = logits.mul_(probabilities)
            entropy_N[here] = total.log() - weighted.sum(dim=-1) / total
            normaliser_N[here] = maximum + total.log()
            if entropy_direction_NH is not None:
                slope = _entropy_slope(weighted, probabilities, total, entropy_N[here], temperature)
                entropy_direction_NH[here] = slope.to(head_VH.dtype) @ head_VH
            if direction_NH is not None:
                direction_NH[here] = _onehot_minus(probabilities, total, targets, temperature).to(head_VH.dtype) @ head_VH
        for_head = (hidden_NH, head_VH, target_ids_N, normaliser_N, entropy_N) if ctx.needs_input_grad[1] else ()
        ctx.save_for_backward(direction_NH, entropy_direction_NH, *for_head)
        ctx.settings = settings
        ctx.mark_non_differentiable(is_likeliest_N, *(() if settings.entropy_gradient else (entropy_N,)))
        return logprob_N, entropy_N, is_likeliest_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        direction_NH, entropy_direction_NH, *for_head = ctx.saved_tensors
        settings: _Settings = ctx.settings
        gradient_N1, entropy_gradient_N1 = grad_outputs[0][:, None], grad_outputs[1][:, None] if settings.entropy_gradient else None
        grad_hidden_NH = None
        if direction_NH is not None:
            grad_hidden_NH = direction_NH * gradient_N1
            if entropy_direction_NH is not None:
                grad_hidden_NH = grad_hidden_NH + entropy_direction_NH * entropy_gradient_N1
            grad_hidden_NH = grad_hidden_NH.to(direction_NH.dtype)
        grad_head_VH = _head_gradient(_SavedForHead(*for_head), gradient_N1, entropy_gradient_N1, settings) if for_head else None
        return grad_hidden_NH, grad_head_VH, None, None


def _head_gradient(saved: _SavedForHead, gradient_N1: Tensor, entropy_gradient_N1: Tensor | None, settings: _Settings) -> Tensor:
    """Sum d loss / d logits x hidden over all tokens, chunk by chunk: [V, H]."""
    grad_head_VH = torch.zeros_like(saved.head_VH, dtype=saved.normaliser_N.dtype)
    for start in range(0, len(saved.hidden_NH), settings.rows):
        here = slice(start, start + settings.rows)
        hidden, normaliser = saved.hidden_NH[here], saved.normaliser_N[here]
        logprobs = _logits(hidden, saved.head_VH, settings.temperature, out=normaliser.new_empty((len(hidden), len(saved.head_VH))))
        logprobs.sub_(normaliser[:, None])
        probabilities = logprobs.exp()
        ones = torch.ones_like(normaliser)
        slope = None
        if entropy_gradient_N1 is not None:
            slope = _entropy_slope(logprobs.mul_(probabilities), probabilities, ones, saved.entropy_N[here], settings.temperature)
            slope = slope * entropy_gradient_N1[here]
        grad_logits = _onehot_minus(probabilities, ones, saved.target_ids_N[here, None], settings.temperature).mul_(gradient_N1[here])
        grad_head_VH.addmm_((grad_logits if slope is None else grad_logits.add_(slope)).T, hidden.to(grad_logits.dtype))
    return grad_head_VH.to(saved.head_VH.dtype)


def _entropy_slope(weighted: Tensor, probabilities: Tensor, total: Tensor, entropies: Tensor, temperature: float) -> Tensor:
    """Compute dH / d logits = -p (log p + H) / temperature, in the memory of `weighted`.

    Here p = `probabilities` / `total`, and `weighted` = `probabilities` x (log p + log `total`).
    """
    weighted.addcmul_(probabilities, (entropies - total.log())[:, None])
    return weighted.mul_((-1.0 / (total * temperature))[:, None])


def _onehot_minus(probabilities: Tensor, total: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Compute d logp(target) / d logits = (onehot(target) - probabilities / total) / temperature, in the memory of `probabilities`."""
    probabilities.mul_((-1.0 / (total * temperature))[:, None])
    return probabilities.scatter_add_(1, targets, torch.full_like(targets, 1.0 / temperature, dtype=probabilities.dtype))


def _logits(hidden: Tensor, head_VH: Tensor, temperature: float, *, out: Tensor) -> Tensor:
    """Compute logits into `out`, accumulated in its type."""
    if hidden.dtype == out.dtype:
        torch.mm(hidden, head_VH.T, out=out)
    elif hidden.is_cuda:
        torch.mm(hidden, head_VH.T, out_dtype=out.dtype, out=out)
    else:
        torch.mm(hidden.to(out.dtype), head_VH.to(out.dtype).T, out=out)
    return out.div_(temperature) if temperature != 1.0 else out
