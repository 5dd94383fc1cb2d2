"""Hidden states -> log-probabilities of given tokens and entropies, without ever holding all logits.

Logits of a chunk of tokens are made, reduced and dropped. Memory is that of one chunk, however many tokens and however large the
vocabulary.

The backward needs no logits either. The gradient of a log-probability with respect to its hidden state does not depend on what is done
with the log-probability later, except by a factor: d logp / d hidden = (onehot(target) - softmax) W / temperature. So the forward leaves
that *direction* in the place of the hidden state, while it has the probabilities at hand, and the backward multiplies it by the incoming
gradient: two products with the head in all, where recomputing the logits would need three (Liger's fused cross-entropy, arXiv:2410.10989,
section 3.2, makes its gradient in the forward too, for a loss that is known then). Only a head that is trained itself has to
see the logits again, since there tokens share a gradient.

Dimensions: `_N` predictions, `_H` hidden size, `_V` vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from learner.buffer_sizes import CHUNK_LOGITS


def token_logprobs(
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_ids_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk_logits: int | None = None,
    entropy_gradient: bool = False,
    likeliest_N: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log softmax(hidden W^T / temperature)[target], and the entropy of that distribution, both in nats and float32 [N].

    The log-probabilities are differentiable with respect to `hidden_NH` and, where it is trainable, `head_VH`, the
    entropies only with `entropy_gradient`, which costs another product with the head. Logits are accumulated in float32 (float64 inputs
    stay float64). Two buffers of `chunk_logits` are alive at once. Whether each target is the likeliest token is written into `likeliest_N`.
    """
    chunk_logits = CHUNK_LOGITS[hidden_NH.device.type] if chunk_logits is None else chunk_logits
    rows = max(1, min(chunk_logits // len(head_VH), len(hidden_NH)))
    return _ChunkedLogProbs.apply(hidden_NH, head_VH, target_ids_N, temperature, rows, entropy_gradient, likeliest_N)  # type: ignore[return-value]


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        head_VH: Tensor,
        target_ids_N: Tensor,
        temperature: float,
        rows: int,
        entropy_gradient: bool,
        likeliest_N: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if hidden_NH.dtype == torch.float64 else torch.float32
        logprob_N, entropy_N, normaliser_N = hidden_NH.new_empty((3, len(hidden_NH)), dtype=dtype)
        direction_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        entropy_direction_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] and entropy_gradient else None
        # Written again for every chunk, or the system would take each back, and clear the next.
        logits_buffer, probability_buffer = hidden_NH.new_empty((2, rows, len(head_VH)), dtype=dtype)
        for start in range(0, len(hidden_NH), rows):
            here = slice(start, start + rows)
            hidden, targets = hidden_NH[here], target_ids_N[here, None]
            logits = _logits(hidden, head_VH, temperature, out=logits_buffer[: len(hidden)])
            maximum = logits.amax(dim=-1)
            logits.sub_(maximum[:, None])
            probabilities = torch.exp(logits, out=probability_buffer[: len(hidden)])
            total = probabilities.sum(dim=-1)
            below_maximum = logits.gather(1, targets)[:, 0]
            logprob_N[here] = below_maximum - total.log()
            if likeliest_N is not None:
                likeliest_N[here] = below_maximum == 0
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
        ctx.temperature, ctx.rows, ctx.entropy_gradient = temperature, rows, entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy_N)
        return logprob_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        direction_NH, entropy_direction_NH, *for_head = ctx.saved_tensors
        gradient_N1, entropy_gradient_N1 = grad_outputs[0][:, None], grad_outputs[1][:, None] if ctx.entropy_gradient else None
        grad_hidden_NH = None
        if direction_NH is not None:
            grad_hidden_NH = direction_NH * gradient_N1
            if entropy_direction_NH is not None:
                grad_hidden_NH = grad_hidden_NH + entropy_direction_NH * entropy_gradient_N1
            grad_hidden_NH = grad_hidden_NH.to(direction_NH.dtype)
        grad_head_VH = _head_gradient(ctx, gradient_N1, entropy_gradient_N1, *for_head) if for_head else None
        return grad_hidden_NH, grad_head_VH, None, None, None, None, None


def _head_gradient(
    ctx: Any,
    gradient_N1: Tensor,
    entropy_gradient_N1: Tensor | None,
    hidden_NH: Tensor,
    head_VH: Tensor,
    target_ids_N: Tensor,
    normaliser_N: Tensor,
    entropy_N: Tensor,
) -> Tensor:
    grad_head_VH = torch.zeros_like(head_VH, dtype=normaliser_N.dtype)
    for start in range(0, len(hidden_NH), ctx.rows):
        here = slice(start, start + ctx.rows)
        hidden = hidden_NH[here]
        logprobs = _logits(hidden, head_VH, ctx.temperature, out=normaliser_N.new_empty((len(hidden), len(head_VH))))
        logprobs.sub_(normaliser_N[here, None])
        probabilities = logprobs.exp()
        ones = torch.ones_like(normaliser_N[here])
        slope = None
        if entropy_gradient_N1 is not None:
            slope = _entropy_slope(logprobs.mul_(probabilities), probabilities, ones, entropy_N[here], ctx.temperature)
            slope = slope * entropy_gradient_N1[here]
        grad_logits = _onehot_minus(probabilities, ones, target_ids_N[here, None], ctx.temperature).mul_(gradient_N1[here])
        grad_head_VH.addmm_((grad_logits if slope is None else grad_logits.add_(slope)).T, hidden.to(grad_logits.dtype))
    return grad_head_VH.to(head_VH.dtype)


def _entropy_slope(weighted: Tensor, probabilities: Tensor, total: Tensor, entropies: Tensor, temperature: float) -> Tensor:
    """dH / d logits = -p (log p + H) / temperature, in the place of `weighted`.

    With p = `probabilities` / `total` and `weighted` = `probabilities` x (log p + log `total`).
    """
    weighted.addcmul_(probabilities, (entropies - total.log())[:, None])
    return weighted.mul_((-1.0 / (total * temperature))[:, None])


def _onehot_minus(probabilities: Tensor, total: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """d logp(target) / d logits = (onehot(target) - probabilities / total) / temperature, in the place of `probabilities`."""
    probabilities.mul_((-1.0 / (total * temperature))[:, None])
    return probabilities.scatter_add_(1, targets, torch.full_like(targets, 1.0 / temperature, dtype=probabilities.dtype))


def _logits(hidden: Tensor, head_VH: Tensor, temperature: float, *, out: Tensor) -> Tensor:
    """Accumulated and kept in the type of `out`."""
    if hidden.dtype == out.dtype:
        torch.mm(hidden, head_VH.T, out=out)
    elif hidden.is_cuda:
        torch.mm(hidden, head_VH.T, out_dtype=out.dtype, out=out)
    else:
        torch.mm(hidden.to(out.dtype), head_VH.to(out.dtype).T, out=out)
    return out.div_(temperature) if temperature != 1.0 else out
