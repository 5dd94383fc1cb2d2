"""Hidden states -> log-probabilities of given tokens and entropies, without ever holding all logits.

Logits of a chunk of tokens are made, reduced and dropped; the backward makes them again. Memory is that of one chunk,
however many tokens and however large the vocabulary.

Dimensions: `_N` predictions, `_H` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_LOGITS = 1 << 24
"""Most logits that exist at once: 64 MiB in float32."""


def token_logprobs(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_ids_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk_logits: int = CHUNK_LOGITS,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden W^T / temperature)[target], and the entropy of that distribution, both in nats and float32 [N].

    The log-probabilities are differentiable with respect to `hidden_NH` and, where it is trainable, `head_VH`, the
    entropies only with `entropy_gradient`, which costs another chunk of memory. Logits are accumulated in float32 (float64 inputs stay
    float64).
    """
    return _ChunkedLogProbs.apply(hidden_NH, head_VH, target_ids_N, temperature, chunk_logits, entropy_gradient)  # type: ignore[return-value]


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        target_ids_N: Tensor,
        temperature: float,
        chunk_logits: int,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, chunk_logits // len(head_VH))
        logprobs, entropies, normalisers = [], [], []
        for hidden, targets in zip(hidden_NH.split(rows), target_ids_N.split(rows), strict=True):
            logits = _logits(hidden, head_VH, temperature)
            normaliser = torch.logsumexp(logits, dim=-1)
            logprobs.append(logits.gather(1, targets[:, None])[:, 0] - normaliser)
            # Entropy is lse - E[logit]; the logits are no longer needed, so their memory takes the probabilities.
            expected = torch.linalg.vecdot(torch.exp(logits - normaliser[:, None]), logits)
            entropies.append(normaliser - expected)
            normalisers.append(normaliser)
        entropy_N = torch.cat(entropies)
        ctx.save_for_backward(hidden_NH, head_VH, target_ids_N, torch.cat(normalisers), entropy_N if entropy_gradient else None)
        ctx.temperature, ctx.rows = temperature, rows
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_N)
        return torch.cat(logprobs), entropy_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, head_VH, target_ids_N, normaliser_N, entropy_N = ctx.saved_tensors
        grad_hidden_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        grad_head_VH = torch.zeros_like(head_VH, dtype=normaliser_N.dtype) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden_NH), ctx.rows):
            here = slice(start, start + ctx.rows)
            hidden, gradient = hidden_NH[here], grad_outputs[0][here, None]
            logprobs = _logits(hidden, head_VH, ctx.temperature).sub_(normaliser_N[here, None])
            # d logp / d logits = onehot(target) - p, with p = softmax(logits), and dH / d logits = -p (log p + H)
            if entropy_N is None:
                grad_logits = logprobs.exp_().mul_(-gradient)
            else:
                factor = (logprobs + entropy_N[here, None]).mul_(grad_outputs[1][here, None]).add_(gradient)
                grad_logits = logprobs.exp_().mul_(factor).neg_()
            grad_logits.scatter_add_(1, target_ids_N[here, None], gradient).div_(ctx.temperature)
            if grad_hidden_NH is not None:
                grad_hidden_NH[here] = grad_logits.to(head_VH.dtype) @ head_VH
            if grad_head_VH is not None:
                grad_head_VH += grad_logits.T @ hidden.to(grad_logits.dtype)
        return grad_hidden_NH, None if grad_head_VH is None else grad_head_VH.to(head_VH.dtype), None, None, None, None


def _logits(hidden: Tensor, head_VH: Tensor, temperature: float) -> Tensor:
    if hidden.dtype in (torch.float32, torch.float64):
        logits = hidden @ head_VH.T
    elif hidden.is_cuda:
        logits = torch.mm(hidden, head_VH.T, out_dtype=torch.float32)
    else:
        logits = hidden.float() @ head_VH.float().T
    return logits.div_(temperature) if temperature != 1.0 else logits
