"""Hidden states → log-probabilities of chosen tokens, without ever holding the logits of more than one chunk.

The head is frozen, so a token's log-probability depends on its hidden state alone, and its gradient is one row per
token: W[token] - Σ p W. The forward pass makes that row while the chunk's softmax is at hand, and the backward pass
only scales it: two matrix products in all, where keeping (or making again) the logits takes three.

Shapes: H heads, i.e. distinct (position, temperature) pairs, D hidden, V words, M tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from woodshed.loss.products import linear

_CHUNK_CELLS = {"cpu": 2**22, "cuda": 2**27}
"""Logits held at once: 16 MiB in fp32 on a CPU, where more leaves the cache, and 512 MiB on a GPU."""


def token_logprobs(
    hidden_HD: Tensor,
    weight_VD: Tensor,
    temperature_H: Tensor,
    head_of_M: Tensor,
    token_M: Tensor,
    *,
    entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Return the log-probability of each token in fp32, and each head's entropy where it is asked for.

    Both carry a gradient to the hidden states and to nothing else.
    """
    found: tuple[Tensor, Tensor] = _Head.apply(hidden_HD, weight_VD, temperature_H, head_of_M, token_M, entropy)
    return found[0], found[1] if entropy else None


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_HD: Tensor, weight_VD: Tensor, temperature_H: Tensor, head_of_M: Tensor, token_M: Tensor,
        entropy: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        backward = ctx.needs_input_grad[0]
        rows = max(1, _CHUNK_CELLS[hidden_HD.device.type] // len(weight_VD))
        heads = len(hidden_HD)
        picked_M = hidden_HD.new_empty(len(token_M), dtype=torch.float32)
        log_sum_H = hidden_HD.new_empty(heads, dtype=torch.float32)
        entropy_H = hidden_HD.new_zeros(heads if entropy else 0, dtype=torch.float32)
        mean_HD = torch.empty_like(hidden_HD) if backward else hidden_HD.new_empty(0)
        entropy_HD = torch.empty_like(hidden_HD) if backward and entropy else hidden_HD.new_empty(0)
        order_M = head_of_M.argsort(stable=True)
        bounds = torch.searchsorted(head_of_M[order_M], torch.arange(0, heads + rows, rows, device=head_of_M.device))
        ends = bounds.tolist()
        for number, start in enumerate(range(0, heads, rows)):
            part = slice(start, min(start + rows, heads))
            logits_HV = linear(hidden_HD[part], weight_VD).float()
            if not bool((temperature_H[part] == 1).all()):
                logits_HV /= temperature_H[part, None]
            mine_M = order_M[ends[number] : ends[number + 1]]
            picked_M[mine_M] = logits_HV[head_of_M[mine_M] - start, token_M[mine_M]]
            top_H = logits_HV.amax(-1)
            if not backward and not entropy:
                log_sum_H[part] = logits_HV.logsumexp(-1)
                continue
            p_HV = torch.softmax(logits_HV, -1) if entropy else torch.softmax(logits_HV, -1, out=logits_HV)
            # The largest probability is 1 / Σ exp(logit - largest logit).
            log_sum_H[part] = top_H - p_HV.amax(-1).log()
            if backward:
                mean_HD[part] = linear(p_HV.to(weight_VD.dtype), weight_VD.t())
            if entropy:
                mean_logit_H = torch.linalg.vecdot(p_HV, logits_HV)
                entropy_H[part] = log_sum_H[part] - mean_logit_H
                if backward:  # ∇ entropy = -Σ p (logit - mean logit) W
                    uneven_HV = p_HV.mul_(logits_HV.sub_(mean_logit_H[:, None]))
                    entropy_HD[part] = linear(uneven_HV.neg_().to(weight_VD.dtype), weight_VD.t())
        if backward:
            ctx.save_for_backward(weight_VD, temperature_H, head_of_M, token_M, mean_HD, entropy_HD)
        return picked_M - log_sum_H[head_of_M], entropy_H

    @staticmethod
    def backward(ctx: Any, to_logprob_M: Tensor, to_entropy_H: Tensor) -> tuple[Tensor | None, ...]:
        weight_VD, temperature_H, head_of_M, token_M, mean_HD, entropy_HD = ctx.saved_tensors
        scale_M = (to_logprob_M / temperature_H[head_of_M]).to(weight_VD.dtype)
        total_H = torch.zeros(len(mean_HD), dtype=scale_M.dtype, device=scale_M.device).index_add(0, head_of_M, scale_M)
        gradient_HD = mean_HD * -total_H[:, None]
        gradient_HD.index_add_(0, head_of_M, weight_VD[token_M] * scale_M[:, None])
        if len(entropy_HD):
            gradient_HD += entropy_HD * (to_entropy_H / temperature_H).to(weight_VD.dtype)[:, None]
        return gradient_HD, None, None, None, None, None
